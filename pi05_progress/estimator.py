"""From beliefs over time to something to act on: filtered progress, rate, time remaining, status.

The model looks at one moment and its answers jitter; this keeps a progress and a rate with their uncertainty (a Kalman
filter with constant velocity) and decides a status by thresholds with hysteresis. One estimator follows one task.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from statistics import NormalDist

import numpy as np

from .observation import PolicyOutput


class Status(IntEnum):
    """As in ``TaskProgress``."""

    UNKNOWN = 0
    ADVANCING = 1
    STALLED = 2
    REGRESSING = 3
    SUCCEEDED = 4
    FAILED = 5


@dataclass(frozen=True)
class EstimatorConfig:
    """How it filters and when it says what.

    Attributes:
        measurement_std: of one belief of the model around the truth, in progress, where the belief has no spread.
        acceleration_std: how fast the rate may change, 1/s^2.
        initial_rate_std: how fast tasks go, 1/s, before anything is known.
        confidence_level: of the intervals.
        success_above, success_for_s: SUCCEEDED when progress has been above for so long ...
        success_leave: ... until it falls below this.
        regress_rate: REGRESSING when the rate falls below minus this, 1/s ...
        advance_rate: ... ADVANCING when it rises above this; in between nothing changes ...
        stall_after_s: ... but STALLED when no new greatest progress (by ``stall_step``) came for so long.
        stall_step: progress that counts as new.
        min_rate: below this rate no time remaining is given, 1/s.
        reset_after_s: a gap after which nothing before counts.
    """

    measurement_std: float = 0.05
    acceleration_std: float = 0.02
    initial_rate_std: float = 0.05
    confidence_level: float = 0.9
    success_above: float = 0.95
    success_for_s: float = 1.0
    success_leave: float = 0.85
    regress_rate: float = 0.02
    advance_rate: float = 0.005
    stall_after_s: float = 4.0
    stall_step: float = 0.02
    min_rate: float = 0.002
    reset_after_s: float = 5.0


@dataclass(frozen=True)
class Estimate:
    """What is believed now. None means unknown: 0.0 is a value.

    Attributes:
        progress: filtered, in [0, 1].
        raw: the model's, in [0, 1].
        lower, upper: ends of the interval around ``progress``.
        confidence_level: of the intervals.
        rate: 1/s.
        remaining_s: expected time until the task is complete, s, with its interval; None while it cannot be told.
        status: see ``Status``.
        success_probability: that the task is complete now.
    """

    progress: float | None = None
    raw: float | None = None
    lower: float | None = None
    upper: float | None = None
    confidence_level: float | None = None
    rate: float | None = None
    remaining_s: tuple[float, float, float] | None = None
    status: Status = Status.UNKNOWN
    success_probability: float | None = None


@dataclass
class ProgressEstimator:
    """Feed it one output after the other; it starts anew when the task changes, time goes back, or after a gap."""

    config: EstimatorConfig = field(default_factory=EstimatorConfig)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._task: str | None = None
        self._time_s: float | None = None
        self._mean = np.zeros(2)
        self._covariance = np.zeros((2, 2))
        self._status = Status.UNKNOWN
        self._best, self._best_s = -math.inf, 0.0
        self._above_s: float | None = None

    def update(self, time_s: float, output: PolicyOutput, task: str, trained: bool = True) -> Estimate:
        """Take in one output.

        Args:
            time_s: when the observation was taken, s.
            output: the policy's.
            task: the instruction.
            trained: whether the model's belief means anything; if not, only ``raw`` is passed on.
        """
        raw = output.progress
        if raw is None or not math.isfinite(raw) or not trained:
            self.reset()
            return Estimate(raw=raw if raw is not None and math.isfinite(raw) else None)
        gap = None if self._time_s is None else time_s - self._time_s
        if task != self._task or gap is None or not 0 <= gap <= self.config.reset_after_s:
            self._start(time_s, raw, task)
        else:
            self._filter(gap, raw, self._spread(output))
            self._time_s = time_s
        return self._estimate(time_s, raw)

    def _start(self, time_s: float, raw: float, task: str) -> None:
        self.reset()
        c = self.config
        self._task, self._time_s = task, time_s
        self._mean = np.array([raw, 0.0])
        self._covariance = np.diag([c.measurement_std**2, c.initial_rate_std**2])
        self._best, self._best_s = raw, time_s

    def _spread(self, output: PolicyOutput) -> float:
        """Standard deviation of the belief, from its bins if it has any; never below half of the configured one."""
        if output.progress_belief is None:
            return self.config.measurement_std
        bins = np.asarray(output.progress_belief, float)
        centres = (np.arange(len(bins)) + 0.5) / len(bins)
        std = math.sqrt(max(float(bins @ np.square(centres - bins @ centres)), 0.0))
        return max(std, self.config.measurement_std / 2)

    def _filter(self, dt: float, raw: float, std: float) -> None:
        step = np.array([[1.0, dt], [0.0, 1.0]])
        noise = self.config.acceleration_std**2 * np.array([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]])
        mean = step @ self._mean
        covariance = step @ self._covariance @ step.T + noise
        gain = covariance[:, 0] / (covariance[0, 0] + std**2)
        self._mean = mean + gain * (raw - mean[0])
        self._mean[0] = np.clip(self._mean[0], 0.0, 1.0)
        self._covariance = covariance - np.outer(gain, covariance[0])

    def _estimate(self, time_s: float, raw: float) -> Estimate:
        c = self.config
        progress, rate = float(self._mean[0]), float(self._mean[1])
        std, rate_std = np.sqrt(np.maximum(np.diag(self._covariance), 1e-12))
        z = NormalDist().inv_cdf((1 + c.confidence_level) / 2)
        self._decide(time_s, progress, rate)
        return Estimate(
            progress=progress,
            raw=raw,
            lower=max(0.0, progress - z * float(std)),
            upper=min(1.0, progress + z * float(std)),
            confidence_level=c.confidence_level,
            rate=rate,
            remaining_s=self._remaining(progress, rate, z * float(rate_std)),
            status=self._status,
            success_probability=1 - NormalDist(progress, float(std)).cdf(c.success_above),
        )

    def _remaining(self, progress: float, rate: float, spread: float) -> tuple[float, float, float] | None:
        """(expected, lower, upper) s from the rate; None while the rate may as well be too slow to tell."""
        left = 1.0 - progress
        if self._status == Status.SUCCEEDED:
            return 0.0, 0.0, 0.0
        if rate < self.config.min_rate or self._status != Status.ADVANCING:
            return None
        slow = max(rate - spread, self.config.min_rate)
        return left / rate, left / (rate + spread), left / slow

    def _decide(self, time_s: float, progress: float, rate: float) -> None:
        c = self.config
        if progress > self._best + c.stall_step:
            self._best, self._best_s = progress, time_s
        if progress <= c.success_above:
            self._above_s = None
        elif self._above_s is None:
            self._above_s = time_s
        if self._status == Status.SUCCEEDED:
            if progress >= c.success_leave:
                return
            self._status = Status.UNKNOWN
        if self._above_s is not None and time_s - self._above_s >= c.success_for_s:
            self._status = Status.SUCCEEDED
        elif rate < -c.regress_rate:
            self._status = Status.REGRESSING
            self._best, self._best_s = progress, time_s  # what is made up for again is progress
        elif rate > c.advance_rate and time_s - self._best_s < c.stall_after_s:
            self._status = Status.ADVANCING
        elif time_s - self._best_s >= c.stall_after_s:
            self._status = Status.STALLED
