"""What the loader gives and a training step takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Bool, Float32, Int32

from pi05_progress.models.observation import Observation
from pi05_progress.observation import IMAGE_KEYS

OPTIONAL = ("progress", "progress_mask", "proprioception", "positions", "positions_mask")  # of an observation


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Samples side by side: a pytree, NumPy arrays as the loader gives it."""

    # pictures uint8 of the model's size for every camera of ``IMAGE_KEYS`` (black and masked where there is none),
    # prompts padded to the model's longest. ``progress`` (0 where it does not count) and ``progress_mask`` are there if
    # any data set of the run has labels. ``image_tokens`` stand in the place of pictures where a tower's are used
    observation: Observation
    actions: Float32[Array, "b horizon d"]  # chunks, normalised, padded with zeros to the model's dimensions
    # rows beyond the end of the episode, or of what was right to do, which repeat the last action before
    action_is_pad: Bool[Array, "b horizon"]
    # 1 where the actions count, 0 where they do not: failed episodes, frames that are not to be imitated, negatives of
    # progress, and rows that fill up the last batch of validation
    action_weight: Float32[Array, " b"]
    origin: Int32[Array, "b 3"]  # data set, episode and frame; -1 in rows that fill up the last batch of validation


def to_batch(stacked: Mapping[str, Any]) -> Batch:
    """Stacked samples as a batch."""
    pictures = {key: stacked[key] for key in IMAGE_KEYS}
    is_tokens = any(of.ndim == 3 for of in pictures.values())  # (b, n, w), of a vision tower, not (b, h, w, 3)
    observation = Observation(
        images={} if is_tokens else pictures,
        image_tokens=pictures if is_tokens else None,
        image_masks={key: stacked[f"{key}_mask"] for key in IMAGE_KEYS},
        state=stacked["state"],
        tokenized_prompt=stacked["tokens"],
        tokenized_prompt_mask=stacked["tokens_mask"],
        **{name: stacked[name] for name in OPTIONAL if name in stacked},
    )
    rest = ("actions", "action_is_pad", "action_weight", "origin")
    return Batch(observation, **{name: stacked[name] for name in rest})
