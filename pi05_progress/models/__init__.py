"""Pi0.5 in JAX: the same numbers as openpi's model, with a progress head on the prefix of the same forward pass."""
