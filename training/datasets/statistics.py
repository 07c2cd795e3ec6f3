"""Statistics of features as LeRobot keeps them: per episode (columns ``stats/...``) and pooled (``meta/stats.json``).

Each is a dictionary of float64 arrays: ``min max mean std q01 q10 q50 q90 q99`` (d,), and ``count`` int64 (1,): frames.
Quantiles are LeRobot's: a position within 5000 equal bins of the range; pooled ones are the means of the episodes',
weighted by their frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pi05_progress.files.output_file import write_file

from . import layout

Stats = dict[str, np.ndarray]

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
KEYS = ("min", "max", "mean", "std", "count", *QUANTILES)
BINS = 5000
_MARGIN = 1e-10  # around the range of the bins, as LeRobot has it


def feature_stats(values: np.ndarray) -> Stats:
    """Statistics of one episode's feature, (n, d) or (n,) numbers or booleans, at least one frame, all finite."""
    values = np.asarray(values, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    n = len(values)
    if not n or not np.isfinite(values).all():
        raise ValueError("statistics need at least one frame, and numbers that are finite")
    ordered = np.sort(values, axis=0)
    low, high = ordered[0], ordered[-1]
    stats = {"min": low, "max": high, "mean": values.mean(axis=0), "std": values.std(axis=0), "count": np.array([n])}
    for name, share in QUANTILES.items():
        stats[name] = _quantile(ordered, share) if n > 1 else stats["mean"].copy()
    return stats


def _quantile(ordered: np.ndarray, share: float) -> np.ndarray:
    """As a histogram of ``BINS`` bins over the range gives it, of values sorted along the first axis (n, d)."""
    n, target = len(ordered), share * len(ordered)
    low, high = ordered[0] - _MARGIN, ordered[-1] + _MARGIN
    step = (high - low) / BINS
    reached = ordered[int(np.ceil(target)) - 1]  # with it, the share of values is reached
    index = np.minimum(((reached - low) / step).astype(np.int64), BINS - 1)
    start = low + index * step
    before = (ordered < start).sum(axis=0)
    inside = ((ordered >= start) & (ordered < start + step)).sum(axis=0)
    inside[index == BINS - 1] = n - before[index == BINS - 1]
    within = np.where(inside > 0, (target - before) / np.maximum(inside, 1), 0.0)
    return np.where(index == 0, low, start + within * step)


def pooled(stats: Sequence[Stats]) -> Stats:
    """Statistics of one feature over several episodes, of equal dimensions, from theirs, as LeRobot pools them."""
    counts = np.concatenate([np.asarray(s["count"]) for s in stats])
    mean = np.average([s["mean"] for s in stats], axis=0, weights=counts)
    variance = np.average([s["std"] ** 2 + (s["mean"] - mean) ** 2 for s in stats], axis=0, weights=counts)
    result = {
        "min": np.min([s["min"] for s in stats], axis=0),
        "max": np.max([s["max"] for s in stats], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": counts.sum(keepdims=True),
    }
    for name in QUANTILES:
        if all(name in s for s in stats):
            result[name] = np.average([s[name] for s in stats], axis=0, weights=counts)
    return result


def pool_episodes(episodes: Sequence[Mapping[str, Stats]]) -> dict[str, Stats]:
    """Statistics of a data set from those of its episodes; per feature, over the episodes that have it."""
    names = dict.fromkeys(name for episode in episodes for name in episode)
    return {name: pooled([episode[name] for episode in episodes if name in episode]) for name in names}


def flattened(stats: Mapping[str, Stats]) -> dict[str, list]:
    """One episode's statistics as columns of ``meta/episodes``: ``stats/<feature>/<statistic>``."""
    return {f"stats/{name}/{key}": value.tolist() for name, of in stats.items() for key, value in of.items()}


def save_stats(root: Path, stats: Mapping[str, Stats]) -> None:
    """Write ``meta/stats.json`` of the data set in ``root``, complete or not at all."""
    data = {name: {key: np.asarray(value).tolist() for key, value in of.items()} for name, of in stats.items()}
    write_file(root / layout.STATS, json.dumps(data, indent=4))


def sample_frames(length: int) -> list[int]:
    """Which frames of an episode LeRobot takes for the statistics of pictures: all of 100, 1681 of 20000."""
    count = max(min(length, 100), min(int(length**0.75), 10_000))
    return np.round(np.linspace(0, length - 1, count)).astype(int).tolist()


def picture_stats(pictures: Iterable[np.ndarray]) -> Stats:
    """Statistics per channel, (3, 1, 1) in [0, 1], over an episode's sampled pictures, one in memory at a time.

    Exact from counts of the 256 levels; ``count`` is the number of pictures: uint8 (h, w, 3), at least one. Pictures of
    more than 300 pixels are thinned to about 150 along the longer side, as LeRobot does.
    """
    counts, number = np.zeros((3, 256), np.int64), 0
    for picture in pictures:
        step = max(picture.shape[:2]) // 150 if max(picture.shape[:2]) >= 300 else 1
        thin = picture[::step, ::step]
        for channel in range(3):
            counts[channel] += np.bincount(thin[..., channel].ravel(), minlength=256)
        number += 1
    if not number:
        raise ValueError("statistics need at least one picture")
    levels = np.arange(256) / 255.0
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    seen = [np.flatnonzero(of_channel) for of_channel in counts]
    below = np.cumsum(share, axis=1)
    stats = {
        "min": levels[[s[0] for s in seen]],
        "max": levels[[s[-1] for s in seen]],
        "mean": mean,
        "std": np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1)),
    }
    for name, quantile in QUANTILES.items():
        stats[name] = levels[np.minimum((below < quantile - 1e-12).sum(axis=1), 255)]
    shaped = {name: value.reshape(3, 1, 1) for name, value in stats.items()}
    return {**shaped, "count": np.array([number])}
