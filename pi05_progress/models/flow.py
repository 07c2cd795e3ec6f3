"""Noises and times of the flow: how they are drawn, in which steps a sampler goes, and how a time is embedded."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

PERIODS = (4e-3, 4.0)  # shortest and longest period of the time embedding


def time_embedding(time: Float[Array, " b"], width: int) -> Float[Array, "b e"]:
    """Sines, then cosines, of the time at ``width / 2`` periods, float32."""
    share = jnp.linspace(0.0, 1.0, width // 2, dtype=jnp.float32)
    period = PERIODS[0] * (PERIODS[1] / PERIODS[0]) ** share
    # Angles reach 1570 rad, where float32 has four digits left after the point: the order of the products matters.
    angle = time.astype(jnp.float32)[:, None] * (1.0 / period * 2 * jnp.pi)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def time_steps(count: int) -> np.ndarray:
    """The sampler's times, float32 (count,), from 1 downwards; accumulated in float32, as openpi's loop does."""
    return np.cumsum([1.0, *[-1.0 / count] * (count - 1)], dtype=np.float32)


@partial(jax.jit, static_argnames="shape")
def next_noise(key: Key[Array, ""], shape: tuple[int, ...]) -> tuple[Key[Array, ""], Float[Array, "*shape"]]:
    """The key for the next call, and standard normal noise float32 that actions start from for this one.

    openpi starts with ``jax.random.key(0)`` and splits once per call: the same seed gives the same noise here.
    """
    key, this = jax.random.split(key)
    return key, jax.random.normal(this, shape)


def drawn_times(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Times of training, float32 in (0, 1]: late ones, that is noise, are drawn more often."""
    return jax.random.beta(key, 1.5, 1, shape) * 0.999 + 0.001
