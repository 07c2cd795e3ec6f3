"""The monitor's subscriptions: what a view needs to know is kept in one ``Seen``.

Everything happens in the thread that spins the node, which must be the one that draws.
"""

from __future__ import annotations

import os
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from pi05_progress_msgs.msg import TaskProgress

from ..ros_session import UNNAMED, publisher_names
from .state import HISTORY_STEP_S, Seen

# Best effort takes messages of reliable publishers, too, and can never make the policy node send anything twice.
QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


class Monitor:
    """Subscribes and keeps what a view needs in ``seen``.

    Messages are counted as they come, but only the newest is unpacked when somebody looks, which costs less CPU time.

    Args:
        node: whose subscriptions these are; whoever spins it feeds the monitor, and must be who draws it.
        topic: of the ``TaskProgress``, relative to the node's namespace unless it starts with a slash.
    """

    def __init__(self, node: Node, topic: str = "task_progress") -> None:
        self._node = node
        context = node.context
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)  # less to wait for
        subscription = node.create_subscription(
            TaskProgress, topic, self._on_progress, QOS, event_callbacks=quiet, raw=True
        )
        self._newest: tuple[bytes, float] | None = None
        self._seen = Seen(
            topic=subscription.topic_name,
            domain=context.get_domain_id(),
            discovery=os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", ""),
            started_s=time.monotonic(),
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, QOS, event_callbacks=quiet)
        node.create_timer(1.0, self._look, clock=rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME))

    @property
    def seen(self) -> Seen:
        """What was seen until now."""
        if self._newest is not None:
            data, arrived_s = self._newest
            self._newest = None
            self._seen.take_progress(deserialize_message(data, TaskProgress), arrived_s)
        return self._seen

    def _on_progress(self, data: bytes) -> None:
        now_s = time.monotonic()
        if not self._seen.publishers:
            self._look()
        self._seen.count(now_s)
        self._newest = data, now_s
        if now_s - self._seen.arrived_s >= HISTORY_STEP_S:
            self.seen  # noqa: B018 (a point of the history)

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        self._seen.take_diagnostics(array.status, time.monotonic())

    def _look(self) -> None:
        names = publisher_names(self._node, self._seen.topic)
        self._seen.take_publishers([name for name in names if name != UNNAMED])
