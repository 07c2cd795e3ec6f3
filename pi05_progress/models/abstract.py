"""A model that is only shapes: what its parameters are, before any of them is made or read."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
from flax import nnx

from .config import Pi05Config
from .parameters import parameter_paths
from .pi05 import Pi05


def abstract_model(config: Pi05Config) -> Pi05:
    """A model that is only shapes."""
    return nnx.eval_shape(lambda: Pi05(config, nnx.Rngs(0)))


@functools.lru_cache(maxsize=8)
def parameter_shapes(config: Pi05Config) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shapes of a model's parameters by path; not to be changed."""
    return parameter_paths(abstract_model(config))
