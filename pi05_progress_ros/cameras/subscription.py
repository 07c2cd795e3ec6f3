"""A subscription to packets of a video codec, of which none should be lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

QUEUE = 150  # packets, five seconds of them, that may wait in the middleware to be taken
WATCH_S = 1.0  # between looks at what publishers offer


class PacketSubscription:
    """Reliable where all publishers offer that, best effort otherwise, as they are now: they come late and go.

    Args:
        node: whose it is.
        kind: class of the messages.
        topic: their topic.
        callback: as of rclpy's subscriptions.
        lost: called with the middleware's event when it lost messages.
        raw: whether messages are handed over as bytes.
        looked: called at each look, with the names of the nodes that publish.
    """

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        callback: Callable[..., None],
        lost: Callable[[Any], None],
        raw: bool = False,
        looked: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        self.topic_name = node.resolve_topic_name(topic)
        self._node, self._arguments, self._looked = node, (kind, topic, callback), looked
        events = SubscriptionEventCallbacks(message_lost=lost, use_default_callbacks=False)
        self._options = {"raw": raw, "event_callbacks": events}
        self._asked = self._offered()
        self._subscription = self._subscribe(QoSProfile(depth=QUEUE, reliability=self._asked))
        # Where the user has chosen by a parameter, that is what is asked for.
        self._free = self._subscription.qos_profile.reliability == self._asked
        self._timer = node.create_timer(WATCH_S, self._follow, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def senders(self) -> list[str]:
        """Names of the nodes that publish, one for each of their publishers."""
        infos = self._node.get_publishers_info_by_topic(self.topic_name)
        return sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos)

    def _offered(self) -> ReliabilityPolicy:
        offered = [info.qos_profile.reliability for info in self._node.get_publishers_info_by_topic(self.topic_name)]
        best_effort = ReliabilityPolicy.BEST_EFFORT in offered
        return ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE

    def _subscribe(self, qos: QoSProfile, **options: Any) -> Any:
        return self._node.create_subscription(*self._arguments, qos, **self._options, **options)

    def _follow(self) -> None:
        self._looked(self.senders())
        if not self._free or (offered := self._offered()) == self._asked:
            return
        self._asked, qos = offered, self._subscription.qos_profile
        qos.reliability = offered
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe(qos, qos_overriding_options=None)  # they were read when it was made first

    def close(self) -> None:
        """Listen no more."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)
