"""Where named things are, in metres in the robot's base frame: read from the pictures' tokens, told to the trunk.

The labels come from a simulation's truth. At inference nothing is needed: what the head believes is what the trunk and
the action expert see, and their gradient reaches it, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ..observation import IMAGE_KEYS
from .config import Pi05Config
from .layers import Linear

UNIT_M = 0.1  # errors are counted in it, and the trunk is told positions in it
NEAR_M = 0.02  # how near a hand must be for the trunk to be told exactly
HIDDEN = 256


def to_units(places: Float[Array, "*b 3"], config: Pi05Config) -> Float[Array, "*b 3"]:
    """Places in m as the model reckons with them."""
    return (places - jnp.asarray(config.positions_middle)) / UNIT_M


class PositionHead(nnx.Module):
    """Tokens of all cameras, which of these are there, and the state token's numbers -> n positions; float32."""

    def __init__(self, config: Pi05Config, rngs: nnx.Rngs) -> None:
        self._camera = (config.tokens_per_image, config.paligemma.width)
        inputs = len(IMAGE_KEYS) * (self._camera[0] * self._camera[1] + 1)
        inputs += config.proprioception_size if config.state_token else 0
        count = len(config.positions)
        self.hidden = Linear(inputs, HIDDEN, dtype=jnp.float32, rngs=rngs)
        self.output = Linear(HIDDEN, (count, 3), dtype=jnp.float32, rngs=rngs)
        self.token = Linear((count, 3), self._camera[1], dtype=jnp.float32, rngs=rngs)
        if config.hands:
            self.near = Linear((config.hands, count, 6), self._camera[1], dtype=jnp.float32, rngs=rngs, zero=True)
        self._config = config

    def __call__(
        self,
        tokens: Mapping[str, Float[Array, "b p w"]],
        masks: Mapping[str, Bool[Array, " b"]],
        proprioception: Float[Array, "b s"] | None,
    ) -> Float[Array, "b n 3"]:
        """Positions in m. What stands in the place of a camera that is not there does not matter."""
        (batch, *_), parts = next(iter(tokens.values())).shape, []
        for key in IMAGE_KEYS:
            there = masks[key] if key in tokens else jnp.zeros(batch, bool)
            seen = tokens[key] if key in tokens else jnp.zeros((batch, *self._camera))
            seen = jnp.where(there[:, None, None], seen.astype(jnp.float32), 0.0)
            parts += [seen.reshape(batch, -1), there.astype(jnp.float32)[:, None]]
        if proprioception is not None:
            parts.append(proprioception)
        hidden = jax.nn.swish(self.hidden(jnp.concatenate(parts, axis=-1)))
        return UNIT_M * self.output(hidden) + jnp.asarray(self._config.positions_middle)

    def embed(
        self, positions: Float[Array, "b n 3"], hands: Float[Array, "b a 3"] | None = None
    ) -> Float[Array, "b 1 w"]:
        """The token that tells the trunk of these positions, and of where they are from each hand; all in m."""
        token = self.token(to_units(positions, self._config))
        if hands is not None:
            away = positions[:, None] - hands[:, :, None]
            token += self.near(jnp.concatenate([jnp.clip(away / UNIT_M, -3, 3), jnp.tanh(away / NEAR_M)], axis=-1))
        return token[:, None]


def position_loss(
    predicted: Float[Array, "b n 3"], label: Float[Array, "b n 3"], counts: Bool[Array, "b n"]
) -> Float[Array, "b n"]:
    """Mean absolute error of coordinates in units of 0.1 m; 0 where a label does not count, whatever stands there."""
    return jnp.abs(predicted - jnp.where(counts[..., None], label, predicted)).mean(axis=-1) / UNIT_M
