"""What held-out episodes say of a head: intervals, probabilities, what is unlike the data, and alarms.

Intervals and alarms are conformal: a share of held-out moments, or of successful episodes, lies beyond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from pi05_progress.estimate.estimator import ProgressEstimator
from pi05_progress.estimate.temporal import (
    DETECTORS,
    GROUPS,
    LEVELS,
    LONGEST_RATIO,
    About,
    Memory,
    Recollection,
    TemporalHead,
    group,
    needed_level,
    to_bytes,
)

from .streams import Stream

NEVER = 1e30  # a distance that nothing has
USUAL = 100  # about so many successes that were trained on are looked at
FEWEST = 50  # moments that a group needs to be calibrated apart


@dataclass(frozen=True)
class Run:
    """What a head that is not calibrated yet says of every frame of an episode."""

    stream: Stream
    told: list[Recollection]
    detected: list[dict[str, float]]

    @classmethod
    def of(cls, data: bytes, stream: Stream) -> Run:
        """Ask a head."""
        head = TemporalHead(data)
        memory, estimator = Memory(head), ProgressEstimator(temporal_head=data)
        told, detected = [], []
        for frame, features in enumerate(head.project(stream.answers.features)):
            output, time_s = replace(stream.answers.output(frame), progress_features=features), frame / stream.fps
            told.append(memory.update(time_s, output))
            progress = estimator.update(time_s, output, stream.task).progress
            detected.append(memory.detected(time_s, progress, told[-1]))
        return cls(stream, told, detected)

    def column(self, name: str) -> np.ndarray:
        """One field of what was told, frame by frame."""
        return np.array([getattr(of, name) for of in self.told])


def calibrated(
    arrays: Mapping[str, np.ndarray], about: About, trained: Sequence[Stream], held_out: Sequence[Stream],
    false_alarms: float, unlike: float,
) -> bytes:  # fmt: skip
    """The head with everything that held-out episodes tell.

    Args:
        about: its stages and durations; what is calibrated in it is replaced.
        trained: episodes it was trained on, which only tell how much of what detectors look at is usual.
        held_out: episodes that tell all else.
        false_alarms: the share of successful episodes in which a failure may be called.
        unlike: the share of episodes of which a moment may be called unlike the data; and of which one may be said to
            be under an instruction for something else, where the head was taught such.
    """
    data = to_bytes(arrays, replace(about, unlike=NEVER, alarms={}, misfit=about.misfit and NEVER))
    found = [Run.of(data, stream) for stream in held_out]
    usual = [Run.of(data, s) for s in [s for s in trained if s.success][:: len(trained) // USUAL + 1]]
    successes = [run for run in found if run.stream.success]
    progress = np.concatenate([run.stream.progress for run in found])
    said, will = (np.concatenate([run.column(name) for run in found]) for name in ("done", "succeeds"))
    ends = np.concatenate([np.full(len(run.told), run.stream.success) for run in found])
    known = np.isfinite(progress)
    platt = np.array([_platt(said[known], progress[known] >= 0.999), _platt(will, ends)])
    ratios = [
        np.where(s.progress < 0.999, s.remaining_s / about.durations_s[s.task] / LONGEST_RATIO, np.nan)
        for s in (run.stream for run in successes)
    ]
    arrays = {
        **arrays, "platt": platt, "ratio_levels": _levels(successes, "ratios", ratios),
        "progress_levels": _levels(successes, "points", [run.stream.progress for run in successes]),
    }  # fmt: skip
    for run in (*found, *usual):  # the same detector after calibration
        for of, at in zip(run.told, run.detected, strict=True):
            at["hopeless"] = 1 - float(expit(platt[1, 0] * _logit(of.succeeds) + platt[1, 1]))
    farthest, misfit = (_conformal([run.column(n).max() for run in found], unlike) for n in ("distance", "misfit"))
    alarms = _alarms(usual or successes, successes, false_alarms)
    return to_bytes(arrays, replace(about, unlike=farthest, alarms=alarms, misfit=about.misfit and misfit))


def _levels(runs: Sequence[Run], kind: str, truths: Sequence[np.ndarray]) -> np.ndarray:
    """For each group and nominal level the level whose interval held so many of the truths, which are in [0, 1]."""
    needed, groups = [], []
    for run, truth in zip(runs, truths, strict=True):
        said, known = run.column(kind), np.isfinite(truth)
        cell = np.round(np.where(known, truth, 0) * (said.shape[1] - 1)).astype(int)
        level = np.where(cell >= said.shape[1], 1.0, needed_level(said, np.minimum(cell, said.shape[1] - 1)))
        needed.append(level[known])
        groups.append(np.array([group(of.progress) for of in run.told])[known])
    needed, groups = np.concatenate(needed), np.concatenate(groups)
    pooled = np.quantile(needed, LEVELS) if len(needed) else LEVELS
    own = [needed[groups == g] for g in range(GROUPS)]
    return np.array([np.quantile(of, LEVELS) if len(of) >= FEWEST else pooled for of in own])


def _logit(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(probability, 1e-6, 1 - 1e-6))


def _platt(said: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Scale and shift of logits that make probabilities right (Platt, 1999); drawn towards changing nothing."""
    x = _logit(said)

    def loss(at: np.ndarray) -> float:
        z = at[0] * x + at[1]
        return float(np.mean(np.logaddexp(0, z) - truth * z) + 1e-3 * ((at[0] - 1) ** 2 + at[1] ** 2))

    return minimize(loss, np.array([1.0, 0.0]), bounds=[(0.05, 5), (-5, 5)]).x


def _highest(run: Run) -> np.ndarray:
    """The most that each detector said before the task was done."""
    done = run.stream.progress >= 0.999
    before = run.detected[: int(np.argmax(done)) + 1 if done.any() else None]
    return np.array([max(at[name] for at in before) for name in DETECTORS])


def _conformal(values: Sequence[float], share: float) -> float:
    """What a new value exceeds with at most this probability; of too few values the highest."""
    rank = int(np.ceil((1 - share) * (len(values) + 1) - 1e-9))
    return float(np.sort(values)[min(rank, len(values)) - 1])


def _alarms(usual: Sequence[Run], held_out: Sequence[Run], share: float) -> dict[str, float]:
    """Thresholds of the detectors of failure.

    How much is usual says the 95 % quantile of successes that were trained on, and how many times that is allowed,
    alike for all detectors, the conformal quantile of held-out ones.
    """
    scale = np.quantile([_highest(run) for run in usual], 0.95, axis=0) + 1e-3
    limit = _conformal([np.max(_highest(run) / scale) for run in held_out], share)
    return dict(zip(DETECTORS, (limit * scale).tolist(), strict=True))
