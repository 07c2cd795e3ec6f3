"""A small model from scratch that acts: it finds points in pictures, and is told where objects are while it learns.

What it needs to act, each of which alone did nothing: joints and grippers as numbers (state token), arms relative to
the present state and normalised per row, a tower that locates and a loss on objects' positions, many noises per
picture, and mistakes and pauses that are not imitated. Of the head camera's picture only the table is looked at, as
sharp as the simulation renders it at 0.15 of the real size (convert without ``--image-size``). No picture is cropped or
turned at random: where an object stands in the picture of a camera that does not move is where it is. Where hands are,
and where each thing is from each of them, is told by the robot's kinematics.

On a GPU: ``--data.resident --steps_per_dispatch=20``. On two cores in two stages: this, then the tower frozen, with
what it makes of the pictures kept, for many more steps: ``--checkpoint=BEST --freeze 'PaliGemma/img/.*'
--data.features=cache``.
"""

from __future__ import annotations

from pi05_progress.models.augmentation import AugmentationConfig
from pi05_progress.models.config import WORD_VOCABULARY, GemmaConfig, Pi05Config, PointsConfig, ProgressConfig

from ..engine.loss import LossConfig
from ..engine.optimizer import OptimizerConfig
from ..loading.config import DataConfig
from .config import TrainConfig

STEPS = 10_000
OBJECTS = ("red_cube", "green_cube", "blue_cube", "yellow_block", "purple_block")  # of all tasks of the simulation
TABLE = (26 / 162, 32 / 288, 98 / 162, 256 / 288)  # where things are in the head camera's picture
ATTENTION = {"depth": 3, "num_heads": 4, "num_kv_heads": 1, "head_dim": 32}


def recipe() -> TrainConfig:
    """For data at 5 frames a second: chunks reach 1.2 s ahead, as an expert's plan does."""
    model = Pi05Config(
        name="tiny_acting",
        siglip=None,
        vision="points",
        points=PointsConfig(width=32),
        positions=OBJECTS,
        positions_middle=(0.0, -0.45, -0.42),
        paligemma=GemmaConfig(width=96, mlp_dim=256, **ATTENTION),
        expert=GemmaConfig(width=96, mlp_dim=256, **ATTENTION),
        image_size=(72, 128),
        base_size=(72, 224),
        base_crop=TABLE,
        vocabulary=WORD_VOCABULARY,
        action_dim=16,
        action_horizon=7,
        max_token_len=32,
        discrete_state=False,
        state_token=True,
        hands=2,
        compute_dtype="float32",
        progress=ProgressConfig(kind="categorical", hidden=128),
        remat="none",
    )
    return TrainConfig(
        name="tiny_acting",
        model=model,
        from_scratch=True,
        tokenizer="words",
        data=DataConfig(delta_actions=True, actions_per_row=True),
        augmentation=AugmentationConfig(
            crop=1.0, rotation_deg=0.0, brightness=0.2, contrast=0.2, hue=0.02, white_balance=0.1, saturation=0.1,
            exposure=0.1, camera_dropout=0.03,
        ),
        optimizer=OptimizerConfig(schedule="cosine", peak_learning_rate=1e-3, end_learning_rate=1e-5, warmup_steps=200,
                                  decay_steps=STEPS, weight_decay=1e-4, ema_decay=0.999),
        loss=LossConfig(progress_weight=0.1, position_weight=1.0, flow_samples=8, ignore_padded_steps=True),
        batch_size=256,
        num_train_steps=STEPS,
        log_interval=200,
        validation_interval=1000,
        validation_stride=5,
        save_interval=1000,
        keep_period=None,
        best="action_error",
    )  # fmt: skip
