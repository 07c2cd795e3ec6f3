"""Beliefs over time whose truth is known: made up from a seed, or what the shipped checkpoint said of recordings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi05_progress.observation import PolicyOutput

RATES = (2, 3, 4, 5, 6, 8, 10, 12, 15)  # Hz
NOISE = 0.02
RECORDED = Path(__file__).parents[1] / "data" / "tiny_demo_beliefs.npz"
_ACTIONS = np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class Stream:
    """Beliefs of a model, with what is true of them; ``starts_s`` are the moments at which a task begins."""

    time_s: np.ndarray
    truth: np.ndarray
    beliefs: np.ndarray
    starts_s: np.ndarray


@dataclass(frozen=True)
class Recorded:
    """What the shipped checkpoint believed of one held-out episode, five times a second.

    ``usual_s`` is the task's median duration in training, ``end_s`` when it was done here, ``still`` the first and last
    index of every stretch in which the robot stood still, or was made to.
    """

    kind: str
    time_s: np.ndarray
    beliefs: np.ndarray
    std: np.ndarray
    usual_s: float
    end_s: float
    still: list[tuple[int, int]]


def episode(rng, usual_s=None):
    """Times and progress at the corners of one episode: 15 to 35 s, 4 to 10 of them a pause, then its end for 6 s."""
    length, pause = rng.uniform(15, 35), rng.uniform(4, 10)
    at = rng.uniform(0.1, 0.9)
    stop = at * (length - pause)
    return np.array([0, stop, stop + pause, length, length + 6]), np.array([0, at, at, 1, 1])


def stream(rng, rate_hz, episodes=4):
    """Episodes one after the other without a gap."""
    corners = [episode(rng) for _ in range(episodes)]
    starts_s = np.concatenate([[0], np.cumsum([times[-1] for times, _ in corners])])
    time_s = np.arange(int(starts_s[-1] * rate_hz)) / rate_hz
    number = np.searchsorted(starts_s, time_s, side="right") - 1
    truth = np.array([np.interp(t - starts_s[n], *corners[n]) for t, n in zip(time_s, number, strict=True)])
    return Stream(time_s, truth, noisy(rng, truth), starts_s[:-1])


def noisy(rng, truth):
    return np.clip(truth + rng.normal(0, NOISE, len(truth)), 0, 1)


def output(progress, std=None):
    interval = None if std is None else (progress - 1.6449 * std, progress + 1.6449 * std)
    return PolicyOutput(_ACTIONS, float(progress), progress_interval=interval)


def told(estimator, time_s, beliefs, stds=None):
    """What an estimator makes of beliefs: its estimates, and progress, rate and status as arrays."""
    stds = [None] * len(beliefs) if stds is None else stds
    estimates = [
        estimator.update(float(t), output(b, s), "task") for t, b, s in zip(time_s, beliefs, stds, strict=True)
    ]
    columns = ([getattr(e, name) for e in estimates] for name in ("progress", "rate", "status"))
    return (estimates, *(np.array(column, float) for column in columns))


def slopes(time_s, progress, window_s=2.0):
    """Slope of progress over the last seconds since it began anew, by least squares and between the ends, 1/s.

    NaN at the first value after each beginning.
    """
    indices = np.arange(len(time_s))
    began = np.maximum.accumulate(np.where(np.abs(np.diff(progress, prepend=progress[0])) > 0.35, indices, 0))
    first = np.maximum(began, np.searchsorted(time_s, time_s - window_s - 1e-9))

    def mean(values):
        sums = np.append(0, np.cumsum(values))
        return (sums[1:] - sums[first]) / (indices - first + 1)

    with np.errstate(invalid="ignore", divide="ignore"):
        fitted = mean(time_s * progress) - mean(time_s) * mean(progress)
        fitted /= mean(time_s**2) - mean(time_s) ** 2
        direct = (progress - progress[first]) / (time_s - time_s[first])
    return np.where(first < indices, (fitted, direct), np.nan)


def recorded():
    """All that is kept of the shipped checkpoint's beliefs."""
    with np.load(RECORDED, allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    found, first, first_still = [], 0, 0
    for kind, count, stills, usual_s, end_s in zip(
        held["kind"], held["count"], held["stills"], held["usual_s"], held["end_s"], strict=True
    ):
        own = slice(first, first + count)
        still = [tuple(pair) for pair in held["still"][first_still : first_still + stills].tolist()]
        found.append(
            Recorded(
                str(kind), held["time_s"][own].astype(float), held["beliefs"][own].astype(float),
                held["std"][own].astype(float), float(usual_s), float(end_s), still,
            )
        )  # fmt: skip
        first, first_still = first + count, first_still + stills
    return found
