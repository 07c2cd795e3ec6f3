"""A run: its loop, checkpoints, logs and validation."""
