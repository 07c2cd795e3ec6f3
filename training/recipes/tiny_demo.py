"""A small model from scratch, trained on a CPU in under an hour.

What makes it fit into that hour is many small steps: 12 large patches per picture, which are enough to see what a hand
holds and where, a prompt of one token per word and per value of the state, half of ``tiny``'s attention heads, and
batches of 16. With 40 patches of 14 pixels and batches of 32 a step took five times as long, and the model had not
learnt to tell the first object from the second after half an hour.
"""

from __future__ import annotations

import dataclasses

from pi05_progress.models.config import WORD_VOCABULARY, ProgressConfig, tiny

from ..engine.loss import LossConfig
from ..engine.optimizer import OptimizerConfig
from .config import TrainConfig

STEPS = 12_000
HEADS = 4


def recipe() -> TrainConfig:
    """The configuration ``tiny`` with the state in the prompt, because a model from scratch needs it."""
    base = tiny()
    model = dataclasses.replace(
        base,
        paligemma=dataclasses.replace(base.paligemma, num_heads=HEADS),
        expert=dataclasses.replace(base.expert, num_heads=HEADS),
        siglip=dataclasses.replace(base.siglip, patch=28),
        image_size=(84, 112),
        vocabulary=WORD_VOCABULARY,
        max_token_len=44,
        progress=ProgressConfig(kind="categorical", hidden=128),
    )
    return TrainConfig(
        name="tiny_demo",
        model=model,
        from_scratch=True,
        tokenizer="words",
        optimizer=OptimizerConfig(schedule="cosine", peak_learning_rate=1e-3, end_learning_rate=1e-5, warmup_steps=200,
                                  decay_steps=STEPS, ema_decay=0.99),
        loss=LossConfig(progress_weight=0.5, ignore_padded_dims=True),
        batch_size=16,
        num_train_steps=STEPS,
        log_interval=100,
        validation_interval=1000,
        validation_stride=30,
        save_interval=1000,
        keep_period=None,
    )  # fmt: skip
