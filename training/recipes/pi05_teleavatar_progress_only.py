"""The progress head alone, on a model that acts already: minutes, and the actions stay as they are."""

from __future__ import annotations

import dataclasses

from ..engine.optimizer import OptimizerConfig
from . import pi05_teleavatar
from .config import TrainConfig


def recipe() -> TrainConfig:
    """Everything but the head is kept bit for bit, in float32."""
    return dataclasses.replace(
        pi05_teleavatar.recipe(),
        name="pi05_teleavatar_progress_only",
        trained="head",
        optimizer=OptimizerConfig(schedule="cosine", peak_learning_rate=1e-3, end_learning_rate=1e-5, warmup_steps=50,
                                  decay_steps=1000, ema_decay=0.99),
        num_train_steps=1000,
        log_interval=20,
        validation_interval=200,
        save_interval=200,
        keep_period=None,
    )  # fmt: skip
