"""Several optimiser steps in one call, on batches that are chosen from samples that lie on the device already."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Int32, Key

from ..loading.batch import Batch
from .sharding import batch_sharding
from .state import TrainState
from .step import Metrics, TrainStep

Steps = Callable[[TrainState, Key[Array, ""], Batch, Int32[Array, "n b"]], tuple[TrainState, Metrics]]


def make_resident_steps(step: TrainStep, mesh: Mesh) -> Steps:
    """A compiled function of the state (whose memory is taken over), the training key, all samples and the rows of them
    that make ``n`` batches; metrics have an axis of ``n``, and everything else is as ``step`` has it."""

    def chosen(samples: Batch, rows: Int32[Array, " b"]) -> Batch:
        return jax.lax.with_sharding_constraint(jax.tree.map(lambda all: all[rows], samples), batch_sharding(mesh))

    def steps(state: TrainState, key: Key[Array, ""], samples: Batch, rows: Int32[Array, "n b"]) -> tuple:
        if len(rows) == 1:
            state, metrics = step(state, key, chosen(samples, rows[0]))
            return state, jax.tree.map(lambda value: value[None], metrics)
        return jax.lax.scan(lambda before, own: step(before, key, chosen(samples, own)), state, rows)

    return jax.jit(steps, donate_argnums=0)
