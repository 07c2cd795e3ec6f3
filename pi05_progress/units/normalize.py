"""Normalisation statistics: openpi's file format, how they are applied, and how they are gathered in a stream."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..errors import UserError
from ..files.json_file import read_json
from ..files.output_file import write_file

EPSILON = 1e-6
PER_ROW, PROPRIOCEPTION = "actions_per_row", "proprioception"  # keys of statistics that openpi does not have
ROW_SPREAD = 0.02  # rad, or of a command number: least spread of a row of chunks, whose first ones hardly move


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
    _check(n, stats.mean.shape[-1], "values")
    if quantiles:
        low, high = (of[..., :n] for of in _quantiles(stats))
        return (x - low) / (high - low + EPSILON) * 2.0 - 1.0
    return (x - stats.mean[..., :n]) / (stats.std[..., :n] + EPSILON)


def unnormalize(x: np.ndarray, stats: NormStats, quantiles: bool = True) -> np.ndarray:
    """The inverse. Dimensions beyond the statistics are left as they are (mean 0 and deviation 1 without quantiles).

    Fewer values than statistics are a ``NormStatsError``.
    """
    known = stats.mean.shape[-1]
    _check(known, x.shape[-1], "statistics")
    part, rest = x[..., :known], x[..., known:]
    if quantiles:
        low, high = _quantiles(stats)
        part = (part + 1.0) / 2.0 * (high - low + EPSILON) + low
    else:
        part, rest = part * (stats.std + EPSILON) + stats.mean, rest * (1.0 + EPSILON)
    return np.concatenate([part, rest], axis=-1)


def chunk_stats(stats: Mapping[str, NormStats], per_row: bool, horizon: int) -> NormStats:
    """What normalises chunks of so many rows: the statistics of actions, or those of every row with a least spread; a
    ``NormStatsError`` if there are none, or they are of another horizon."""
    key = PER_ROW if per_row else "actions"
    if (of := stats.get(key)) is None:
        raise NormStatsError(f"there are no statistics of {key}, only of {', '.join(sorted(stats))}")
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
        key: {name: None if v is None else np.asarray(v, float).tolist() for name, v in vars(s).items()}
        for key, s in stats.items()
    }
    write_file(path, json.dumps({"norm_stats": data}, indent=2))


def load_norm_stats(path: Path) -> dict[str, NormStats]:
    """Read openpi's ``norm_stats.json``; a ``NormStatsError`` if it is malformed, not finite, or contradicts itself."""
    try:
        data = read_json(path)["norm_stats"]
        stats = {}
        for key, fields in data.items():
            names = (field.name for field in dataclasses.fields(NormStats))
            arrays = {n: None if fields.get(n) is None else np.asarray(fields[n], float) for n in names}
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
                at = tuple(np.argwhere(wrong)[0].tolist())
                where, limits = ", ".join(map(str, at)), f"q01 {low[at]:g}, which is above its q99 {high[at]:g}"
                raise NormStatsError(f"{path}: {key} {where} has {limits}")
            if (arrays["std"] < 0).any():
                raise NormStatsError(f"{path}: {key}.std has a negative number")
        return stats
    except NormStatsError:
        raise
    except OSError as error:
        raise NormStatsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NormStatsError(f"{path}: not a norm_stats.json of openpi's form: {error!r}") from error


def moments(values: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, " m *b"]:
    """Mean, deviation, 1 % and 99 % quantiles, which are some of the numbers, and range over the last axis."""
    mean, std = values.mean(axis=-1, dtype=np.float64), values.std(axis=-1, dtype=np.float64)
    quantiles = np.quantile(values, (0.01, 0.99), axis=-1, method="inverted_cdf")
    return np.array([mean, std, *quantiles, values.min(axis=-1), values.max(axis=-1)])
