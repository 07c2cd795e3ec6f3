"""Episodes as a robot might live through them: other rates and speeds, pauses, gaps, backwards, begun anew.

The head must not count time, so in training time means nothing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pi05_progress.estimate.temporal import agreement, inputs, project

from .streams import Stream

RATES_HZ, SPEEDS = (2.0, 15.0), (0.5, 2.0)
NOISE = 0.3  # standard deviation of what is added to features, which are whitened


class Truth(NamedTuple):
    """What is true at each inference; the first axis is that of sequences, the second of time."""

    progress: np.ndarray  # NaN where unknown, here and below
    stage: np.ndarray  # -1 where unknown
    ratio: np.ndarray  # time remaining / usual duration
    done: np.ndarray
    succeeds: np.ndarray
    refused: np.ndarray  # 1 where something else is asked for


def drawn(
    rng: np.random.Generator, streams: Sequence[Stream], arrays: Mapping[str, np.ndarray], usual_s: Sequence[float],
    dt_s: float, steps: int,
) -> tuple[Float[np.ndarray, "b t i"], Truth]:  # fmt: skip
    """What the network reads on one course of so many inferences drawn through each stream, and what is true."""
    rows, times = [], []
    for stream, usual in zip(streams, usual_s, strict=True):
        last, said = len(stream.progress) - 1, stream.answers
        frames, time_s, speed, forward = _course(rng, last, stream.fps, steps)
        low = np.minimum(frames.astype(int), max(last - 1, 0))

        def between(values: np.ndarray, low: np.ndarray = low, share: np.ndarray = frames - low) -> np.ndarray:
            share = share.reshape(-1, *(1,) * (values.ndim - 1))
            return (1 - share) * values[low] + share * values[np.minimum(low + 1, len(values) - 1)]

        progress = between(stream.progress)
        succeeds = float(stream.success) if forward and not stream.refused else np.nan
        rows.append((
            between(said.features), between(said.bins), between(said.actions), progress,
            stream.stage[np.round(frames).astype(int)], between(stream.remaining_s) / speed / usual,
            (progress >= 0.999).astype(float), np.full(steps, succeeds), np.full(steps, float(stream.refused)),
        ))  # fmt: skip
        times.append(time_s)
    pooled, bins, actions, *truth = (np.array(part) for part in zip(*rows, strict=True))
    features = project(arrays, pooled)
    features += NOISE * rng.standard_normal(features.shape, np.float32)
    since, first = np.diff(np.array(times), axis=1, prepend=0.0), np.zeros((len(rows), steps))
    first[:, 0] = 1
    chunks = actions / arrays["action_scale"]
    differs, turns = agreement(np.concatenate([chunks[:, :1], chunks[:, :-1]], axis=1), chunks, since / dt_s)
    return inputs(features, bins, since, differs, turns, first), Truth(*truth)


def _course(rng: np.random.Generator, last: int, fps: float, steps: int) -> tuple[np.ndarray, np.ndarray, float, bool]:
    """Frames (fractions, too) and times of a course, its usual speed, and whether it goes only forward."""
    since = np.exp(-rng.uniform(*np.log(RATES_HZ))) * rng.uniform(0.8, 1.2, steps)
    if rng.random() < 0.2:
        since[rng.integers(1, steps)] += rng.uniform(0.5, 4.5)
    since[0] = 0.0
    time_s = np.cumsum(since)
    usual = 1.0 if rng.random() < 0.5 else float(np.exp(rng.uniform(*np.log(SPEEDS))))
    speed, whole_s = np.full(steps, usual), time_s[-1]
    if rng.random() < 0.4:
        begin = rng.uniform(0, whole_s)
        speed[(time_s >= begin) & (time_s < begin + rng.uniform(2, 10))] = 0
    forward = rng.random() >= 0.25
    if not forward:
        begin = rng.uniform(-0.5, 0.9) * whole_s
        speed[(time_s >= begin) & (time_s < begin + rng.uniform(0.2, 1.0) * whole_s)] *= -1
    at = 0.0 if rng.random() < 0.5 and speed[0] >= 0 else rng.uniform(0, last)
    jump = rng.integers(1, steps) if rng.random() < 0.15 else steps
    frames = np.empty(steps)
    for step, move in enumerate(speed * since * fps):  # cut at every step: who goes back from the end begins there
        at = rng.uniform(0, 0.5) * last if step == jump else at + move
        frames[step] = at = min(max(at, 0.0), last)
    return frames, time_s, usual, forward
