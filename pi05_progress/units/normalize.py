"""Normalisation statistics: openpi's file format, how they are applied, and how they are gathered in a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files.json_file import read_json
from ..files.output_file import write_file

EPSILON = 1e-6
PER_ROW, PROPRIOCEPTION = "actions_per_row", "proprioception"  # keys of statistics that openpi does not have
ROW_SPREAD = 0.02  # rad, or of a command number: least spread of a row of chunks, whose first ones hardly move
BINS = 5000  # of the histograms behind the quantiles


class NormStatsError(UserError):
    """Statistics are missing, malformed, or do not fit the data; the message says which and why."""


@dataclass(frozen=True)
class NormStats:
    """Statistics per dimension, float64 (d,) each; those of ``actions_per_row`` (horizon, d)."""

    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray | None = None
    q99: np.ndarray | None = None

    def of_row(self, row: int) -> NormStats:
        """Those of one row of a chunk."""
        return NormStats(*(None if part is None else part[row] for part in vars(self).values()))


def normalize(x: np.ndarray, stats: NormStats, quantiles: bool = True) -> np.ndarray:
    """Values (..., d): 1 % and 99 % quantiles go to -1 and 1, or mean 0 and deviation 1. Longer statistics are cut."""
    n = x.shape[-1]
    if quantiles:
        low, high = _quantiles(stats)
        _check(n, low.shape[-1], "values")
        low, high = low[..., :n], high[..., :n]
        return (x - low) / (high - low + EPSILON) * 2.0 - 1.0
    _check(n, stats.mean.shape[-1], "values")
    return (x - stats.mean[..., :n]) / (stats.std[..., :n] + EPSILON)


def unnormalize(x: np.ndarray, stats: NormStats, quantiles: bool = True) -> np.ndarray:
    """The inverse. Dimensions beyond the statistics are left as they are (mean 0 and deviation 1 without quantiles).

    Raises:
        NormStatsError: fewer values than statistics.
    """
    n = x.shape[-1]
    known = stats.mean.shape[-1]
    _check(known, n, "statistics")
    part, rest = x[..., :known], x[..., known:]
    if quantiles:
        low, high = _quantiles(stats)
        part = (part + 1.0) / 2.0 * (high - low + EPSILON) + low
    else:
        part, rest = part * (stats.std + EPSILON) + stats.mean, rest * (1.0 + EPSILON)
    return np.concatenate([part, rest], axis=-1)


def chunk_stats(stats: Mapping[str, NormStats], per_row: bool, horizon: int) -> NormStats:
    """What normalises chunks of so many rows: the statistics of actions, or those of every row with a least spread.

    Raises:
        NormStatsError: there are none, or they are of another horizon.
    """
    key = PER_ROW if per_row else "actions"
    if key not in stats:
        raise NormStatsError(f"there are no statistics of {key}, only of {', '.join(sorted(stats))}")
    of = stats[key]
    if not per_row:
        return of
    if len(of.mean) != horizon:
        raise NormStatsError(f"{key} has statistics of {len(of.mean)} rows, chunks have {horizon}")
    low = high = None
    if of.q01 is not None and of.q99 is not None:
        middle, half = (of.q01 + of.q99) / 2, np.maximum(of.q99 - of.q01, ROW_SPREAD) / 2
        low, high = middle - half, middle + half
    return NormStats(of.mean, np.maximum(of.std, ROW_SPREAD / 4), low, high)


def _quantiles(stats: NormStats) -> tuple[np.ndarray, np.ndarray]:
    if stats.q01 is None or stats.q99 is None:
        raise NormStatsError("the statistics have no quantiles (q01, q99); compute them anew")
    return stats.q01, stats.q99


def _check(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise NormStatsError(f"{count} {what} where there are {limit} dimensions to match them")


def save_norm_stats(path: Path, stats: Mapping[str, NormStats]) -> None:
    """Write openpi's ``norm_stats.json``, complete or not at all."""
    data = {
        key: {name: None if (v := getattr(s, name)) is None else np.asarray(v, float).tolist() for name in _FIELDS}
        for key, s in stats.items()
    }
    write_file(path, json.dumps({"norm_stats": data}, indent=2))


