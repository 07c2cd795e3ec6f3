"""Adapters (LoRA) on both experts: fits a GPU of 24 GB."""

from __future__ import annotations

import dataclasses

from pi05_progress.models.config import pi05_lora

from . import pi05_teleavatar
from .config import TrainConfig


def recipe() -> TrainConfig:
    """As ``pi05_teleavatar``, but the experts' own weights stay as they are; no average of parameters is kept."""
    full = pi05_teleavatar.recipe()
    return dataclasses.replace(
        full,
        name="pi05_teleavatar_lora",
        model=dataclasses.replace(pi05_lora(), action_horizon=30, action_dim=32, discrete_state=False),
        trained="adapters",
        optimizer=dataclasses.replace(full.optimizer, ema_decay=None, accumulation_steps=8),
    )
