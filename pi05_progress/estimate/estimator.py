"""From beliefs over time to something to act on: filtered progress, rate, time remaining, status.

The model looks at one moment and its answers jitter; this keeps a progress and a rate with their uncertainty (a Kalman
filter with white acceleration: Bar-Shalom et al., "Estimation with Applications to Tracking and Navigation", 6.2.2) and
decides a status by thresholds with hysteresis (``progress_status.py``). One estimator follows one task.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import NormalDist, median

import numpy as np

from ..observation import CONFIDENCE_LEVEL, PolicyOutput
from .status import Status, StatusConfig, StatusTracker

WINDOW_MIN = 5  # beliefs that are looked at together even if they come slowly
MEAN_PACE_AFTER_S = 2.0  # into a task before its mean pace says anything
MEAN_PACE_SPREAD = 0.5  # standard deviation of the pace to come around the mean so far, as a share of it


@dataclass(frozen=True)
class EstimatorConfig:
    """How it filters and when it says what.

    Attributes:
        measurement_std: of one belief of the model around the truth, in progress, where the belief has no spread.
        correlation_s: how long the errors of neighbouring beliefs hang together, s. Many beliefs within this time are
            worth one.
        acceleration_std: by how much the rate changes within a second, 1/s.
        initial_rate_std: how fast tasks go, 1/s, before anything is known.
        confidence_level: of the intervals.
        window_s: beliefs of so long are looked at together: their median must agree with success, and the filter does
            not overshoot them.
        restart_jump: when that median is farther than this from the filter, the task has begun anew.
        min_rate: below this pace no time remaining is given, 1/s.
        reset_after_s: a gap after which nothing before counts.
        late_s: an observation may be older than the one before by this, s; if it is older still, time has gone back.
        status: thresholds of the status.
    """

    measurement_std: float = 0.05
    correlation_s: float = 0.5
    acceleration_std: float = 0.02
    initial_rate_std: float = 0.05
    confidence_level: float = CONFIDENCE_LEVEL
    window_s: float = 1.0
    restart_jump: float = 0.4
    min_rate: float = 0.002
    reset_after_s: float = 5.0
    late_s: float = 0.5
    status: StatusConfig = field(default_factory=StatusConfig)


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
        self._window: deque[tuple[float, float]] = deque()
        self._tracker: StatusTracker | None = None

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
        if task != self._task or gap is None or not -self.config.late_s <= gap <= self.config.reset_after_s:
            self._start(time_s, raw, task)
        else:
            self._time_s = max(time_s, self._time_s)
            self._remember(raw)
            self._filter(max(gap, 0.0), raw, self._spread(output))
        return self._estimate(raw)

    def _start(self, time_s: float, progress: float, task: str) -> None:
        self.reset()
        c = self.config
        self._task, self._time_s = task, time_s
        self._mean = np.array([progress, 0.0])
        self._covariance = np.diag([c.measurement_std**2, c.initial_rate_std**2])
        self._tracker = StatusTracker(c.status, time_s, progress)
        self._remember(progress)

    def _remember(self, raw: float) -> None:
        self._window.append((self._time_s, raw))
        while len(self._window) > WINDOW_MIN and self._window[0][0] < self._time_s - self.config.window_s:
            self._window.popleft()

    def _spread(self, output: PolicyOutput) -> float:
        """Standard deviation of the belief, from its bins or its interval; never below half of the configured one."""
        if output.progress_belief is not None:
            bins = np.asarray(output.progress_belief, float)
            centres = (np.arange(len(bins)) + 0.5) / len(bins)
            std = math.sqrt(max(float(bins @ np.square(centres - bins @ centres)), 0.0))
        elif output.progress_interval is not None:  # a policy server tells no bins
            lower, upper = output.progress_interval
            std = (upper - lower) / (2 * NormalDist().inv_cdf((1 + output.confidence_level) / 2))
        else:
            return self.config.measurement_std
        return max(std, self.config.measurement_std / 2)

    def _filter(self, dt: float, raw: float, std: float) -> None:
        if dt <= 0:
            return
        c = self.config
        step = np.array([[1.0, dt], [0.0, 1.0]])
        noise = c.acceleration_std**2 * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
        mean = step @ self._mean
        covariance = step @ self._covariance @ step.T + noise
        variance = std**2 * max(1.0, 2 * c.correlation_s / dt)  # of a mean of errors that hang together
        gain = covariance[:, 0] / (covariance[0, 0] + variance)
        self._mean = mean + gain * (raw - mean[0])
        self._covariance = covariance - np.outer(gain, covariance[0])
        beliefs = [value for _, value in self._window]
        low, high = (0.0, max(beliefs)) if self._mean[1] > 0 else (min(beliefs), 1.0)
        self._mean[0] = np.clip(self._mean[0], low, high)
        if abs(median(beliefs) - self._mean[0]) > c.restart_jump and len(beliefs) >= WINDOW_MIN:
            self._start(self._time_s, raw, self._task)

    def _estimate(self, raw: float) -> Estimate:
        c = self.config
        progress, rate = float(self._mean[0]), float(self._mean[1])
        std, rate_std = (float(v) for v in np.sqrt(np.maximum(np.diag(self._covariance), 1e-12)))
        z = NormalDist().inv_cdf((1 + c.confidence_level) / 2)
        level = min(progress, median(value for _, value in self._window))
        status = self._tracker.update(self._time_s, progress, std, level)
        return Estimate(
            progress=progress,
            raw=raw,
            lower=max(0.0, progress - z * std),
            upper=min(1.0, progress + z * std),
            confidence_level=c.confidence_level,
            rate=rate,
            remaining_s=self._remaining(progress, rate, rate_std, z, status),
            status=status,
            success_probability=1 - NormalDist(progress, std).cdf(c.status.success_above),
        )

    def _remaining(
        self, progress: float, rate: float, rate_std: float, z: float, status: Status
    ) -> tuple[float, float, float] | None:
        """(expected, lower, upper) s at the pace of now and of the task so far, weighted by how sure each is."""
        if status == Status.SUCCEEDED:
            return 0.0, 0.0, 0.0
        if status != Status.ADVANCING:
            return None
        pace, weight = rate, rate_std**-2
        seconds = self._time_s - self._tracker.start_s
        mean = (progress - self._tracker.start_progress) / seconds if seconds > MEAN_PACE_AFTER_S else 0.0
        if mean > 0:
            mean_weight = (MEAN_PACE_SPREAD * mean) ** -2
            pace = (pace * weight + mean * mean_weight) / (weight + mean_weight)
            weight += mean_weight
        if pace < self.config.min_rate:
            return None
        left, spread = 1.0 - progress, z * weight**-0.5
        return left / pace, left / (pace + spread), left / max(pace - spread, self.config.min_rate)
