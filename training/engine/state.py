"""All that changes while a model is trained, and what stays beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Int

Parameters = dict[str, Array]  # by openpi's path, parts joined with "/"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A pytree.

    Attributes:
        step: int32, how many steps were taken.
        params: parameters that are trained, float32.
        frozen: those that are not, in the dtype they are kept in.
        opt_state: optax's, of ``params`` alone.
        ema_params: moving average of ``params``, or None.
    """

    step: Int[Array, ""]
    params: Parameters
    frozen: Parameters
    opt_state: Any
    ema_params: Parameters | None
