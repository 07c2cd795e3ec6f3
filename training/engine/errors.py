"""What the engine refuses, and why."""

from __future__ import annotations

from pi05_progress.errors import UserError


class TrainingError(UserError):
    """A configuration of training, a state or a batch does not fit; the message says what would."""
