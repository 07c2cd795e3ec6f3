"""Whether the demo works, judged by the messages that arrive. No ROS in here, and no look at any log."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

MIN_MESSAGES = 10
MAX_AGE_MS = 1000.0  # from picture to answer, on a slow and busy machine, too
MAX_SILENCE_S = 2.0


@dataclass
class ProgressCheck:
    """Fed with every ``TaskProgress``; ``missing`` says what there is to say against them.

    A good message has a finite ``progress_raw`` in [0, 1], a stamp later than that of the good one before, and an
    observation that was young when it was published.
    """

    received: int = 0
    good: int = 0
    model_id: str = ""
    task: str = ""
    _last_good_s: float = 0.0
    _last_stamp_ns: int = -1
    _faults: dict[str, int] = field(default_factory=dict)

    def add(self, message: Any, now_s: float) -> None:
        """A ``TaskProgress`` has arrived at a time of any steady clock, s."""
        self.received += 1
        self.model_id, self.task = message.model_id, message.task
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if fault := self._fault(message, stamp_ns):
            self._faults[fault] = self._faults.get(fault, 0) + 1
            return
        self.good, self._last_good_s, self._last_stamp_ns = self.good + 1, now_s, stamp_ns

    def _fault(self, message: Any, stamp_ns: int) -> str:
        if not math.isfinite(message.progress_raw):
            return "progress_raw is not a number (the node reports UNKNOWN)"
        if not 0.0 <= message.progress_raw <= 1.0:
            return "progress_raw is outside of [0, 1]"
        if stamp_ns <= self._last_stamp_ns:
            return "the stamp does not advance: the images are not fresh"
        if not 0.0 <= message.observation_age_ms <= MAX_AGE_MS:
            return f"observation_age_ms is not between 0 and {MAX_AGE_MS:g}"
        return ""

    def missing(self, now_s: float) -> list[str]:
        """What is missing for success; empty if nothing is."""
        if not self.received:
            return ["no TaskProgress arrived"]
        problems = []
        if self.good < MIN_MESSAGES:
            problems.append(
                f"{self.good} good TaskProgress messages of {self.received} that arrived, "
                f"at least {MIN_MESSAGES} are needed"
            )
            problems += [f"{count} times: {fault}" for fault, count in self._faults.items()]
        elif now_s - self._last_good_s > MAX_SILENCE_S:
            problems.append(f"the last good TaskProgress came {now_s - self._last_good_s:.1f} s before the end")
        return problems
