"""Mean, deviation and quantiles of numbers that do not fit into memory, in two passes over them.

The first pass finds means and ranges, the second deviations and histograms over those ranges. So the result depends
neither on the order nor on how the stream is cut, and a quantile is right within one bin, a 5000th of the range.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pi05_progress.units.normalize import BINS, NormStats

Values = Float[np.ndarray, "n d"]
Weights = Float[np.ndarray, " n"]


class Extent:
    """The first pass: number, sum and range per dimension. Rows may count several times (``weights``)."""

    def __init__(self, size: int) -> None:
        self.count = 0.0
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self._sum = np.zeros(size)

    def add(self, values: Values, weights: Weights | None = None) -> None:
        """Add rows."""
        values = np.asarray(values, np.float64)
        self.count += len(values) if weights is None else float(weights.sum())
        self._sum += values.sum(axis=0) if weights is None else weights @ values
        self.low = np.minimum(self.low, values.min(axis=0))
        self.high = np.maximum(self.high, values.max(axis=0))

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """Of all rows."""
        return self._sum / self.count


class Spread:
    """The second pass, over the same rows as the first."""

    def __init__(self, extent: Extent) -> None:
        self._extent, size = extent, len(extent.low)
        self._width = (extent.high - extent.low) / BINS
        self._squares = np.zeros(size)
        self._counts = np.zeros(size * BINS)
        self._first_bins = np.arange(size) * BINS

    def add(self, values: Values, weights: Weights | None = None) -> None:
        """Add rows."""
        values = np.asarray(values, np.float64)
        squares = np.square(values - self._extent.mean)
        self._squares += squares.sum(axis=0) if weights is None else weights @ squares
        scaled = (values - self._extent.low) / np.where(self._width > 0, self._width, 1.0)
        bins = np.minimum(scaled.astype(np.int64), BINS - 1) + self._first_bins
        every = None if weights is None else np.repeat(weights, values.shape[1])
        self._counts += np.bincount(bins.ravel(), every, minlength=len(self._counts))

    def result(self) -> NormStats:
        """Mean, deviation (of the population), 1 % and 99 % quantiles."""
        std = np.sqrt(self._squares / self._extent.count)
        return NormStats(self._extent.mean, std, self._quantile(0.01), self._quantile(0.99))

    def _quantile(self, share: float) -> Float[np.ndarray, " d"]:
        counts = self._counts.reshape(-1, BINS)
        below = np.cumsum(counts, axis=1)
        target = share * self._extent.count
        index = (below < target).sum(axis=1)
        rows = np.arange(len(counts))
        inside = counts[rows, index]
        within = (target - (below[rows, index] - inside)) / inside
        return self._extent.low + (index + within) * self._width
