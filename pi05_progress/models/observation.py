"""What the model reads, and what of it is refused before anything is compiled.

Shapes and dtypes are known even while a program is traced, so these are always checked. Values (ranges, NaN) are
checked where they can be seen: in arrays that are not traced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from ..observation import IMAGE_KEYS, ObservationError
from .config import Pi05Config

SLACK = 1e-3  # how far float pictures may leave [-1, 1], by rounding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Observation:
    """What the model reads: a pytree that compiled programs carry, batched ``b`` on the first axis of every array."""

    # per key of `IMAGE_KEYS` uint8 in [0, 255] or float32 in [-1, 1]
    images: dict[str, UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]]
    image_masks: dict[str, Bool[Array, " b"]]  # whether the camera is there; where not, its picture means nothing
    # normalised proprioception. Pi0.5's network does not read it: it is part of the prompt, if anywhere.
    state: Float[Array, "b s"]
    tokenized_prompt: Int[Array, "b l"]  # token ids, 0 where padded
    tokenized_prompt_mask: Bool[Array, "b l"]  # True where a token is not padding
    # the vision tower's output per camera, instead of pictures (``images`` is empty then): for a tower that is frozen
    image_tokens: dict[str, Float[Array, "b n w"]] | None = None
    # labels in m in the robot's base frame of the things that the model's configuration names; only in training data
    positions: Float[Array, "b n 3"] | None = None
    positions_mask: Bool[Array, "b n"] | None = None  # which of them count
    progress: Float[Array, " b"] | None = None  # label in [0, 1]; only in training data
    progress_mask: Bool[Array, " b"] | None = None  # whether the label counts
    # normalised positions of joints and grippers, padded with zeros, then places of hands in m if the model is told of
    # them; of models with a state token, None for others
    proprioception: Float[Array, "b s"] | None = None


def check_observation(config: Pi05Config, observation: Observation) -> None:
    """Refuse what the model cannot read, by an ``ObservationError`` that says what it is, and what was expected."""
    batch = _check_prompt(config, observation)
    tokens, images = observation.image_tokens, observation.images
    name, pictures = ("images", images) if tokens is None else ("image_tokens", tokens)
    if tokens is not None and images:
        _refuse("images and image_tokens are given", "give pictures, or what the vision tower has made of them")
    if not pictures or set(pictures) - set(IMAGE_KEYS):
        _refuse(
            f"{name} are of {', '.join(sorted(pictures)) or 'no camera'}",
            f"the model's cameras are {', '.join(IMAGE_KEYS)}: give those that are there, at least one",
        )
    for key, picture in pictures.items():
        if tokens is None:
            _check_image(f"images[{key}]", picture, batch)
        else:
            shape = (batch, config.tokens_per_image, config.paligemma.width)
            _check_array(f"image_tokens[{key}]", picture, shape, "float", "these are another model's")
        if key not in observation.image_masks:
            _refuse(f"image_masks: {key} is missing", "give one bool per sample for every camera")
        _check_array(f"image_masks[{key}]", observation.image_masks[key], (batch,), "bool")
    hint = "normalise it, then pad it with zeros (pad_to)"
    _check_array("state", observation.state, (batch, config.action_dim), "float", hint)
    _check_finite("state", observation.state)
    _check_proprioception(config, observation.proprioception, batch)
    if observation.progress is not None:
        _check_labels(observation, batch)
    if observation.positions is not None:
        _check_positions(config, observation, batch)


def check_actions(config: Pi05Config, name: str, actions: Any, batch: int) -> None:
    """Raise an ``ObservationError`` for actions, or noise in their place, of another horizon or width."""
    hint = "the horizon is the configuration's action_horizon; narrower actions are padded with zeros (pad_to)"
    _check_array(name, actions, (batch, config.action_horizon, config.action_dim), "float", hint)
    _check_finite(name, actions)


def check_time(time: Any, batch: int) -> None:
    """Raise an ``ObservationError`` for times of the flow outside (0, 1], or not one per sample."""
    _check_array("time", time, (batch,), "float")
    if (values := concrete(time)) is not None and not ((values > 0) & (values <= 1)).all():
        _refuse(f"time: values from {values.min()} to {values.max()}", "expected (0, 1], 1 is noise")


def concrete(array: Any) -> np.ndarray | None:
    """The values of an array; None while it is traced, or where another process holds a part of it."""
    if isinstance(array, jax.core.Tracer) or not getattr(array, "is_fully_addressable", True):
        return None
    return np.asarray(array)


def _check_prompt(config: Pi05Config, observation: Observation) -> int:
    """Check the prompt; returns the batch size."""
    tokens, mask = observation.tokenized_prompt, observation.tokenized_prompt_mask
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        _refuse(f"tokenized_prompt is {_form(tokens)}", "expected int32 (b, l)")
    batch, length = tokens.shape
    if not 0 < length <= config.max_token_len:
        _refuse(
            f"tokenized_prompt has {length} tokens",
            f"the model takes 1 to {config.max_token_len}; shorten the prompt, or cut it (PromptTokenizer)",
        )
    _check_array("tokenized_prompt_mask", mask, (batch, length), "bool")
    valid, ids = concrete(mask), concrete(tokens)
    empty = [] if valid is None else np.flatnonzero(~valid.any(axis=1)).tolist()
    if empty:
        _refuse(
            f"tokenized_prompt: no valid token in sample {', '.join(map(str, empty))}",
            "the prompt is empty: give an instruction",
        )
    if ids is not None and ((ids < 0) | (ids >= config.vocabulary)).any():
        _refuse(
            f"tokenized_prompt: ids from {ids.min()} to {ids.max()}",
            f"the vocabulary has {config.vocabulary}: this is another model's tokenizer",
        )
    return batch


def _check_image(name: str, image: Any, batch: int) -> None:
    known = image.dtype in (np.uint8, np.float32)
    if not known or image.ndim != 4 or image.shape[-1] != 3 or image.shape[0] != batch or not image.size:
        _refuse(
            f"{name} is {_form(image)}", f"expected uint8 in [0, 255] or float32 in [-1, 1], shape ({batch}, h, w, 3)"
        )
    if image.dtype == np.uint8 or (values := concrete(image)) is None or not values.size:
        return
    low, high = values.min(), values.max()  # NaN if there is one
    if not (low >= -1 - SLACK and high <= 1 + SLACK):
        _refuse(
            f"{name}: values from {low} to {high}",
            "expected float32 in [-1, 1]; pictures in [0, 255] are given as uint8",
        )


def _check_proprioception(config: Pi05Config, positions: Any, batch: int) -> None:
    if config.state_token and positions is not None:
        hint = "normalise it, pad it with zeros, and append the places of hands if the model is told of them"
        _check_array("proprioception", positions, (batch, config.proprioception_size), "float", hint)
        _check_finite("proprioception", positions)
    elif config.state_token:
        _refuse(
            "proprioception is missing",
            "the model has a state token (state_token): give the normalised positions of joints and grippers",
        )
    elif positions is not None:
        _refuse("proprioception is given", "the model has no state token (state_token) to read it: leave it out")


def _check_labels(observation: Observation, batch: int) -> None:
    mask = observation.progress_mask
    if mask is None:
        _refuse("progress_mask is missing", "labels come with a mask of those that count")
    _check_array("progress", observation.progress, (batch,), "float")
    _check_array("progress_mask", mask, (batch,), "bool")
    labels, counts = concrete(observation.progress), concrete(mask)
    if labels is not None and counts is not None and not ((labels >= 0) & (labels <= 1))[counts].all():
        _refuse(
            f"progress: labels from {labels[counts].min()} to {labels[counts].max()}",
            "expected [0, 1] wherever progress_mask is True",
        )


def _check_positions(config: Pi05Config, observation: Observation, batch: int) -> None:
    count, mask = len(config.positions), observation.positions_mask
    if not count:
        _refuse("positions are given", "the model's configuration names none (positions): leave them out")
    if mask is None:
        _refuse("positions_mask is missing", "labels come with a mask of those that count")
    _check_array("positions", observation.positions, (batch, count, 3), "float", "m, in the configuration's order")
    _check_array("positions_mask", mask, (batch, count), "bool")
    values, counts = concrete(observation.positions), concrete(mask)
    if values is not None and counts is not None:
        _check_finite("positions", np.where(counts[..., None], values, 0))


def _check_array(name: str, array: Any, shape: tuple[int, ...], kind: str, hint: str = "") -> None:
    wanted = {"bool": jnp.bool_, "float": jnp.floating}[kind]
    if tuple(array.shape) != shape or not jnp.issubdtype(array.dtype, wanted):
        _refuse(f"{name} is {_form(array)}", f"expected {kind}{list(shape)}", hint)


def _check_finite(name: str, array: Any) -> None:
    if (values := concrete(array)) is None or (finite := np.isfinite(np.asarray(values, np.float32))).all():
        return
    first = tuple(int(i) for i in np.argwhere(~finite)[0])
    _refuse(f"{name}{list(first)} is {values[first]}", "numbers must be finite: look where it comes from")


def _form(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _refuse(found: str, *remedies: str) -> NoReturn:
    raise ObservationError("; ".join([found, *filter(None, remedies)]))
