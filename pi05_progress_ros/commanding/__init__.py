"""What may be commanded, by whom, and how a chunk becomes commands."""
