"""The data types everything else speaks: what the robot sensed, what the model reads, what the policy answers.

messages, data set rows, requests -> ``RobotFrame`` -> ``Observation`` (model's units) -> ``PolicyOutput``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from .image_keys import IMAGE_KEYS


class ObservationError(ValueError):
    """An observation lacks something or has another shape or type; the message names the key."""


@dataclass(frozen=True)
class RobotFrame:
    """What one robot sensed at about one time, in its own units and sizes.

    Attributes:
        images: per camera key (e.g. ``head_camera``) uint8 (h, w, 3) RGB, already cropped and turned.
        state: float32 (48,): 16 positions, 16 velocities, 16 efforts, see ``robots/teleavatar.py``.
        stamps_ns: per input (camera keys, ``left_arm``, ...) when it was taken, ns of
            the sender's clock since its epoch.
        absent: inputs that the robot does not have; their entries of ``state`` are 0.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    stamps_ns: Mapping[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse pictures of another type or shape.

        Raises:
            ObservationError: the message names the camera.
        """
        for key, image in self.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
                raise ObservationError(
                    f"picture {key} is {image.dtype}{list(image.shape)}; expected uint8 in [0, 255], shape (h, w, 3)"
                )


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


@dataclass(frozen=True)
class PolicyOutput:
    """What the policy believes and would do, for one observation.

    Attributes:
        actions: float32 (horizon, 16): arm joint targets in rad, gripper efforts in N m, absolute.
        progress: the model's raw belief in [0, 1], or None without a head. Test with ``is None``: 0.0 is a value.
        progress_interval: (lower, upper) of the belief at ``confidence_level``, or None.
        progress_belief: float32 (bins,) probabilities over equal bins of [0, 1], or None if the head has no bins.
        timing: ms per part (``transforms``, ``model``), measured after the device is done.
        confidence_level: nominal probability that the interval holds the truth.
    """

    actions: np.ndarray
    progress: float | None
    progress_interval: tuple[float, float] | None = None
    progress_belief: np.ndarray | None = None
    timing: Mapping[str, float] = field(default_factory=dict)
    confidence_level: float = 0.9
