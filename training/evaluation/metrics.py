"""What one episode's predictions are worth, as array functions. Every definition stands in docs/evaluation.md, too.

``prediction`` and ``truth`` are progress in [0, 1] at the same moments; NaN where nothing was predicted, or nothing is
known. Moments at which either is missing count for nothing; where none is left, the result is NaN.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from ..labels.methods import runs


def _both(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(first) & np.isfinite(second)
    return np.asarray(first, float)[known], np.asarray(second, float)[known]


def _rank_correlation(which: Literal["spearmanr", "kendalltau"], prediction: np.ndarray, order: np.ndarray) -> float:
    prediction, order = _both(prediction, order)
    if len(prediction) < 2:
        return np.nan
    if np.ptp(prediction) == 0 or np.ptp(order) == 0:
        return 0.0  # who always says the same tells no order; the formulas would divide by 0
    from scipy import stats  # importing it takes a second, which training would wait for at its start

    return float(getattr(stats, which)(prediction, order).statistic)


def spearman(prediction: Float[np.ndarray, " n"], time: Float[np.ndarray, " n"]) -> float:
    """Value-order correlation: Spearman's rank correlation of prediction and time, in [-1, 1]; 0 if one is constant.

    So Ma et al. judge the values predicted for an expert's episode: "Vision Language Models are In-Context Value
    Learners" (generative value learning, GVL).
    """
    return _rank_correlation("spearmanr", prediction, time)


def kendall(prediction: Float[np.ndarray, " n"], time: Float[np.ndarray, " n"]) -> float:
    """Kendall's tau-b of prediction and time, in [-1, 1], which takes ties into account; 0 if one is constant."""
    return _rank_correlation("kendalltau", prediction, time)


def brier(probability: Float[np.ndarray, " n"], happened: Bool[np.ndarray, " n"]) -> float:
    """Mean squared difference of probabilities and what happened (Brier, 1950)."""
    return float(np.mean(np.square(probability - happened)))


def reliability(
    probability: Float[np.ndarray, " n"], happened: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """Of moments in tenths of the probability the mean that was said, and the share in which it happened."""
    from sklearn.calibration import calibration_curve  # takes a second to import, and training needs it not

    known = np.isfinite(probability)
    share, said = calibration_curve(happened[known], probability[known].clip(0, 1), n_bins=10)
    return said, share


def mean_error(prediction: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]) -> float:
    """Mean absolute error."""
    prediction, truth = _both(prediction, truth)
    return float(np.abs(prediction - truth).mean()) if len(truth) else np.nan


def sum_of_drops(prediction: Float[np.ndarray, " n"]) -> float:
    """By how much the prediction fell, all falls from one moment to the next added up; 0 if it never fell."""
    known = prediction[np.isfinite(prediction)]
    return float(np.maximum(-np.diff(known), 0).sum()) if len(known) else np.nan


def excursion(prediction: Float[np.ndarray, " n"]) -> float:
    """How far the prediction went from its first value, in either direction, whether or not it came back."""
    known = prediction[np.isfinite(prediction)]
    return float(np.abs(known - known[0]).max()) if len(known) else np.nan


def last_before(
    time_s: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], moments_s: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " m"]:
    """The newest value at or before each moment: what was known then; NaN before the first."""
    index = np.searchsorted(time_s, np.asarray(moments_s) + 1e-9, side="right") - 1
    return np.where(index >= 0, np.asarray(values, float)[np.maximum(index, 0)], np.nan)


def longest_above(time_s: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], threshold: float) -> float:
    """The longest time in s for which values stay above a threshold. A value holds until the next one; the last one
    for as long as the one before it."""
    time_s = np.asarray(time_s, float)
    until = np.append(time_s[1:], time_s[-1:] + np.diff(time_s)[-1:].sum())
    above = np.asarray(values) > threshold  # False for NaN
    return max((float(until[stop - 1] - time_s[start]) for start, stop in runs(above)), default=0.0)


def clock(time_s: Float[np.ndarray, " n"], median_s: float) -> Float[np.ndarray, " n"]:
    """What somebody who only looks at the clock would say: ``min(1, t / median)`` of the task's training durations."""
    return np.minimum(1.0, np.asarray(time_s, float) / median_s) if median_s > 0 else np.ones(len(time_s))


def central_interval(bins: Float[np.ndarray, "n b"], level: float) -> Float[np.ndarray, "n 2"]:
    """The interval between equal tails that holds ``level`` of a belief's probability, taken as even within bins."""
    return np.stack([_quantile(bins, (1 - level) / 2), _quantile(bins, (1 + level) / 2)], axis=1)


def _quantile(bins: np.ndarray, share: float) -> np.ndarray:
    bins = bins / bins.sum(axis=1, keepdims=True)
    below = np.cumsum(bins, axis=1)
    index = np.minimum((below < share).sum(axis=1), bins.shape[1] - 1)
    rows = np.arange(len(bins))
    inside = bins[rows, index]
    within = (share - (below[rows, index] - inside)) / np.maximum(inside, 1e-12)
    return np.clip((index + np.clip(within, 0, 1)) / bins.shape[1], 0, 1)


def covered(interval: Float[np.ndarray, "n 2"], truth: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether each interval holds the truth, its ends included."""
    return (interval[:, 0] - 1e-9 <= truth) & (truth <= interval[:, 1] + 1e-9)


def crps(bins: Float[np.ndarray, "n b"], truth: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Continuous ranked probability score of beliefs over equal bins of [0, 1], taken as even within each bin.

    The integral over [0, 1] of ``(F(x) - [x >= truth])^2`` (Gneiting and Raftery, "Strictly Proper Scoring Rules,
    Prediction, and Estimation", 2007), exact: F is linear within a bin, and the bin that holds the truth is cut there.
    It is the absolute error where a belief is one point, and 0 only for certainty of the truth.
    """
    bins = np.asarray(bins, float) / np.sum(bins, axis=1, keepdims=True)
    count = bins.shape[1]
    after = np.cumsum(bins, axis=1)
    before = after - bins
    edges = np.arange(count) / count
    # the share of each bin that lies below the truth: 1, 0, or in the one that is cut something between
    part = np.clip((truth[:, None] - edges) * count, 0, 1)
    at = before + part * bins

    def area(low: np.ndarray, high: np.ndarray, width: np.ndarray) -> np.ndarray:
        return width * (low * low + low * high + high * high) / 3

    below = area(before, at, part / count)
    above = area(1 - at, 1 - after, (1 - part) / count)
    return (below + above).sum(axis=1)
