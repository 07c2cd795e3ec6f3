"""Full fine-tuning of Pi0.5 for the Teleavatar, actions and progress together."""

from __future__ import annotations

import dataclasses

from pi05_progress.models.config import pi05

from ..engine.optimizer import OptimizerConfig
from .config import TrainConfig


def recipe() -> TrainConfig:
    """openpi's recipe for LIBERO with the Teleavatar's horizon and a batch of 64."""
    return TrainConfig(
        name="pi05_teleavatar",
        model=dataclasses.replace(pi05(), action_horizon=30, action_dim=32, discrete_state=False),
        optimizer=OptimizerConfig(
            schedule="constant", peak_learning_rate=5e-5, warmup_steps=5000, clip_norm=1.0, ema_decay=0.999
        ),
        batch_size=64,
        num_train_steps=20_000,
    )
