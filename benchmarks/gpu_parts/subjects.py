"""What is measured: models whose random numbers are made on the device, leaf by leaf, and inputs for them."""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common.subjects import observation
from flax import nnx

from pi05_progress.models.config import Pi05Config, named_config
from pi05_progress.models.observation import Observation
from pi05_progress.models.parameters import HEAD, load_parameters, parameter_paths
from pi05_progress.models.pi05 import Pi05
from pi05_progress.units.tokenizer import PADDED_LENGTHS

STEPS = 10
MIXING = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))  # as hash functions end: all bits depend on all


def inference_config(variant: str) -> Pi05Config:
    """The model that is asked for actions: bfloat16 at full size, ``tiny`` as it is."""
    return dataclasses.replace(named_config(variant), discrete_state=False)


def random_arrays(shapes: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Random numbers by path, in the shapes and dtypes given, made on the device by one program; none are zero.

    Zeros would hide differences between programs, and products with them cost a GPU less power. JAX's own generators
    took most of a minute to compile for all leaves on two busy cores, and memory beside what they make; this is one
    loop over each leaf's numbers, in place.
    """
    return _random(tuple((path, tuple(leaf.shape), jnp.dtype(leaf.dtype).name) for path, leaf in shapes.items()))


@functools.partial(jax.jit, static_argnums=0)
def _random(wanted: tuple[tuple[str, tuple[int, ...], str], ...]) -> dict[str, jax.Array]:
    return {path: _uniform(zlib.crc32(path.encode()), shape).astype(dtype) for path, shape, dtype in wanted}


def _uniform(seed: int, shape: tuple[int, ...]) -> jax.Array:
    """Numbers with mean 0 and the variance of a layer's initial weights: each one's index, well mixed."""
    bits = jax.lax.iota(jnp.uint32, math.prod(shape)) * np.uint32(0x9E3779B1) + np.uint32(seed)
    for shift, factor in MIXING:
        bits = (bits ^ (bits >> shift)) * np.uint32(factor)
    bound = (3 / max(shape[-3:], default=1)) ** 0.5
    return (((bits >> 8) + 0.5) * (bound * 2.0**-23) - bound).astype(jnp.float32).reshape(shape)


def device_model(config: Pi05Config) -> Pi05:
    """A model with random parameters in its compute dtype, its head's in float32."""
    model = nnx.eval_shape(lambda: Pi05(config, nnx.Rngs(0)))
    dtypes = {path: jnp.float32 if path.startswith(HEAD) else config.compute_dtype for path in parameter_paths(model)}
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, dtypes[path]) for path, leaf in parameter_paths(model).items()}
    load_parameters(model, random_arrays(shapes))
    return model


def padded(tokens: int) -> int:
    """The length that the node pads a prompt of so many tokens to."""
    return next(length for length in PADDED_LENGTHS if length >= tokens)


def seen(config: Pi05Config, cameras: int, tokens: int, length: int, rows: int = 1) -> Observation:
    """Random pictures and a prompt, on the host."""
    one = observation(config, tokens, length)
    keys = list(one.images)[:cameras]
    some = dataclasses.replace(
        one, images={k: one.images[k] for k in keys}, image_masks={k: one.image_masks[k] for k in keys}
    )
    return jax.tree.map(lambda x: np.repeat(x, rows, axis=0), some)
