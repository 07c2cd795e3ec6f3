"""A small model from scratch, on a CPU: the whole way from recordings to a running robot in under an hour."""

from __future__ import annotations

import dataclasses

from pi05_progress.models.config import tiny

from ..engine.optimizer import OptimizerConfig
from .config import TrainConfig


def recipe() -> TrainConfig:
    """The configuration ``tiny`` with the state in the prompt, because a model from scratch needs it."""
    return TrainConfig(
        name="tiny_demo",
        model=dataclasses.replace(tiny(), max_token_len=160),
        tokenizer="bytes",
        optimizer=OptimizerConfig(schedule="cosine", peak_learning_rate=1e-3, end_learning_rate=1e-5, warmup_steps=100,
                                  decay_steps=2000, ema_decay=0.99),
        batch_size=16,
        num_train_steps=2000,
        log_interval=20,
        validation_interval=250,
        save_interval=250,
        keep_period=None,
    )  # fmt: skip
