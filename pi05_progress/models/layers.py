"""The few building blocks both towers share, and which of their activations training keeps, and where.

Parameters are stored in one dtype and used in another. On several devices (a mesh set with ``jax.set_mesh`` whose axes
are ``BATCH_AXES``) the batch axis of activations is cut over all of them; anywhere else nothing is said, and nothing
changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array

from .config import Remat

Shape = tuple[int, ...]
BATCH_AXES = ("batch", "fsdp")  # openpi's names


def normal_init(rngs: nnx.Rngs, shape: Shape, fan_in: int) -> Array:
    """Float32 normal numbers with variance 1 / fan_in."""
    return jax.random.normal(rngs.params(), shape, jnp.float32) * fan_in**-0.5


class Linear(nnx.Module):
    """``x @ kernel + bias``; openpi's Dense and DenseGeneral in one.

    Shapes are those of the contracted axes, of the new ones, and of leading axes of both parameters, for layers that
    are scanned. Input and parameters are cast to ``dtype``; None leaves promotion to JAX.
    """

    def __init__(
        self,
        inputs: Shape | int,
        outputs: Shape | int,
        *,
        rngs: nnx.Rngs,
        stack: Shape = (),
        dtype: jnp.dtype | None = None,
        zero: bool = False,
    ) -> None:
        ins = (inputs,) if isinstance(inputs, int) else inputs
        outs = (outputs,) if isinstance(outputs, int) else outputs
        shape = (*stack, *ins, *outs)
        self.kernel = nnx.Param(jnp.zeros(shape) if zero else normal_init(rngs, shape, math.prod(ins)))
        self.bias = nnx.Param(jnp.zeros((*stack, *outs)))
        self._contracted = len(ins)
        self._dtype = dtype

    def __call__(self, x: Array) -> Array:
        """Contract the last axes of ``x``."""
        kernel, bias = self.kernel[...], self.bias[...]
        if self._dtype is not None:
            x, kernel, bias = (a.astype(self._dtype) for a in (x, kernel, bias))
        return jnp.tensordot(x, kernel, self._contracted) + bias


def constrain[Tree](activations: Tree) -> Tree:
    """Keep the first axis of all arrays cut over both axes of the mesh; unasked, the compiler may gather them."""
    if jax.sharding.get_abstract_mesh().axis_names != BATCH_AXES:
        return activations
    return jax.lax.with_sharding_constraint(activations, PartitionSpec(BATCH_AXES))


def repeated(x: Array, rows: int) -> Array:
    """Every row of the first axis as often, one after the other, as gives so many rows."""
    return x if x.shape[0] == rows else jnp.repeat(x, rows // x.shape[0], axis=0)


def recomputed[Block: Callable](block: Block, remat: Remat) -> Block:
    """The body of a scan over layers, of which the backward pass computes again what the configuration says."""
    if remat == "none":
        return block
    # Products without a batch axis are those with weights; attention's own, which grow with the square of the number
    # of tokens, are computed again.
    kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(block, prevent_cse=False, policy=kept)
