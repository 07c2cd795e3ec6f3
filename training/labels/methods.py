"""The label methods as array functions, and when a robot moves, on which one of them depends.

Progress is of an episode that is done at its last frame, float64 (n,): it ends in exactly 1 and never falls.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

Method = Literal["linear", "milestone", "remaining", "activity", "learned"]
PARTS = 5  # stages of `learned`
SMOOTHING_S = 0.2  # speeds are taken over this time, so that sensor noise is no motion


def linear(length: int) -> Float[np.ndarray, " n"]:
    """0 at the first frame, 1 at the last; an episode of one frame is done."""
    return np.linspace(0.0, 1.0, length) if length > 1 else np.ones(1)


def remaining(length: int, longest: int) -> Float[np.ndarray, " n"]:
    """1 minus the share that the time remaining has of that at the start of the task's longest episode, in frames."""
    left = np.arange(length - 1, -1, -1)
    return 1.0 - left / max(longest - 1, 1)


def activity(moving: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
    """The share of the episode's motion (``moving``) that is done: standstill adds nothing. None if nothing moves."""
    done = np.cumsum(moving)
    if len(moving) == 1:
        return np.ones(1)
    return done / done[-1] if done[-1] else None


def learned(courses: Sequence[Float[np.ndarray, "_ p"]]) -> list[Float[np.ndarray, " _"]]:
    """When the same happens in other episodes of a task that are like each one: the median share of their time.

    Courses of positions and speeds are aligned by dynamic time warping; of the others the third that fits best counts,
    at least three. What takes long in one episode only, as a pause, is no progress there.
    """
    from dtaidistance import dtw_ndim

    moving = [np.hstack([of, np.diff(of, axis=0, prepend=of[:1])]).astype(float) for of in courses]
    every = np.concatenate(moving)
    scaled = [np.ascontiguousarray((of - every.mean(axis=0)) / (every.std(axis=0) + 1e-3)) for of in moving]
    apart = np.full((len(scaled), len(scaled)), np.inf)
    for i, j in itertools.combinations(range(len(scaled)), 2):
        steps = len(scaled[i]) + len(scaled[j])
        apart[i, j] = apart[j, i] = dtw_ndim.distance_fast(scaled[i], scaled[j]) / np.sqrt(steps)
    found = []
    for i, course in enumerate(scaled):
        told = []
        for j in np.argsort(apart[i])[: min(max(3, len(scaled) // 3), len(scaled) - 1)]:
            at, there = np.array(dtw_ndim.warping_path(course, scaled[j], use_c=True)).T
            told.append(np.bincount(at, there / len(scaled[j])) / np.bincount(at))
        when = np.median(told, axis=0)
        when -= when[0]
        found.append(when / when[-1] if when[-1] > 0 else np.ones(len(when)))
    return found


def speeds(positions: Float[np.ndarray, "n p"], fps: float) -> Float[np.ndarray, " n"]:
    """The fastest joint's speed (rad/s where positions are rad) in the step that leads to each frame; 0 at the first.

    A step's speed is that over the ``SMOOTHING_S`` around it.
    """
    n = len(positions)
    around = round((SMOOTHING_S * fps - 1) / 2)
    after = np.minimum(np.arange(1, n) + max(around, 0), n - 1)
    before = np.maximum(np.arange(n - 1) - max(around, 0), 0)
    moved = np.abs(positions[after].astype(float) - positions[before]).max(axis=1, initial=0.0)
    return np.concatenate([np.zeros(min(n, 1)), moved * fps / (after - before)])


def moving(speed: Float[np.ndarray, " n"], fps: float, threshold: float, seconds: float) -> Bool[np.ndarray, " n"]:
    """Whether the step that leads to each frame is motion; the first frame has none.

    Args:
        speed: of the fastest joint, as ``speeds`` gives it.
        threshold: below it a joint stands still, in the unit of ``speed``.
        seconds: a standstill lasts at least this long; shorter ones count as motion.
    """
    still = speed < threshold
    for start, stop in runs(still[1:]):
        if (stop - start) / fps < seconds:
            still[start + 1 : stop + 1] = False
    still[:1] = True
    return ~still


def runs(mask: Bool[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """Where ``mask`` is true: (start, stop) of each stretch."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
