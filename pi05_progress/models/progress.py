"""The progress head: what it reads, what it believes, and its losses."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ..observation import CONFIDENCE_LEVEL
from .config import ProgressConfig
from .layers import Linear


class Belief(NamedTuple):
    """What the head believes, float32. ``bins`` and the interval are None for a scalar head."""

    mean: Float[Array, " b"]
    bins: Float[Array, "b n"] | None = None
    lower: Float[Array, " b"] | None = None
    upper: Float[Array, " b"] | None = None
    features: Float[Array, "b w"] | None = None  # pooled prefix, where an inference gives it: what a memory reads


def pool(tokens: Float[Array, "b p w"], mask: Bool[Array, "b p"]) -> Float[Array, "b w"]:
    """Mean over valid tokens, float32; zeros where no token is valid."""
    weights = mask.astype(jnp.float32)[..., None]
    # where, not a product: what stands at masked positions may be anything, even NaN
    total = jnp.where(mask[..., None], tokens.astype(jnp.float32), 0.0).sum(axis=1)
    return total / jnp.maximum(weights.sum(axis=1), 1.0)


class ProgressHead(nnx.Module):
    """Masked mean over the prefix -> Linear -> swish -> Linear -> sigmoid (scalar) or softmax over bins (categorical).

    Everything after the trunk is float32, whatever the trunk computes in. A configuration of kind ``none`` has no head.
    """

    def __init__(self, config: ProgressConfig, width: int, rngs: nnx.Rngs) -> None:
        self.hidden = Linear(width, config.hidden, dtype=jnp.float32, rngs=rngs)
        outputs = 1 if config.kind == "scalar" else config.bins
        self.output = Linear(config.hidden, outputs, dtype=jnp.float32, rngs=rngs)
        self._config = config

    def logits(self, tokens: Float[Array, "b p w"], mask: Bool[Array, "b p"]) -> Float[Array, "b n"]:
        """One logit, or one per bin."""
        return self.output(jax.nn.swish(self.hidden(pool(tokens, mask))))

    def belief(self, logits: Float[Array, "b n"]) -> Belief:
        """The belief in [0, 1] that logits stand for; the interval is between equal tails."""
        if self._config.kind == "scalar":
            return Belief(jax.nn.sigmoid(logits[:, 0]))
        bins = jax.nn.softmax(logits)
        tail = (1 - CONFIDENCE_LEVEL) / 2
        return Belief(bins @ bin_centres(self._config.bins), bins, quantile(bins, tail), quantile(bins, 1 - tail))

    def loss(self, logits: Float[Array, "b n"], target: Float[Array, " b"]) -> Float[Array, " b"]:
        """Per sample: squared error (scalar), or cross entropy with HL-Gauss targets (categorical)."""
        if self._config.kind == "scalar":
            return jnp.square(jax.nn.sigmoid(logits[:, 0]) - target)
        soft = hl_gauss(target, self._config.bins, self._config.sigma_bins / self._config.bins)
        return -(soft * jax.nn.log_softmax(logits)).sum(axis=-1)


def bin_centres(bins: int) -> Float[Array, " n"]:
    """Middles of equal bins of [0, 1]."""
    return (jnp.arange(bins) + 0.5) / bins


def hl_gauss(target: Float[Array, " b"], bins: int, sigma: float) -> Float[Array, "b n"]:
    """Soft targets: the share of a normal distribution around the target that falls into each bin, within [0, 1].

    Imani and White, "Improving Regression Performance with Distributional Losses", 2018.
    """
    edges = jnp.linspace(0.0, 1.0, bins + 1)
    cdf = jax.scipy.special.erf((edges - target[:, None]) / (sigma * jnp.sqrt(2.0)))
    return jnp.diff(cdf) / (cdf[:, -1:] - cdf[:, :1])


def quantile(bins: Float[Array, "b n"], share: float) -> Float[Array, " b"]:
    """Where ``share`` of the probability lies below, taking it as even within each bin."""
    count = bins.shape[-1]
    below = jnp.cumsum(bins, axis=-1)
    index = jnp.minimum((below < share).sum(axis=-1), count - 1)
    inside = jnp.take_along_axis(bins, index[:, None], axis=-1)[:, 0]
    before = jnp.take_along_axis(below, index[:, None], axis=-1)[:, 0] - inside
    return jnp.clip((index + (share - before) / jnp.maximum(inside, 1e-9)) / count, 0.0, 1.0)
