"""What the engine refuses, and why."""

from __future__ import annotations


class TrainingError(ValueError):
    """A configuration of training, a state or a batch does not fit; the message says what would."""
