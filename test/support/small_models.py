"""A model small enough to compile in about a second, with random parameters and inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pi05_progress.models.config import GemmaConfig, LoraConfig, Pi05Config, ProgressConfig, SiglipConfig
from pi05_progress.models.observation import Observation
from pi05_progress.models.parameters import load_parameters, parameter_paths
from pi05_progress.models.pi05 import Pi05
from pi05_progress.observation import IMAGE_KEYS

EXPERT = GemmaConfig(width=8, depth=2, mlp_dim=12, num_heads=2, num_kv_heads=1, head_dim=8)
SMALL = Pi05Config(
    name="small",
    siglip=SiglipConfig(width=8, depth=1, mlp_dim=12, num_heads=2),
    paligemma=dataclasses.replace(EXPERT, width=12, mlp_dim=16),
    expert=EXPERT,
    image_size=(28, 28),
    vocabulary=259,
    action_dim=5,
    action_horizon=3,
    max_token_len=40,
    compute_dtype="float32",
    progress=ProgressConfig(hidden=6, bins=10),
    remat="none",
)
ADAPTED = dataclasses.replace(
    SMALL,
    name="small_lora",
    paligemma=SMALL.paligemma.with_lora(LoraConfig(2, 6.0)),
    expert=SMALL.expert.with_lora(LoraConfig(3, 6.0)),
)
# Code runs once: compiling is all the time it takes, and unoptimised machine code takes half of that.
QUICK = {"xla_backend_optimization_level": 0}


def with_random_parameters(make, seed=0, dtype=jnp.float32):
    """The module ``make(rngs)`` with random parameters; none is zero, as some of a new model's are, and hide things."""
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    shapes = {path: value.shape for path, value in parameter_paths(module).items()}
    values = {path: 0.4 * rng.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    load_parameters(module, {path: jnp.asarray(value, dtype) for path, value in values.items()})
    return module


def random_model(config, seed=0, dtype=jnp.float32):
    """A model with random parameters, stored in ``dtype``."""
    return with_random_parameters(lambda rngs: Pi05(config, rngs), seed, dtype)


def random_observation(config, batch=2, length=8, valid=None, seed=1, cameras=IMAGE_KEYS, labels=None):
    """Pictures, and prompts of ``length`` tokens of which the first ``valid`` count (all by default)."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, config.vocabulary, (batch, length)).astype(np.int32)
    mask = np.arange(length)[None] < np.broadcast_to(length if valid is None else valid, (batch,))[:, None]
    return Observation(
        images={key: rng.integers(0, 256, (batch, *config.view(key).size, 3), np.uint8) for key in cameras},
        image_masks={key: np.ones(batch, bool) for key in cameras},
        state=rng.standard_normal((batch, config.action_dim), np.float32),
        tokenized_prompt=np.where(mask, tokens, 0),
        tokenized_prompt_mask=mask,
        progress=None if labels is None else np.asarray(labels, np.float32),
        progress_mask=None if labels is None else np.ones(batch, bool),
        proprioception=rng.standard_normal((batch, config.proprioception_size), np.float32)
        if config.state_token
        else None,
    )


def random_actions(config, batch=2, seed=2):
    """Float32 (b, a, d)."""
    shape = (batch, config.action_horizon, config.action_dim)
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def compiled(model, function, options=QUICK):
    """``function(model, *arguments)`` as a compiled function of the arguments."""
    graph, parameters = nnx.split(model)
    program = jax.jit(lambda p, *given: function(nnx.merge(graph, p), *given), compiler_options=options)
    return lambda *given: program(parameters, *given)
