"""The recurrent network in Flax, and its training; ``estimate/temporal.py`` computes the same in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from pi05_progress.estimate.temporal import LONGEST_RATIO, POINTS, RATIOS, standardised
from pi05_progress.models.progress import hl_gauss

from .playing import Truth

HIDDEN, LEARNING_RATE = 64, 3e-3


class Network(nnx.Module):
    """A GRU, one hidden layer, and the logits of all that is asked.

    With ``instructions`` the last logit is that something else is asked for than what is seen.
    """

    def __init__(self, reads: int, stages: int, rngs: nnx.Rngs, instructions: bool = False) -> None:
        self.instructions = instructions
        self.cell = nnx.GRUCell(reads, HIDDEN, rngs=rngs)
        self.middle = nnx.Linear(HIDDEN, HIDDEN, rngs=rngs)
        self.output = nnx.Linear(HIDDEN, POINTS + RATIOS + stages + 2 + instructions, rngs=rngs)

    def __call__(self, inputs: Float[Array, "b t i"]) -> Float[Array, "b t o"]:
        """Logits after each of the standardised inputs."""
        start = jnp.zeros((inputs.shape[0], HIDDEN))
        _, states = jax.lax.scan(self.cell, start, inputs.swapaxes(0, 1))
        return self.output(nnx.swish(self.middle(states.swapaxes(0, 1))))

    def arrays(self) -> dict[str, np.ndarray]:
        """Its parameters by their names in the head's file."""
        layers = {"input": self.cell.dense_i, "hidden": self.cell.dense_h, "middle": self.middle, "output": self.output}
        found = {f"{name}/kernel": np.asarray(layer.kernel[...]) for name, layer in layers.items()}
        return found | {f"{n}/bias": np.asarray(of.bias[...]) for n, of in layers.items() if n != "hidden"}


def loss(network: Network, inputs: Array, truth: Truth) -> Array:
    """Cross entropies of all outputs, each where its truth is known."""
    logits, misfit = network(inputs), 0.0
    if network.instructions:
        logits, judged = logits[..., :-1], logits[..., -1]
        misfit = optax.sigmoid_binary_cross_entropy(judged, truth.refused).mean()
    points, ratios, stages, two = jnp.split(logits, [POINTS, POINTS + RATIOS, logits.shape[-1] - 2], axis=-1)
    progress, ratio, succeeds = (jnp.isfinite(of) for of in (truth.progress, truth.ratio, truth.succeeds))
    parts = [
        (_soft(points, truth.progress, 0.02), progress, 1.0),
        (_soft(ratios, truth.ratio / LONGEST_RATIO, 0.03), ratio, 0.5),
        (optax.softmax_cross_entropy_with_integer_labels(stages, jnp.maximum(truth.stage, 0)), truth.stage >= 0, 0.3),
        (optax.sigmoid_binary_cross_entropy(two[..., 0], truth.done), progress, 0.3),
        (optax.sigmoid_binary_cross_entropy(two[..., 1], jnp.nan_to_num(truth.succeeds)), succeeds, 0.3),
    ]
    return misfit + sum(w * jnp.where(of, value, 0).sum() / jnp.maximum(of.sum(), 1) for value, of, w in parts)


def _soft(logits: Array, target: Array, sigma: float) -> Array:
    """Cross entropy with a normal distribution around the target, over points of [0, 1] with half cells at its ends."""
    count = logits.shape[-1]
    target = jnp.clip(jnp.nan_to_num(target), 0, 1) * (count - 1) / count + 0.5 / count
    soft = hl_gauss(target.reshape(-1), count, sigma).reshape(logits.shape)
    return -(soft * jax.nn.log_softmax(logits)).sum(axis=-1)


def train(
    network: Network, arrays: Mapping[str, np.ndarray], draw: Callable[[], tuple[np.ndarray, Truth]], steps: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> float:  # fmt: skip
    """Fit a network to courses that are drawn; returns the mean loss of the last tenth."""
    schedule = optax.warmup_cosine_decay_schedule(LEARNING_RATE / 10, LEARNING_RATE, max(1, steps // 20), steps)
    optimizer = nnx.Optimizer(
        network, optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule)), wrt=nnx.Param
    )

    @nnx.jit
    def update(network: Network, optimizer: nnx.Optimizer, inputs: Array, truth: Truth) -> Array:
        value, gradients = nnx.value_and_grad(loss)(network, inputs, truth)
        optimizer.update(network, gradients)
        return value

    last = []
    for step in range(steps):
        inputs, truth = draw()
        value = update(network, optimizer, standardised(arrays, inputs), truth)
        last += [value] if step >= 0.9 * (steps - 1) else []
        advance(1)
    return float(np.mean(last))
