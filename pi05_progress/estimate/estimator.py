"""From beliefs over time to something to act on: progress, its rate, a status and time remaining that agree.

The model looks at one moment, and its answers jitter. Published progress is the median of the newest beliefs with some
play, so that it stands still where they only jitter. Everything else follows from published progress: the rate is its
slope, the status comes of its rate and height (``status.py``), time remaining of what is left. One estimator follows
one task.

Where the checkpoint has a temporal head, its belief, which remembers the whole run, takes the place of that median, and
tells the interval, stage, time remaining, whether the task is done, whether it has failed, and when it cannot know.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist, median, median_low

import numpy as np

from ..observation import CONFIDENCE_LEVEL, PolicyOutput
from .status import Status, StatusConfig, TaskCourse
from .temporal import DETECTORS, Memory, Recollection, TemporalHead

UNLIKE = "unlike the data"
MISFIT = "the instruction asks for something else than what is seen"
WINDOW_MIN = 3  # beliefs that are looked at together even if they come slowly: one that is far off changes nothing
DURATION_SPREAD = 0.3  # standard deviation of the logarithm of how long a task takes around what is expected


@dataclass(frozen=True)
class EstimatorConfig:
    """How it filters and when it says what."""

    measurement_std: float = 0.05  # of one belief around the truth, in progress, where the belief has no spread
    confidence_level: float = CONFIDENCE_LEVEL  # of the intervals
    window_s: float = 0.8  # beliefs of so long are looked at together
    rise: float = 0.005  # play upwards: published progress is at least their median minus this ...
    fall_stds: float = 2.0  # ... and downwards: at most their median plus so many of their standard deviations
    fall: float = 0.02  # the same where a temporal head believes, whose belief hardly jitters
    settle_rate: float = 0.005  # where a task counts as complete, published progress rises no faster than this, 1/s
    restart_jump: float = 0.4  # when the median is farther than this from published progress, the task has begun anew
    rate_s: float = 2.0  # the rate is the slope of published progress over so long
    reset_after_s: float = 5.0  # a gap after which nothing before counts
    late_s: float = 0.5  # so much older than the one before may an observation be; older still, time has gone back
    status: StatusConfig = field(default_factory=StatusConfig)  # thresholds of the status


@dataclass(frozen=True)
class Estimate:
    """What is believed now. None means unknown: 0.0 is a value."""

    progress: float | None = None  # filtered, in [0, 1]
    raw: float | None = None  # the model's, in [0, 1]
    # lower, upper: ends of the interval around `progress`
    lower: float | None = None
    upper: float | None = None
    confidence_level: float | None = None  # of the intervals
    rate: float | None = None  # slope of `progress`, 1/s
    # expected time until the task is complete if it goes on, s, with its interval; None while nothing tells how long
    # the task takes
    remaining_s: tuple[float, float, float] | None = None
    status: Status = Status.UNKNOWN  # UNKNOWN if and only if there is no progress
    success_probability: float | None = None  # that the task is complete now
    stage: int | None = None  # index of the present stage; None where no temporal head tells it, or the task has none
    stages: tuple[str, ...] = ()  # names of all stages of the task
    alarm: float | None = None  # how near detectors are to calling a failure, which is above 1; None where none are
    reason: str = ""  # why the status is FAILED, or UNKNOWN although the policy gives progress


@dataclass
class ProgressEstimator:
    """Feed it one output after the other; it starts anew when the task changes, time goes back, or after a gap."""

    config: EstimatorConfig = field(default_factory=EstimatorConfig)  # how it filters
    # what tasks usually take, s, by instruction; time remaining starts from it
    durations_s: Mapping[str, float] = field(default_factory=dict)
    temporal_head: bytes = b""  # the policy's; empty if it has none

    def __post_init__(self) -> None:
        self._head = TemporalHead(self.temporal_head) if self.temporal_head else None
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._task: str | None = None
        self._time_s = 0.0
        self._beliefs: deque[tuple[float, float, float]] = deque()  # time, belief, its standard deviation
        self._published: deque[tuple[float, float]] = deque()  # time, progress
        self._course: TaskCourse | None = None
        self._memory = None if self._head is None else Memory(self._head)

    def update(self, time_s: float, output: PolicyOutput, task: str, trained: bool = True) -> Estimate:
        """Take in a policy's output for the observation taken at ``time_s`` and an instruction. What is not ``trained``
        means nothing: only ``raw`` is passed on."""
        raw = output.progress
        if raw is None or not math.isfinite(raw) or not trained:
            self.reset()
            return Estimate(raw=raw if raw is not None and math.isfinite(raw) else None)
        if task != self._task or not -self.config.late_s <= time_s - self._time_s <= self.config.reset_after_s:
            self.reset()
            self._task, self._time_s = task, time_s
        self._time_s = max(time_s, self._time_s)
        if self._memory and self._head.reads(output):
            return self._remembered(raw, output)
        self._beliefs.append((self._time_s, raw, self._spread(output)))
        _forget(self._beliefs, self._time_s - self.config.window_s, WINDOW_MIN)
        beliefs = [belief for _, belief, _ in self._beliefs]
        level, std = median(beliefs), median(std for *_, std in self._beliefs)
        if abs(level - median_low(beliefs)) > self.config.restart_jump / 4:
            level = median_low(beliefs)  # nobody is between two camps of beliefs
        progress = self._publish(level, self.config.fall_stds * std)
        rate = _slope(self._published)
        status = self._course.update(self._time_s, progress, rate, level)
        return self._estimate(raw, progress, std, rate, status)

    def _remembered(self, raw: float, output: PolicyOutput) -> Estimate:
        """What the temporal head makes of it."""
        head, c = self._head, self.config
        of = self._memory.update(self._time_s, output)
        misfits = head.judges_instructions and of.misfit > head.about.misfit
        if of.distance > head.about.unlike or misfits:
            self._memory.rest()
            return Estimate(raw=raw, reason=MISFIT if misfits else UNLIKE)
        progress = self._publish(of.progress, c.fall)
        rate = _slope(self._published)
        status = self._course.update(self._time_s, progress, rate, of.progress)
        low, high = head.interval(of, c.confidence_level)
        stages, alarm, reason = tuple(head.about.stages.get(self._task, ())), 0.0, ""
        usual_s = self.durations_s.get(self._task, head.about.durations_s.get(self._task))
        if status == Status.SUCCEEDED:
            self._memory.rest()
            remaining = (0.0, 0.0, 0.0)
        else:
            remaining = None if usual_s is None else head.remaining(of, c.confidence_level, usual_s)
            alarm, why = self._alarm(progress, of)
            reason = why if alarm > 1 else ""
        return Estimate(
            progress=progress, raw=raw, lower=min(low, progress), upper=max(high, progress),
            confidence_level=c.confidence_level, rate=rate, remaining_s=remaining,
            status=Status.FAILED if reason else status, success_probability=of.done,
            stage=min(of.stage, len(stages) - 1) if stages else None, stages=stages, alarm=alarm, reason=reason,
        )  # fmt: skip

    def _alarm(self, progress: float, of: Recollection) -> tuple[float, str]:
        """The detector of failure that is farthest beyond what successful episodes show: how far, and what it says."""
        found, limits = self._memory.detected(self._time_s, progress, of), self._head.about.alarms
        beyond = {name: found[name] / max(limits[name], 1e-6) for name in DETECTORS if name in limits}
        most = max(beyond, key=beyond.__getitem__, default="")
        return (float(beyond[most]), DETECTORS[most].format(found[most])) if most else (0.0, "")

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

    def _publish(self, level: float, fall: float) -> float:
        """Progress as it is published from now on; it falls where beliefs are lower by more than ``fall``."""
        c = self.config
        before_s, progress = self._published[-1] if self._published else (self._time_s, level)
        if abs(level - progress) > c.restart_jump:  # begun anew: only beliefs of the new start count
            self._beliefs = deque(b for b in self._beliefs if abs(b[1] - level) < abs(b[1] - progress))
            self._published.clear()
            self._course, progress = None, level
            if self._memory:
                self._memory.rest()
        elif progress > c.status.success_above and level >= c.status.success_leave:  # done or nearly: it settles
            progress = max(progress, min(level - c.rise, progress + c.settle_rate * (self._time_s - before_s)))
        else:
            progress = min(max(progress, level - c.rise), level + fall)
        if self._course is None:
            began_s = self._time_s + c.window_s / 2  # published progress is so much behind
            self._course = TaskCourse(c.status, began_s, progress, self.durations_s.get(self._task))
        self._published.append((self._time_s, progress))
        _forget(self._published, self._time_s - c.rate_s, 2)
        return progress

    def _estimate(self, raw: float, progress: float, std: float, rate: float, status: Status) -> Estimate:
        z = NormalDist().inv_cdf((1 + self.config.confidence_level) / 2)
        lower, upper = max(0.0, progress - z * std), min(1.0, progress + z * std)
        duration = 0.0 if status == Status.SUCCEEDED else self._course.duration_s
        factor, remaining = math.exp(z * DURATION_SPREAD), None
        if duration is not None:
            remaining = (1 - progress) * duration, (1 - upper) * duration / factor, (1 - lower) * duration * factor
        return Estimate(
            progress=progress,
            raw=raw,
            lower=lower,
            upper=upper,
            confidence_level=self.config.confidence_level,
            rate=rate,
            remaining_s=remaining,
            status=status,
            success_probability=1 - NormalDist(progress, std).cdf(self.config.status.success_above),
        )


def _forget(values: deque, before_s: float, least: int) -> None:
    """Drop values from before a time, but keep so many."""
    while len(values) > least and values[0][0] < before_s - 1e-9:
        values.popleft()


def _slope(values: deque[tuple[float, float]]) -> float:
    """Slope, 1/s: half-way between that of least squares and that from the first value to the last."""
    (first_s, first), (last_s, last) = values[0], values[-1]
    if last_s <= first_s:
        return 0.0
    mean_s = sum(t for t, _ in values) / len(values)
    fitted = sum((t - mean_s) * (p - first) for t, p in values) / sum((t - mean_s) ** 2 for t, _ in values)
    return (fitted + (last - first) / (last_s - first_s)) / 2
