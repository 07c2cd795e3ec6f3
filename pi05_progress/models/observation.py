"""What the model reads, as arrays that JAX can carry through compiled programs, batched on the first axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from ..observation import IMAGE_KEYS, ObservationError


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

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Observation:
        """From openpi's nested dictionary, with or without progress.

        Args:
            data: ``image`` and optional ``image_mask`` (dictionaries by camera), ``state``, ``tokenized_prompt``,
                ``tokenized_prompt_mask``, optional ``progress`` (b,) or (b, 1) and ``progress_mask``. A missing image
                mask means that the camera is there; a label without a mask counts.

        Values are looked at where the model's configuration is known (``models/input_checks.py``).

        Raises:
            ObservationError: a key is missing, a camera is missing or of another dtype, or batch sizes differ.
        """
        needed = ("image", "state", "tokenized_prompt", "tokenized_prompt_mask")
        if missing := [key for key in needed if data.get(key) is None]:
            raise ObservationError(f"observation lacks {', '.join(missing)}; it has {', '.join(sorted(data))}")
        images = {key: _image(data["image"], key) for key in IMAGE_KEYS}
        batch = images[IMAGE_KEYS[0]].shape[0]
        masks = data.get("image_mask") or {}
        progress = data.get("progress")
        mask = data.get("progress_mask")
        given = {f"image {key}": image for key, image in images.items()}
        given |= {f"image_mask {key}": masks[key] for key in IMAGE_KEYS if key in masks}
        given |= {key: data[key] for key in ("state", "tokenized_prompt", "tokenized_prompt_mask")}
        given |= {k: v for k, v in {"progress": progress, "progress_mask": mask}.items() if v is not None}
        for key, array in given.items():
            if array.shape[:1] != (batch,):
                raise ObservationError(
                    f"{key} has shape {list(array.shape)}; the pictures are a batch of {batch}, the first axis of all"
                )
        if progress is not None:
            progress = progress.reshape(batch)
            mask = np.ones(batch, bool) if mask is None else mask.reshape(batch)
        return cls(
            images=images,
            image_masks={key: masks.get(key, np.ones(batch, bool)) for key in IMAGE_KEYS},
            state=data["state"],
            tokenized_prompt=data["tokenized_prompt"],
            tokenized_prompt_mask=data["tokenized_prompt_mask"],
            progress=progress,
            progress_mask=mask if progress is not None else None,
        )


def _image(images: Mapping[str, Any], key: str) -> Any:
    if key not in images:
        raise ObservationError(f"image {key} is missing; there are {', '.join(sorted(images))}")
    image = images[key]
    if image.dtype not in (np.uint8, np.float32) or image.ndim != 4 or image.shape[-1] != 3:
        raise ObservationError(
            f"image {key} is {image.dtype}{list(image.shape)}; expected uint8 or float32 of shape (b, h, w, 3)"
        )
    return image
