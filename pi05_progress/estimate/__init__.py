"""From the model's beliefs over time to progress that a person or a behaviour tree can act on."""
