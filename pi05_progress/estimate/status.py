"""Which status a course of progress has: ADVANCING, STALLED, REGRESSING, SUCCEEDED. Thresholds with hysteresis.

Progress counts as changed only when it has left its last confirmed value (the anchor) by a step; the step grows with
the uncertainty, so that noise confirms nothing, and neither do values that wander about a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """As in ``TaskProgress``. FAILED is never decided here: progress alone cannot tell it from a stall."""

    UNKNOWN = 0
    ADVANCING = 1
    STALLED = 2
    REGRESSING = 3
    SUCCEEDED = 4
    FAILED = 5


@dataclass(frozen=True)
class StatusConfig:
    """The thresholds.

    Attributes:
        step_up: ADVANCING when progress has risen by this, or by its standard deviation if that is larger.
        step_down: REGRESSING when it has fallen by this, or by twice its standard deviation.
        patience_s: STALLED when neither came for so long ...
        patience_steps: ... or for as many times as long as a step took so far, so that slow tasks are not stalls ...
        patience_max_s: ... but not longer than this.
        first_patience_s: the same before anything was confirmed.
        success_above, success_for_s: SUCCEEDED when progress has been above for so long ...
        success_leave: ... until it falls below this.
    """

    step_up: float = 0.03
    step_down: float = 0.06
    patience_s: float = 4.0
    patience_steps: float = 3.0
    patience_max_s: float = 60.0
    first_patience_s: float = 20.0
    success_above: float = 0.95
    success_for_s: float = 1.0
    success_leave: float = 0.85


class StatusTracker:
    """Follows one task from its first moment on.

    Args:
        config: the thresholds.
        time_s: of that moment, s.
        progress: at that moment.
    """

    def __init__(self, config: StatusConfig, time_s: float, progress: float) -> None:
        self._config = config
        self._restart(time_s, progress)

    def _restart(self, time_s: float, progress: float) -> None:
        self.status = Status.UNKNOWN
        self.start_s, self.start_progress = time_s, progress
        self._anchor, self._moved_s = progress, time_s
        self._above_s: float | None = None

    def update(self, time_s: float, progress: float, std: float, level: float) -> Status:
        """The status now.

        Args:
            time_s: the present time, s.
            progress: filtered.
            std: its standard deviation.
            level: what must be above the threshold of success; at most ``progress``.
        """
        c = self._config
        if level <= c.success_above:
            self._above_s = None
        elif self._above_s is None:
            self._above_s = time_s
        if self.status == Status.SUCCEEDED:
            if level >= c.success_leave:
                return self.status
            self._restart(time_s, progress)
        elif self._above_s is not None and time_s - self._above_s >= c.success_for_s:
            self.status = Status.SUCCEEDED
            return self.status
        up, down = max(c.step_up, std), max(c.step_down, 2 * std)
        if progress >= self._anchor + up:
            self.status, self._anchor, self._moved_s = Status.ADVANCING, progress, time_s
        elif progress <= self._anchor - down:
            self.status, self._anchor, self._moved_s = Status.REGRESSING, progress, time_s
        elif time_s - self._moved_s >= self._patience_s(up):
            self.status = Status.STALLED
        return self.status

    def _patience_s(self, step: float) -> float:
        c = self._config
        risen, seconds = self._anchor - self.start_progress, self._moved_s - self.start_s
        if seconds <= 0:
            return c.first_patience_s
        if risen <= 0:
            return c.patience_s
        return min(max(c.patience_s, c.patience_steps * step * seconds / risen), c.patience_max_s)
