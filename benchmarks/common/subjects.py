"""What the benchmark of inference measures: models with random parameters, and inputs for them."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx

from pi05_progress.models.config import Pi05Config, SiglipConfig, pi05
from pi05_progress.models.gemma import KVCache
from pi05_progress.models.observation import Observation
from pi05_progress.models.parameters import HEAD, load_parameters, parameter_paths
from pi05_progress.models.pi05 import Pi05, PrefixPass
from pi05_progress.observation import IMAGE_KEYS

CHUNK = 2**24  # random numbers at a time


def random_model(config: Pi05Config, seed: int = 0) -> Pi05:
    """A model with random parameters in its compute dtype (the head's float32), made without a copy in another dtype.

    None is zero, as some of a new model's are: differences between programs would be invisible with those.
    """
    model = nnx.eval_shape(lambda: Pi05(config, nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    parameters = {}
    for path, leaf in parameter_paths(model).items():
        values = np.empty(leaf.size, np.float32 if path.startswith(HEAD) else jnp.dtype(config.compute_dtype))
        for start in range(0, leaf.size, CHUNK):
            piece = values[start : start + CHUNK]
            piece[:] = rng.standard_normal(len(piece), np.float32) * max(leaf.shape[-3:]) ** -0.5
        parameters[path] = jnp.asarray(values.reshape(leaf.shape))
    load_parameters(model, parameters)
    return model


def full_expert(config: Pi05Config, dtype: str) -> Pi05Config:
    """The action expert in full size, beside a trunk that is next to nothing: of that, it sees keys and values only."""
    full = pi05()
    trunk = dataclasses.replace(full.paligemma, width=32, mlp_dim=32)
    vision = SiglipConfig(width=32, depth=1, mlp_dim=32, num_heads=2)
    return dataclasses.replace(
        config, siglip=vision, paligemma=trunk, expert=full.expert, vocabulary=300, compute_dtype=dtype
    )


def observation(config: Pi05Config, tokens: int, length: int) -> Observation:
    """Three random pictures and a prompt of some tokens padded to a length."""
    rng = np.random.default_rng(1)
    images = {key: rng.integers(0, 256, (1, *config.view(key).size, 3), np.uint8) for key in IMAGE_KEYS}
    prompt = np.zeros((1, length), np.int32)
    prompt[:, :tokens] = rng.integers(3, 259, tokens)
    masks = {key: np.ones(1, bool) for key in images}
    return Observation(images, masks, np.zeros((1, 32), np.float32), prompt, (np.arange(length) < tokens)[None])


def prefix_of(config: Pi05Config, length: int) -> PrefixPass:
    """Random keys and values, as of a prefix of so many tokens, all valid."""
    rng, c = np.random.default_rng(4), config.paligemma
    shape = (c.depth, 1, length, c.num_kv_heads, c.head_dim)
    dtype = jnp.dtype(config.compute_dtype)
    k, v = (jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for _ in range(2))
    return PrefixPass(jnp.zeros((1, length, c.width), dtype), jnp.ones((1, length), bool), KVCache(k, v))


def noise(config: Pi05Config) -> np.ndarray:
    """Where denoising starts, float32."""
    return np.random.default_rng(2).standard_normal((1, config.action_horizon, config.action_dim), np.float32)


def step_weights(model: Pi05) -> tuple[int, int]:
    """Bytes of the parameters that a denoising step needs: all of them, and those that do more than tell the time.

    The latter are without the time MLP and the layers that make adaRMS modulations.
    """
    sizes = {path: leaf.size * leaf.dtype.itemsize for path, leaf in parameter_paths(model).items()}
    expert = {
        path
        for path in sizes
        if path.startswith(("action_", "time_mlp_"))
        or (path.startswith("PaliGemma/llm/") and any(part.endswith("_1") for part in path.split("/")))
    }
    time_only = {path for path in expert if path.startswith("time_mlp_") or "norm_1/Dense_0" in path}
    return sum(sizes[path] for path in expert), sum(sizes[path] for path in expert - time_only)
