"""Which status a course of progress has: it follows from published progress and its rate, so that they agree.

Progress that moves has the status of its direction; progress that hardly moves is done, or still rising slowly, or
stands still. What counts as slow is measured by how long the task takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

OWN_PACE_AFTER = 0.5  # progress after which a run's own pace counts as much as what the task usually takes
JUMP = 0.08  # progress at once beyond this is beliefs that change, no work done
OWN_PACE_ALONE = 0.08  # progress after which it is taken where that is not known


class Status(IntEnum):
    """As in ``TaskProgress``. FAILED is never decided here: it takes a temporal head to tell it from a stall."""

    UNKNOWN = 0
    ADVANCING = 1
    STALLED = 2
    REGRESSING = 3
    SUCCEEDED = 4
    FAILED = 5


@dataclass(frozen=True)
class StatusConfig:
    """The thresholds."""

    still_rate: float = 0.01  # ADVANCING or REGRESSING, by direction, when progress changes faster than this, 1/s
    step: float = 0.03  # slower progress is ADVANCING, too, if it has risen by this ...
    patience_s: float = 4.0  # ... within this time, else it is STALLED ...
    patience_steps: float = 3.0  # ... or within so many times as long as such a step takes at the task's pace ...
    patience_max_s: float = 60.0  # ... but not within more than this
    first_patience_s: float = 20.0  # the same while nothing is known of the task's pace
    success_above: float = 0.95  # SUCCEEDED when progress and beliefs have been above ...
    success_for_s: float = 1.0  # ... for so long ...
    success_leave: float = 0.85  # ... until beliefs fall below this


class TaskCourse:
    """Follows one run of a task: its status, and how long the whole of it takes at its own pace.

    It begins with the time, s, and the progress of its first moment; ``typical_s`` is what the task usually takes, s,
    None if that is not known.
    """

    def __init__(self, config: StatusConfig, time_s: float, progress: float, typical_s: float | None) -> None:
        self._config, self._typical_s, self.status = config, typical_s, Status.ADVANCING
        self.duration_s = typical_s  # expected of the whole task without stalls, s; None while nothing tells it
        self._anchor, self._moved_s, self._rising = progress, time_s, True  # at its last step; not since it fell
        self._worked_s, self._gained = 0.0, 0.0  # over all steps so far, stalls left out
        self._above_s: float | None = None

    def update(self, time_s: float, progress: float, rate: float, level: float) -> Status:
        """The status now, by the time, s, progress as it is published, its rate, 1/s, and its ``level`` by the newest
        beliefs."""
        c = self._config
        if progress >= self._anchor + c.step:
            self._step(time_s, progress)
        elif progress < self._anchor:
            self._anchor, self._rising = progress, False
        leave = c.success_leave if self.status == Status.SUCCEEDED else c.success_above
        if min(progress, level) <= leave:
            self._above_s = None
        elif self._above_s is None:
            self._above_s = time_s
        if abs(rate) > c.still_rate:
            self.status = Status.ADVANCING if rate > 0 else Status.REGRESSING
        elif self._above_s is not None and time_s - self._above_s >= c.success_for_s:
            self.status = Status.SUCCEEDED
        elif self._rising and rate >= 0 and time_s - self._moved_s < self._patience_s():
            self.status = Status.ADVANCING
        elif self.status != Status.STALLED:  # what it has crept until now is no step
            self._anchor, self._rising, self.status = progress, False, Status.STALLED
        return self.status

    def _step(self, time_s: float, progress: float) -> None:
        """Progress has risen by a step: how long it took tells the task's pace, unless it was stalled before."""
        seconds, gain = time_s - self._moved_s, progress - self._anchor
        if seconds < self._patience_s():
            self._worked_s += max(seconds, 0.0)
            self._gained += gain if gain < JUMP else 0.0
            own_s, share = self._worked_s / max(self._gained, OWN_PACE_ALONE), self._gained**2
            if self._typical_s is not None:
                share /= share + OWN_PACE_AFTER**2
                self.duration_s = share * own_s + (1 - share) * self._typical_s
            elif self._gained >= OWN_PACE_ALONE:
                self.duration_s = own_s
        self._anchor, self._moved_s, self._rising = progress, time_s, True

    def _patience_s(self) -> float:
        c = self._config
        if self.duration_s is None:
            return c.first_patience_s
        return min(max(c.patience_s, c.patience_steps * c.step * self.duration_s), c.patience_max_s)
