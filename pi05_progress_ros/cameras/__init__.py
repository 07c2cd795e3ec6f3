"""From what a profile names to the newest picture of each camera; the rest of the node does not know how it came."""
