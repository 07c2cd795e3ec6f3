"""The noise that actions start from, drawn as openpi's policy draws it."""

from __future__ import annotations

from functools import partial

import jax
from jaxtyping import Array, Float, Key


@partial(jax.jit, static_argnames="shape")
def next_noise(key: Key[Array, ""], shape: tuple[int, ...]) -> tuple[Key[Array, ""], Float[Array, "*shape"]]:
    """The key for the next call, and standard normal noise float32 for this one.

    openpi starts with ``jax.random.key(0)`` and splits once per call: the same seed gives the same noise here.
    """
    key, this = jax.random.split(key)
    return key, jax.random.normal(this, shape)
