"""Checkpoints of openpi and LeRobot, to this package's format and back."""
