"""What is minimised: the loss of actions, and by their weights those of progress and positions; from one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pi05_progress.errors import UserError
from pi05_progress.models.observation import Observation
from pi05_progress.models.passes import Drawn, Losses
from pi05_progress.models.pi05 import Pi05


@dataclass(frozen=True)
class LossConfig:
    """What counts, and how much."""

    progress_weight: float = 0.1
    """Weight of the progress loss beside the action loss; useful from 0.05 to 0.2."""
    position_weight: float = 1.0
    """Weight of the loss of named positions (model.positions), which is their mean absolute error in units of 0.1 m."""
    ignore_padded_dims: bool = False
    """Leave dimensions of actions that the robot does not have out of the action loss (openpi counts them)."""
    ignore_padded_steps: bool = False
    """Leave steps beyond an episode's end, which repeat its last action, out of it (openpi counts them)."""
    flow_samples: int = 1
    """Noises and times per sample: pictures and prompt are computed once, the action expert for each of them."""

    def __post_init__(self) -> None:
        if self.flow_samples < 1:
            raise UserError(f"loss.flow_samples is {self.flow_samples}; expected at least 1")
        for name in ("progress_weight", "position_weight"):
            if not getattr(self, name) >= 0:
                raise UserError(f"loss.{name} is {getattr(self, name)}; expected at least 0")


def counted_steps(config: LossConfig, action_is_pad: Bool[Array, "b a"]) -> Bool[Array, "b a"]:
    """Which rows of action chunks count; the first row of a chunk always does."""
    return ~action_is_pad if config.ignore_padded_steps else jnp.ones_like(action_is_pad)


def combined[Loss: (float, Array)](
    config: LossConfig, action: Loss, progress: Loss | None, position: Loss | None
) -> Loss:
    """What is minimised, and what decides which checkpoint is the best; losses that are None do not count."""
    total = action
    for weight, loss in ((config.progress_weight, progress), (config.position_weight, position)):
        total = total if loss is None else total + weight * loss
    return total


class Shares(NamedTuple):
    """What every loss of a batch weighs in the batch's mean: each array sums to 1, or to 0 if nothing counts.

    They belong to the whole batch. A piece of it with its rows of these gives its part of the losses, and the pieces'
    losses and gradients add up to the batch's, however unevenly labels are spread over them.
    """

    action: Float[Array, "b a"]
    progress: Float[Array, " b"] | None
    position: Float[Array, "b n"] | None = None


def shares(
    config: LossConfig,
    action_weight: Float[Array, " b"],
    action_is_pad: Bool[Array, "b a"],
    progress_mask: Bool[Array, " b"] | None,
    positions_mask: Bool[Array, "b n"] | None = None,
) -> Shares:
    """Shares of a batch, as means over what counts."""
    action = _normalised(counted_steps(config, action_is_pad) * action_weight[:, None])
    masks = (progress_mask, positions_mask)
    return Shares(action, *(None if mask is None else _normalised(mask.astype(jnp.float32)) for mask in masks))


def _normalised(weights: Float[Array, "*b"]) -> Float[Array, "*b"]:
    total = weights.sum()
    return weights / jnp.where(total > 0, total, 1.0)


class Part(NamedTuple):
    """Rows of a batch as the loss reads them."""

    drawn: Drawn
    actions: Float[Array, "b a d"]
    shares: Shares


class Parts(NamedTuple):
    """The losses, and how far predicted positions are off, m; None without a head or without labels."""

    action: Float[Array, ""]
    progress: Float[Array, ""] | None
    position: Float[Array, ""] | None = None
    position_error: Float[Array, ""] | None = None


def total_loss(
    model: Pi05, part: Part, config: LossConfig, action_size: int | None = None
) -> tuple[Float[Array, ""], Parts]:
    """The part of a batch's loss that comes from some of its rows: what is minimised, and what it is made of.

    Without heads or labels it is the action loss itself. Only ``action_size`` of an action's numbers count; None counts
    all.
    """
    drawn, of = part.drawn, part.shares
    losses = model.losses(drawn.observation, part.actions, drawn.noise, drawn.time, action_size)
    action, progress, position, error = (losses.action * of.action).sum(), None, None, None
    if losses.progress is not None and of.progress is not None:
        progress = (losses.progress * of.progress).sum()
    if losses.position is not None and of.position is not None:
        position = (losses.position * of.position).sum()
        error = (position_errors(losses, drawn.observation) * of.position).sum()
    return combined(config, action, progress, position), Parts(action, progress, position, error)


def position_errors(losses: Losses, observation: Observation) -> Float[Array, "b n"]:
    """Distances of predicted positions from the labels, m; 0 where these do not count."""
    counts = observation.positions_mask[..., None]
    return jnp.linalg.norm(jnp.where(counts, losses.positions - observation.positions, 0.0), axis=-1)


def pieces[Tree](batch: Tree, count: int) -> Tree:
    """A batch cut into ``count`` pieces, stacked on a new first axis: every count-th row each.

    So every device, which has consecutive rows, finds its share of each piece among its own.
    """
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)
