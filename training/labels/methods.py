"""The label methods as array functions: progress of an episode that is done at its last frame, float64 (n,).

All end in exactly 1 and never fall.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

Method = Literal["linear", "milestone", "remaining", "activity"]
METHODS: tuple[Method, ...] = get_args(Method)


def linear(length: int) -> Float[np.ndarray, " n"]:
    """0 at the first frame, 1 at the last; an episode of one frame is done."""
    return np.linspace(0.0, 1.0, length) if length > 1 else np.ones(1)


def remaining(length: int, longest: int) -> Float[np.ndarray, " n"]:
    """1 minus the share that the time remaining has of that at the start of the task's longest episode.

    Args:
        longest: frames of the longest episode of its task.
    """
    left = np.arange(length - 1, -1, -1)
    return 1.0 - left / max(longest - 1, 1)


def activity(moving: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
    """The share of the episode's motion that is done: standstill adds nothing. None if nothing ever moves.

    Args:
        moving: whether the step that leads to each frame is motion; see ``motion.moving``.
    """
    done = np.cumsum(moving)
    if len(moving) == 1:
        return np.ones(1)
    return done / done[-1] if done[-1] else None
