"""What is minimised: ``action_loss + progress_weight * progress_loss``, both from one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import TrainingError


@dataclass(frozen=True)
class LossConfig:
    """What counts, and how much."""

    progress_weight: float = 0.1
    """Weight of the progress loss beside the action loss; useful from 0.05 to 0.2."""
    ignore_padded_dims: bool = False
    """Leave dimensions of actions that the robot does not have out of the action loss (openpi counts them)."""
    ignore_padded_steps: bool = False
    """Leave steps beyond an episode's end, which repeat its last action, out of it (openpi counts them)."""

    def __post_init__(self) -> None:
        if not self.progress_weight >= 0:
            raise TrainingError(f"loss.progress_weight is {self.progress_weight}; expected at least 0")
