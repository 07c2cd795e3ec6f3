"""Activations of a model that is trained: which of them are kept for the backward pass, and where they lie.

On several devices (a mesh set with ``jax.set_mesh`` whose axes are ``BATCH_AXES``) their batch axis is cut over all of
them. Anywhere else nothing is said, and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from .config import Remat

BATCH_AXES = ("batch", "fsdp")  # openpi's names


def constrain[Tree](activations: Tree) -> Tree:
    """Keep the first axis of all arrays cut over both axes of the mesh; unasked, the compiler may gather them."""
    if jax.sharding.get_abstract_mesh().axis_names != BATCH_AXES:
        return activations
    return jax.lax.with_sharding_constraint(activations, PartitionSpec(BATCH_AXES))


def recomputed[Block: Callable](block: Block, remat: Remat) -> Block:
    """The body of a scan over layers, of which the backward pass computes again what the configuration says."""
    if remat == "none":
        return block
    # Products without a batch axis are those with weights; attention's own, which grow with the square of the number
    # of tokens, are computed again.
    kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(block, prevent_cse=False, policy=kept)
