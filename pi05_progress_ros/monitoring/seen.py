"""What the monitor has seen: newest messages, when they came, and a minute of progress; and its subscriptions.

All times are seconds of one monotonic clock, that of arrival, so that neither simulated time nor clocks out of step can
spoil an age. Everything happens in the thread that spins the node, which must be the one that draws.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from pi05_progress_msgs.msg import TaskProgress

from ..ros_session import UNNAMED, publisher_names

HISTORY_S = 60.0
HISTORY_STEP_S = 0.25  # one point per step is kept: twice as many as are drawn
RATE_WINDOW_S = 5.0
SILENT_S = 2.5  # a node that lives sends a heartbeat every second
OK, WARN, ERROR, STALE = range(4)  # levels of diagnostic_msgs/DiagnosticStatus
ENTRY = re.compile(r"(?P<node>[^:]+): (?P<entry>input \S+|inference|commands)")  # names as in node/watch.py


class Moment(NamedTuple):
    """One point of the history: arrival in s, progress and the model's own belief in [0, 1] or NaN."""

    time_s: float
    progress: float
    raw: float


class Report(NamedTuple):
    """One entry of ``/diagnostics``: ``level`` is one of the constants above."""

    level: int
    message: str
    values: dict[str, str]


@dataclass
class Seen:
    """Everything that is drawn."""

    topic: str = "/task_progress"  # full name of the progress topic
    domain: int = 0  # ROS domain that is listened to
    discovery: str = ""  # how far discovery reaches, where that was restricted
    started_s: float = 0.0  # when listening began
    message: Any = None  # newest ``TaskProgress``
    arrived_s: float = 0.0  # when it came
    observed_s: float | None = None  # when its observation was taken, as far as messages tell; None unknown
    # full names, without the first slash, of the nodes that publish the topic, or did so last
    publishers: tuple[str, ...] = ()
    published: bool = False  # whether any publishes it now
    history: deque[Moment] = field(default_factory=deque)
    _arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    _reports: dict[str, tuple[float, dict[str, Report]]] = field(default_factory=dict)  # by node: arrival, entries

    def take_progress(self, message: Any, now_s: float) -> None:
        """A ``TaskProgress`` has arrived."""
        self._arrivals.append(now_s)
        age_ms = message.observation_age_ms
        if math.isfinite(age_ms):
            self.observed_s = now_s - 1e-3 * age_ms
        elif self.message is not None and message.header.stamp != self.message.header.stamp:
            self.observed_s = None  # a heartbeat about an observation that was not seen here
        self.message, self.arrived_s = message, now_s
        self._remember(Moment(now_s, message.progress, message.progress_raw))

    def _remember(self, moment: Moment) -> None:
        if self.history and moment.time_s // HISTORY_STEP_S == self.history[-1].time_s // HISTORY_STEP_S:
            before = self.history.pop()  # the newest numbers of a step are kept, known ones before unknown ones
            progress, raw = (old if math.isnan(new) else new for old, new in zip(before[1:], moment[1:], strict=True))
            moment = Moment(moment.time_s, progress, raw)
        self.history.append(moment)
        while self.history[0].time_s < moment.time_s - HISTORY_S:
            self.history.popleft()

    def take_diagnostics(self, statuses: Iterable[Any], now_s: float) -> None:
        """Entries of a ``DiagnosticArray`` have arrived; those of other programs are left out."""
        found: dict[str, dict[str, Report]] = {}
        for status in statuses:
            if name := ENTRY.fullmatch(status.name):
                level = status.level[0] if isinstance(status.level, bytes) else int(status.level)
                report = Report(level, status.message, {pair.key: pair.value for pair in status.values})
                found.setdefault(name["node"], {})[name["entry"]] = report
        self._reports.update({node: (now_s, entries) for node, entries in found.items()})

    def take_publishers(self, names: Sequence[str]) -> None:
        """Who publishes the topic now; the last ones known are kept when all are gone, for their last reports."""
        self.published = bool(names)
        if names:
            self.publishers = tuple(sorted(name.lstrip("/") for name in names))

    def reports(self) -> dict[str, Report]:
        """Newest diagnostics of the node that publishes the topic (or of any node, while that is not known)."""
        return self._of_publishers()[1]

    def reports_age_s(self, now_s: float) -> float | None:
        """Time since those came, s; None if there are none."""
        arrived_s, reports = self._of_publishers()
        return now_s - arrived_s if reports else None

    def _of_publishers(self) -> tuple[float, dict[str, Report]]:
        known = [r for node, r in self._reports.items() if not self.publishers or node in self.publishers]
        return max(known, key=lambda timed: timed[0], default=(0.0, {}))

    def silent_s(self, now_s: float) -> float:
        """Time since the last message, or since listening began, s."""
        return now_s - (self.arrived_s if self.message is not None else self.started_s)

    def lost(self, now_s: float) -> bool:
        """Whether messages came and come no more."""
        return self.message is not None and self.silent_s(now_s) > SILENT_S

    def rate_hz(self, now_s: float) -> float:
        """Messages per second over the last few seconds."""
        times = [time_s for time_s in self._arrivals if time_s > now_s - RATE_WINDOW_S]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0

    def observation_age_s(self, now_s: float) -> float | None:
        """How old the newest observation is now, s; None unknown."""
        return None if self.observed_s is None else now_s - self.observed_s

    def problems(self) -> list[tuple[str, Report]]:
        """What is not OK in the diagnostics, worst first: entry and report."""
        entries = [(entry, report) for entry, report in self.reports().items() if report.level != OK]
        return sorted(entries, key=lambda pair: -pair[1].level)


# Best effort takes messages of reliable publishers, too, and can never make the policy node send anything twice.
QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


class Monitor:
    """Subscribes and keeps what is drawn in ``seen``; whoever spins the node must be who draws."""

    def __init__(self, node: Node, topic: str = "task_progress") -> None:
        self._node = node
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)  # less to wait for
        subscription = node.create_subscription(TaskProgress, topic, self._on_progress, QOS, event_callbacks=quiet)
        self.seen = Seen(
            topic=subscription.topic_name,
            domain=node.context.get_domain_id(),
            discovery=os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", ""),
            started_s=time.monotonic(),
        )
        node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda array: self.seen.take_diagnostics(array.status, time.monotonic()),
            QOS, event_callbacks=quiet,
        )  # fmt: skip
        node.create_timer(1.0, self._look, clock=rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME))

    def _on_progress(self, message: TaskProgress) -> None:
        if not self.seen.publishers:
            self._look()
        self.seen.take_progress(message, time.monotonic())

    def _look(self) -> None:
        names = publisher_names(self._node, self.seen.topic)
        self.seen.take_publishers([name for name in names if name != UNNAMED])
