"""Mean, deviation and exact quantiles of numbers that do not fit into memory, in two passes over them.

The bits of a float32, with those of negative numbers turned over, are whole numbers in the same order. The first pass
counts numbers by the upper half of these bits, the second counts by the lower half those that share the upper half with
a quantile. So a quantile is one of the numbers, no outlier moves it, and the result depends neither on the order nor on
how the stream is cut.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, UInt32

from pi05_progress.units.normalize import NormStats

Values = Float[np.ndarray, "n d"]
Weights = Float[np.ndarray, " n"]
SHARES = (0.01, 0.99)
HALF = 16  # bits


def _ordered(values: Values) -> UInt32[np.ndarray, "n d"]:
    """Whole numbers in the order of the numbers, rounded to float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _number(ordered: UInt32[np.ndarray, " d"]) -> Float32[np.ndarray, " d"]:
    """The inverse."""
    return np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered).view(np.float32)


def _counted(counts: Float[np.ndarray, "d n"], target: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Per row the index at which its sum reaches the target, and what is left of the target there."""
    sums = np.cumsum(counts, axis=1)
    index = (sums < target[:, None]).sum(axis=1)
    return index, target - (sums - counts)[np.arange(len(counts)), index]


class Extent:
    """The first pass: number, sum and range per dimension. Rows may count several times (``weights``)."""

    def __init__(self, size: int) -> None:
        self.count = 0.0
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self._sum = np.zeros(size)
        self.upper = np.zeros((size, 1 << HALF))

    def add(self, values: Values, weights: Weights | None = None) -> None:
        """Add rows."""
        weights = np.ones(len(values)) if weights is None else weights
        self.count += float(weights.sum())
        self._sum += weights @ np.asarray(values, np.float64)
        self.low = np.minimum(self.low, values.min(axis=0))
        self.high = np.maximum(self.high, values.max(axis=0))
        np.add.at(self.upper, (np.arange(values.shape[1]), _ordered(values) >> HALF), weights[:, None])

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """Of all rows."""
        return self._sum / self.count


class Spread:
    """The second pass, over the same rows as the first."""

    def __init__(self, extent: Extent) -> None:
        self._extent, size = extent, len(extent.low)
        self._squares = np.zeros(size)
        self._found = [_counted(extent.upper, np.full(size, share * extent.count)) for share in SHARES]
        self._lower = np.zeros((len(SHARES), size, 1 << HALF))

    def add(self, values: Values, weights: Weights | None = None) -> None:
        """Add rows."""
        weights = np.ones(len(values)) if weights is None else weights
        self._squares += weights @ np.square(np.asarray(values, np.float64) - self._extent.mean)
        ordered = _ordered(values)
        for lower, (upper, _) in zip(self._lower, self._found, strict=True):
            row, column = np.nonzero(ordered >> HALF == upper)
            np.add.at(lower, (column, ordered[row, column] & ((1 << HALF) - 1)), weights[row])

    def result(self) -> NormStats:
        """Mean, deviation (of the population), 1 % and 99 % quantiles: the least number that so many do not exceed."""
        std = np.sqrt(self._squares / self._extent.count)
        halves = [(up, _counted(low, left)[0]) for low, (up, left) in zip(self._lower, self._found, strict=True)]
        q01, q99 = (_number((up << HALF | low).astype(np.uint32)).astype(np.float64) for up, low in halves)
        return NormStats(self._extent.mean, std, q01, q99)