_FIELDS = ("mean", "std", "q01", "q99")


def load_norm_stats(path: Path) -> dict[str, NormStats]:
    """Read openpi's ``norm_stats.json``; a ``NormStatsError`` if it is malformed, not finite, or contradicts itself."""
    try:
        data = read_json(path)["norm_stats"]
        stats = {}
        for key, fields in data.items():
            arrays = {n: None if fields.get(n) is None else np.asarray(fields[n], float) for n in _FIELDS}
            stats[key] = NormStats(**arrays)
            shape = arrays["mean"].shape
            if len(shape) != (2 if key == PER_ROW else 1):
                raise NormStatsError(f"{path}: {key}.mean is not a list of {'rows' if key == PER_ROW else 'numbers'}")
            for name, array in arrays.items():
                if array is not None and (array.shape != shape or not np.isfinite(array).all()):
                    wanted = " x ".join(map(str, shape))
                    raise NormStatsError(f"{path}: {key}.{name} is not {wanted} finite numbers")
            low, high = arrays["q01"], arrays["q99"]
            if low is not None and high is not None and (wrong := low > high).any():
                i = tuple(int(at) for at in np.argwhere(wrong)[0])
                at = ", ".join(map(str, i))
                raise NormStatsError(f"{path}: {key} {at} has q01 {low[i]:g}, which is above its q99 {high[i]:g}")
            if (arrays["std"] < 0).any():
                raise NormStatsError(f"{path}: {key}.std has a negative number")
        return stats
    except OSError as error:
        raise NormStatsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, NormStatsError):
            raise
        raise NormStatsError(f"{path}: not a norm_stats.json of openpi's form: {error!r}") from error


class RunningStats:
    """Mean, standard deviation and approximate quantiles of a stream, in constant memory, as openpi gathers them.

    Quantiles come from histograms of 5000 bins per dimension, whose counts are spread anew when the range grows; they
    depend a little on how the stream is cut into batches.
    """

    def __init__(self) -> None:
        self._count = 0

    def update(self, batch: np.ndarray) -> None:
        """Add values (..., d); a ``NormStatsError`` if they have another number of dimensions than before."""
        batch = np.asarray(batch, np.float64).reshape(-1, np.shape(batch)[-1])
        n, d = batch.shape
        low, high = batch.min(axis=0), batch.max(axis=0)
        if self._count == 0:
            self._mean, self._square, self._low, self._high = np.zeros(d), np.zeros(d), low, high
            self._counts = np.zeros((d, BINS))
            self._edges = np.linspace(low - 1e-10, high + 1e-10, BINS + 1, axis=1)
        elif d != len(self._mean):
            raise NormStatsError(f"{d} dimensions after {len(self._mean)}")
        grown = (high > self._high).any() or (low < self._low).any()
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        if grown:
            former, self._edges = self._edges, np.linspace(self._low, self._high, BINS + 1, axis=1)
            for i in range(d):
                self._counts[i] = np.histogram(former[i, :-1], bins=self._edges[i], weights=self._counts[i])[0]
        self._count += n
        share = n / self._count
        self._mean = self._mean + (batch.mean(axis=0) - self._mean) * share
        self._square = self._square + (np.square(batch).mean(axis=0) - self._square) * share
        for i in range(d):
            self._counts[i] += np.histogram(batch[:, i], bins=self._edges[i])[0]

    def result(self) -> NormStats:
        """The statistics of all that was added; a ``NormStatsError`` if that were fewer than two values."""
        if self._count < 2:
            raise NormStatsError(f"statistics need at least two values, got {self._count}")
        std = np.sqrt(np.maximum(0.0, self._square - np.square(self._mean)))
        return NormStats(self._mean.copy(), std, self._quantile(0.01), self._quantile(0.99))

    def _quantile(self, share: float) -> np.ndarray:
        target = share * self._count
        indices = [int(np.searchsorted(np.cumsum(counts), target)) for counts in self._counts]
        return np.array([edges[i] for edges, i in zip(self._edges, indices, strict=True)])
