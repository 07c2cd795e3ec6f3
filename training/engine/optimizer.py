"""AdamW behind a clip of the gradient's norm, its learning rate over the steps, and the moving average of parameters.

Formulas and defaults are openpi's (its ``training/optimizer.py``), which are optax's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from pi05_progress.errors import UserError

ScheduleKind = Literal["cosine", "constant"]
Schedule = Callable[[Any], Any]  # from the number of steps that were taken to the learning rate of the next


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients change parameters."""

    schedule: ScheduleKind = "cosine"
    """After the warm-up: cosine goes down to end_learning_rate at decay_steps, constant stays at the peak."""
    peak_learning_rate: float = 2.5e-5
    """Learning rate at the end of the warm-up."""
    warmup_steps: int = 1000
    """Steps in which the learning rate rises linearly, from peak / (warmup_steps + 1)."""
    decay_steps: int = 30_000
    """Step, counted from the first one, at which a cosine reaches end_learning_rate; the warm-up is part of it."""
    end_learning_rate: float = 2.5e-6
    """Learning rate of a cosine from decay_steps on."""
    b1: float = 0.9
    """Decay of the gradient's moving average."""
    b2: float = 0.95
    """Decay of the moving average of its square."""
    eps: float = 1e-8
    """Added to the root of that average."""
    weight_decay: float = 1e-10
    """Share of every parameter that is taken off per step, times the learning rate."""
    clip_norm: float = 1.0
    """Gradients with a larger norm, over all trained parameters, are scaled down to it."""
    ema_decay: float | None = 0.99
    """Decay per step of the moving average of the parameters that is saved for use; None saves the parameters."""
    accumulation_steps: int = 1
    """Pieces into which a batch is cut, one after the other: less memory, the same step."""

    def __post_init__(self) -> None:
        for field, good, expected in (
            ("schedule", self.schedule in get_args(ScheduleKind), "cosine or constant"),
            ("peak_learning_rate", self.peak_learning_rate > 0, "more than 0"),
            ("end_learning_rate", self.end_learning_rate >= 0, "at least 0"),
            ("warmup_steps", self.warmup_steps >= 0, "at least 0"),
            ("decay_steps", self.schedule != "cosine" or self.decay_steps > self.warmup_steps,
             f"more than the warm-up alone takes, {self.warmup_steps}"),
            ("b1", 0 <= self.b1 < 1, "in [0, 1)"),
            ("b2", 0 <= self.b2 < 1, "in [0, 1)"),
            ("eps", self.eps > 0, "more than 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("clip_norm", self.clip_norm > 0, "more than 0"),
            ("ema_decay", self.ema_decay is None or 0 <= self.ema_decay < 1, "in [0, 1), or None"),
            ("accumulation_steps", self.accumulation_steps >= 1, "at least 1"),
        ):  # fmt: skip
            if not good:
                raise UserError(f"optimizer.{field} is {getattr(self, field)}; expected {expected}")


def learning_rate(config: OptimizerConfig) -> Schedule:
    """The learning rate of every step: linear from ``peak / (warmup_steps + 1)`` to the peak, then as configured.

    Step 0 is the first one. With a cosine, step ``s`` has ``end + (peak - end) (1 + cos(pi c)) / 2`` with
    ``c = (s - warmup_steps) / (decay_steps - warmup_steps)``, held at 1 from there on.
    """
    peak, warmup = config.peak_learning_rate, config.warmup_steps
    start = peak / (warmup + 1)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(start, peak, warmup, config.decay_steps, config.end_learning_rate)
    return optax.linear_schedule(start, peak, warmup) if warmup else optax.constant_schedule(peak)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by the norm of all gradients, then AdamW with the configuration's learning rate."""
    adam = optax.adamw(
        learning_rate(config), b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)


def moving_average(decay: float, average: Any, new: Any) -> Any:
    """``decay * average + (1 - decay) * new``, for every array of a pytree."""
    return jax.tree.map(lambda old, value: decay * old + (1 - decay) * value, average, new)


def global_norm(tree: Any) -> jax.Array:
    """Root of the sum of the squares of all numbers in a pytree, float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)))
