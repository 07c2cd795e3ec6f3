"""From parameters that are still on disk to a model that has them, whatever folder they lie in."""

from __future__ import annotations

import jax.numpy as jnp

from ..models.config import Pi05Config
from ..models.parameters import (
    ParameterMismatchError,
    abstract_model,
    check_parameters,
    load_parameters,
    parameter_shapes,
)
from ..models.pi05 import Pi05
from .checkpoint_error import CheckpointError
from .parameter_source import ParameterSource, Shardings, load_arrays


def load_model(
    config: Pi05Config,
    source: ParameterSource,
    *,
    dtype: str | None = None,
    shardings: Shardings | None = None,
) -> Pi05:
    """A model with a source's parameters; a ``CheckpointError`` if they do not fit it, or cannot be read."""
    model = abstract_model(config)
    check_fit(config, source)
    wanted = None if dtype is None else jnp.dtype(dtype)
    load_parameters(model, load_arrays(source, dtype=wanted, shardings=shardings))
    return model


def check_fit(config: Pi05Config, source: ParameterSource) -> None:
    """Raise a ``CheckpointError`` that lists what differs, unless a source has a model's parameters; none is read."""
    try:
        check_parameters(parameter_shapes(config), source.leaves)
    except ParameterMismatchError as error:
        raise CheckpointError(
            f"{source.where} does not fit the model configuration {config.name!r}: {error}"
        ) from error
