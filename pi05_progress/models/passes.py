"""What passes through the model give, and what they are given."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Bool, Float

from .gemma import KVCache
from .observation import Observation
from .progress import Belief


class Prefix(NamedTuple):
    """Tokens before the trunk, and which of them are valid."""

    tokens: Float[Array, "b p w"]
    mask: Bool[Array, "b p"]
    positions: Float[Array, "b n 3"] | None = None  # believed by the model, m; None if its configuration names none


class PrefixPass(NamedTuple):
    """What the trunk made of the prefix."""

    out: Float[Array, "b p w"]
    mask: Bool[Array, "b p"]
    cache: KVCache


class Sample(NamedTuple):
    """Normalised actions, and the belief about progress if there is a head."""

    actions: Float[Array, "b a d"]
    progress: Belief | None


class Drawn(NamedTuple):
    """What is random in a batch's losses: pictures that may have been augmented, noise, and the times of the flow.

    With several draws per prefix, noise and time have an axis of them after the first.
    """

    observation: Observation
    noise: Float[Array, "b *k a d"]
    time: Float[Array, "b ..."]


class Losses(NamedTuple):
    """Per-sample losses, and the belief about progress from the same pass.

    ``progress`` is 0 where ``progress_mask`` is False; both are None without a head or without labels, and ``belief``
    is None without a head.
    """

    action: Float[Array, "b a"]
    progress: Float[Array, " b"] | None = None
    progress_mask: Bool[Array, " b"] | None = None
    belief: Belief | None = None
    position: Float[Array, "b n"] | None = None  # 0 where ``positions_mask`` is False; None without such labels
    positions: Float[Array, "b n 3"] | None = None  # as the prefix has them
