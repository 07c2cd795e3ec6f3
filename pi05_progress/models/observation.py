"""What the model reads, as arrays that JAX can carry through compiled programs, batched on the first axis."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jaxtyping import Array, Bool, Float, Int, UInt8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Observation:
    """What the model reads: a pytree, batched ``b`` on the first axis of every array.

    Attributes:
        images: per key of ``IMAGE_KEYS`` uint8 in [0, 255] or float32 in [-1, 1].
        image_masks: whether the camera is there; where not, its picture means nothing.
        state: normalised proprioception. Pi0.5's network does not read it: it is part of the prompt, if anywhere.
        tokenized_prompt: token ids, 0 where padded.
        tokenized_prompt_mask: True where a token is not padding.
        progress: label in [0, 1]; only in training data.
        progress_mask: whether the label counts.
    """

    images: dict[str, UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]]
    image_masks: dict[str, Bool[Array, " b"]]
    state: Float[Array, "b s"]
    tokenized_prompt: Int[Array, "b l"]
    tokenized_prompt_mask: Bool[Array, "b l"]
    progress: Float[Array, " b"] | None = None
    progress_mask: Bool[Array, " b"] | None = None
