"""Checkpoint folders: written, read, and brought in from other programs."""
