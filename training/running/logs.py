"""Where metrics go: CSV and TensorBoard always, Weights & Biases if asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LogConfig:
    """Logs beside CSV and TensorBoard, which are always written."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases. offline writes files only, for `wandb sync` later; online needs `wandb login`."""
    project: str = "pi05_progress"
    """Of Weights & Biases."""
