"""The vision tower of a run that leaves it as it is."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pi05_progress.errors import UserError
from pi05_progress.files.fingerprint import fingerprint, fingerprint_of_arrays
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.observation import Observation

from ..loading.features import Tower
from .state import TrainState, with_parameters
from .step import VISION


def frozen_tower(model: Pi05Config, state: TrainState) -> Tower:
    """The tower of a state, refused if it is trained; before the first step, which takes over the state's memory."""
    if any(path.startswith(VISION) for path in state.params):
        raise UserError(
            "--data.features keeps what the vision tower makes of pictures, so the tower must not be trained; freeze "
            f"it with --freeze '{VISION}.*', or train on pictures"
        )
    parameters = {**state.frozen, **state.params}
    own = {path: np.asarray(leaf, np.float32) for path, leaf in parameters.items() if path.startswith(VISION)}
    sizes = {
        field: repr(getattr(model, field)) for field in ("vision", "siglip", "points", "image_size", "compute_dtype")
    }

    @jax.jit
    def tokens(parameters: Mapping[str, Array], images: Mapping[str, Array]) -> Mapping[str, Array]:
        numbers = jnp.zeros((len(next(iter(images.values()))), 1))  # the tower reads pictures alone
        there = dict.fromkeys(images, numbers[:, 0] == 0)
        observation = Observation(dict(images), there, numbers, numbers.astype(int), numbers == 0)
        return with_parameters(model, parameters).image_tokens(observation)

    return Tower(
        fingerprint({"parameters": fingerprint_of_arrays(own), **sizes}),
        (model.tokens_per_image, model.paligemma.width),
        jnp.dtype(model.compute_dtype),
        lambda images: tokens(parameters, images),
    )
