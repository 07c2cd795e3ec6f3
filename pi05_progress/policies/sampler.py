"""The model as compiled programs: what is computed ahead of a request or left out of it, and the switches for that.

It speaks the model's units; pictures, prompts and robots are the policy's business.
"""

from __future__ import annotations

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..models.config import ModelConfigError, Pi05Config
from ..models.flow import time_steps
from ..models.gemma import Modulation
from ..models.observation import Observation
from ..models.parameters import abstract_model, cast, load_parameters, parameter_paths
from ..models.pi05 import Pi05, PrefixPass, Sample
from ..policy import ALL_ON, Dtype, InferenceOptions


def inference_dtype(config: Pi05Config, dtype: Dtype | None = None) -> Dtype:
    """The dtype to compute and to keep parameters in; None takes what the configuration computes in."""
    if dtype not in (None, *get_args(Dtype)):
        raise ModelConfigError(f"dtype {dtype!r} is unknown; known: {', '.join(get_args(Dtype))}")
    return dtype or config.compute_dtype


def for_inference(model: Pi05, dtype: Dtype | None = None) -> Pi05:
    """A model that computes in a dtype, its parameters cast to it as openpi casts them; the head stays float32.

    Args:
        model: is left as it is; parameters that have the dtype already are shared with it, not copied.
        dtype: None takes what the model's configuration computes in.
    """
    config = dataclasses.replace(model.config, compute_dtype=inference_dtype(model.config, dtype))
    result = abstract_model(config)
    load_parameters(result, parameter_paths(model))
    cast(result, jnp.dtype(config.compute_dtype))
    return result


class Sampler:
    """Actions and progress from observations; compiled once for every set of cameras and prompt length it meets.

    ``programs`` has these pairs in order. How prompts and cameras come, of the options, is up to the caller.
    """

    def __init__(self, model: Pi05, num_steps: int = 10, options: InferenceOptions = ALL_ON) -> None:
        self.model, self.programs = model, list[tuple[tuple[str, ...], int]]()
        graph, self._parameters = nnx.split(model)
        self._options = options
        self._modulations: Modulation | None = None
        self._steps = list(time_steps(num_steps))
        if options.precomputed_modulations:
            self._modulations = jax.jit(lambda p: nnx.merge(graph, p).step_modulations(num_steps))(self._parameters)
            self._steps = [jax.tree.map(lambda x, i=i: x[i], self._modulations) for i in range(num_steps)]

        def note(observation: Observation) -> None:  # runs while a program is traced, once for each
            self.programs.append((tuple(sorted(observation.images)), observation.tokenized_prompt.shape[1]))

        def sample(p: nnx.State, modulations: Modulation | None, observation: Observation, noise: Array) -> Sample:
            note(observation)
            model = nnx.merge(graph, p)
            return model.sample(observation, noise=noise, num_steps=num_steps, modulations=modulations)

        def prefix(p: nnx.State, observation: Observation) -> PrefixPass:
            note(observation)
            return nnx.merge(graph, p).prefix_pass(observation)

        def step(p: nnx.State, prefix: PrefixPass, at: Array | Modulation, x_t: Array) -> Array:
            return nnx.merge(graph, p).denoise_step(prefix, x_t, at, num_steps)

        donated = 3 if options.donated_noise else ()
        self._sample, self._step = jax.jit(sample, donate_argnums=donated), jax.jit(step, donate_argnums=donated)
        self._prefix, self._belief = jax.jit(prefix), jax.jit(lambda p, prefix: nnx.merge(graph, p).belief(prefix))

    def __call__(self, observation: Observation, noise: Float[Array, "b a d"] | np.ndarray) -> Sample:
        """Normalised actions and the belief, float32; JAX may still be at work when this returns.

        Args:
            observation: on the host or on the device.
            noise: where denoising starts; a JAX array is used up unless ``donated_noise`` is off.
        """
        if self._options.one_program:
            return self._sample(self._parameters, self._modulations, observation, noise)
        prefix = self._prefix(self._parameters, observation)
        actions = noise
        for at in self._steps:
            actions = self._step(self._parameters, prefix, at, actions)
        return Sample(actions, self._belief(self._parameters, prefix))
