"""Gradients of a batch, computed at once or piece by piece: less memory, the same result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from pi05_progress.models.activations import BATCH_AXES

from .loss import Part, Parts, pieces
from .state import Parameters

Found = tuple[Float[Array, ""], Parts]  # what is minimised, and what it is made of
Losses = Callable[[Parameters, Parameters, Part], Found]
Gradients = Callable[[Parameters, Parameters, Part], tuple[Found, Parameters]]


def gradient_function(losses: Losses, mesh: Mesh, places: Any, accumulation_steps: int) -> Gradients:
    """A function of parameters, frozen parameters and a batch that gives its losses and their gradients."""
    by_piece = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def gradients(params: Parameters, frozen: Parameters, part: Part) -> tuple[Found, Parameters]:
        found, changes = jax.value_and_grad(losses, has_aux=True)(params, frozen, part)
        # Summed over devices straight into the pieces they are needed in.
        return found, jax.lax.with_sharding_constraint(changes, places)

    def accumulated(params: Parameters, frozen: Parameters, part: Part) -> tuple[Found, Parameters]:
        parts = jax.lax.with_sharding_constraint(pieces(part, accumulation_steps), by_piece)
        first = jax.eval_shape(gradients, params, frozen, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

        def add(total: tuple, piece: Part) -> tuple[tuple, None]:
            return jax.tree.map(jnp.add, total, gradients(params, frozen, piece)), None

        return jax.lax.scan(add, zeros, parts)[0]

    return gradients if accumulation_steps == 1 else accumulated
