"""When a goal has ended, by the progress of its task and by time. No ROS in here, no clock, no thread."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pi05_progress.estimate.status import Status

from .state_machine import Ending, Reason

BEGUN_BELOW = 0.5  # progress that a task must have been seen below for its success to be the goal's
HOLD_S = 1.0  # success_hold_s, where a threshold is given without it; and how long FAILED has to last
ABOVE = "above the threshold"
OUTCOMES = {Reason.SUCCEEDED: 1, Reason.ALREADY_DONE: 1, Reason.FAILED: 2}  # as in RunTask; all others: 0, unknown


@dataclass(frozen=True)
class GoalLimits:
    """When a goal ends; as in ``RunTask``, without zeros that stand for something else."""

    max_duration_s: float
    stall_timeout_s: float
    success_threshold: float | None = None  # of progress; None: when its status is SUCCEEDED
    success_hold_s: float = HOLD_S
    stop_on_failure: bool = False


class GoalJudge:
    """Hears every estimate of a goal, accepted ``now_s``, and says when it has ended.

    Times are s of one clock that only goes forward.
    """

    def __init__(self, limits: GoalLimits, now_s: float) -> None:
        self._limits, self._began_s = limits, now_s
        self._begun = False  # whether progress has been below BEGUN_BELOW
        self._since_s: dict[Status | str, float] = {}  # since when it has its status, and is above the threshold

    def hear(self, progress: float, status: int, now_s: float) -> None:
        """A new estimate: filtered progress in [0, 1], NaN if it is not known, and its status."""
        self._begun = self._begun or progress < BEGUN_BELOW
        above = self._limits.success_threshold is not None and progress >= self._limits.success_threshold
        now = (Status(status), *((ABOVE,) if above else ()))
        self._since_s = {what: self._since_s.get(what, now_s) for what in now}

    def ending(self, now_s: float) -> Ending | None:
        """Whether it has ended, and why."""
        limits, elapsed_s = self._limits, now_s - self._began_s
        if self._done(now_s):
            if self._begun:
                return Ending(Reason.SUCCEEDED, f"done after {elapsed_s:.1f} s")
            text = f"progress has not been below {BEGUN_BELOW:g} since the goal began: it was done already"
            return Ending(Reason.ALREADY_DONE, text)
        if limits.stop_on_failure and self._held_s(Status.FAILED, now_s) >= HOLD_S:
            return Ending(Reason.FAILED, f"failed after {elapsed_s:.1f} s")
        if self._held_s(Status.STALLED, now_s) >= limits.stall_timeout_s:
            return Ending(Reason.STALLED, f"no progress: STALLED for {limits.stall_timeout_s:g} s")
        if elapsed_s >= limits.max_duration_s:
            return Ending(Reason.TIMED_OUT, f"not done within {limits.max_duration_s:g} s")
        return None

    def _done(self, now_s: float) -> bool:
        if self._limits.success_threshold is None:  # a status that is held before it is said
            return Status.SUCCEEDED in self._since_s
        return self._held_s(ABOVE, now_s) >= self._limits.success_hold_s

    def _held_s(self, what: Status | str, now_s: float) -> float:
        return now_s - self._since_s.get(what, math.inf)
