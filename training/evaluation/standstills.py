"""Where the recorded robot stood still before its task was done: progress has no reason to change there."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pi05_progress.robots.layout import Layout

from ..labels import motion

SPEED = 0.02  # rad/s: slower than this a joint stands still
SECONDS = 3.0  # a standstill lasts at least this long


def standstills(
    states: Float[np.ndarray, "n d"], robot: Layout, fps: float, done_frame: int
) -> tuple[tuple[int, int], ...]:
    """First and last frame of every stretch in which no joint or gripper moves; none after ``done_frame``.

    Args:
        done_frame: from which on the task is done, and standing still says nothing.
    """
    positions = robot.positions(states[: done_frame + 1])
    still = motion.speeds(positions, fps) < SPEED
    # a step leads to its frame: n still steps are n + 1 frames at rest
    return tuple(
        (start, stop) for start, stop in motion.runs(still[1:]) if (stop - start) / fps >= SECONDS - 1e-9
    )  # fmt: skip
