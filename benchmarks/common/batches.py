"""Made-up samples for training. Whoever imports this has put the checkout on the path: training/ is not installed."""

from __future__ import annotations

import numpy as np

from pi05_progress.models.config import Pi05Config
from pi05_progress.models.observation import Observation
from pi05_progress.observation import IMAGE_KEYS
from training.loading.batch import Batch


def made_up_batch(config: Pi05Config, rows: int, kept: bool = False) -> Batch:
    """Random samples, all labelled, with prompts of the longest length; ``kept``: with tokens instead of pictures."""
    rng = np.random.default_rng(0)
    length, places = config.max_token_len, (rows, len(config.positions))
    pictures = {key: rng.integers(0, 256, (rows, *config.view(key).size, 3), np.uint8) for key in IMAGE_KEYS}
    shape = (rows, config.tokens_per_image, config.paligemma.width)
    tokens = {key: rng.standard_normal(shape, np.float32) for key in IMAGE_KEYS}
    return Batch(
        observation=Observation(
            images={} if kept else pictures,
            image_tokens=tokens if kept else None,
            image_masks={key: np.ones(rows, bool) for key in IMAGE_KEYS},
            state=np.zeros((rows, config.action_dim), np.float32),
            tokenized_prompt=rng.integers(3, 259, (rows, length)).astype(np.int32),
            tokenized_prompt_mask=np.ones((rows, length), bool),
            progress=rng.uniform(0, 1, rows).astype(np.float32),
            progress_mask=np.ones(rows, bool),
            positions=rng.standard_normal((*places, 3), np.float32) if config.positions else None,
            positions_mask=np.ones(places, bool) if config.positions else None,
            proprioception=np.zeros((rows, config.proprioception_size), np.float32) if config.state_token else None,
        ),
        actions=rng.standard_normal((rows, config.action_horizon, config.action_dim), np.float32),
        action_is_pad=np.zeros((rows, config.action_horizon), bool),
        action_weight=np.ones(rows, np.float32),
        origin=np.zeros((rows, 3), np.int32),
    )
