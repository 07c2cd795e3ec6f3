"""A small model from scratch, on a CPU: the whole way from recordings to a running robot in under an hour.

What makes it fit into that hour: pictures no taller than the cameras' own shape needs (16:9, so fewer black patches), a
prompt of one token per word and per value of the state, half of ``tiny``'s attention heads, and a progress loss that
weighs about as much as the actions'.
"""

from __future__ import annotations

import dataclasses

from pi05_progress.models.config import WORD_VOCABULARY, ProgressConfig, tiny

from ..engine.loss import LossConfig
from ..engine.optimizer import OptimizerConfig
from ..loading.config import DataConfig
from .config import TrainConfig

STEPS = 3400
HEADS = 4


def recipe() -> TrainConfig:
    """The configuration ``tiny`` with the state in the prompt, because a model from scratch needs it."""
    base = tiny()
    model = dataclasses.replace(
        base,
        paligemma=dataclasses.replace(base.paligemma, num_heads=HEADS),
        expert=dataclasses.replace(base.expert, num_heads=HEADS),
        image_size=(70, 112),
        vocabulary=WORD_VOCABULARY,
        max_token_len=48,
        progress=ProgressConfig(kind="categorical", hidden=128),
    )
    return TrainConfig(
        name="tiny_demo",
        model=model,
        tokenizer="words",
        data=DataConfig(wrong_instruction=0.05),
        optimizer=OptimizerConfig(schedule="cosine", peak_learning_rate=1e-3, end_learning_rate=1e-5, warmup_steps=100,
                                  decay_steps=STEPS, ema_decay=0.99),
        loss=LossConfig(progress_weight=0.5, ignore_padded_dims=True),
        batch_size=32,
        num_train_steps=STEPS,
        log_interval=20,
        validation_interval=500,
        validation_stride=30,
        save_interval=500,
        keep_period=None,
    )  # fmt: skip
