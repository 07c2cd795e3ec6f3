"""A participant of their own for some of a node's publishers or subscriptions: other transports, no common locks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions, _declare_qos_parameters
from rclpy.subscription import Subscription

from ..parameters import overridable


class NodeApart:
    """A node with a participant of its own, and all else from the ``other``: topics' names, QoS parameters, the clock.

    ``node`` is it, whose name ends on ``name``; if it subscribes, whoever spins the other has to spin it, too.
    """

    def __init__(self, other: Node, name: str) -> None:
        self._other, context = other, rclpy.Context()
        rclpy.init(context=context)
        quiet = Parameter("start_type_description_service", value=False)
        self.node = Node(
            f"{other.get_name()}_{name}", namespace=other.get_namespace(), context=context, enable_rosout=False,
            use_global_arguments=False, start_parameter_services=False, parameter_overrides=[quiet],
        )  # fmt: skip
        self.destroy_publisher, self.destroy_subscription = self.node.destroy_publisher, self.node.destroy_subscription

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)

    def create_publisher(self, msg_type: type, topic: str, qos_profile: QoSProfile, **options: Any) -> Publisher:
        """See rclpy."""
        return overridable(self._create, topic, qos_profile, options, Publisher, msg_type, topic)

    def create_subscription(
        self, msg_type: type, topic: str, callback: Callable[..., None], qos_profile: QoSProfile, **options: Any
    ) -> Subscription:
        """See rclpy."""
        return overridable(self._create, topic, qos_profile, options, Subscription, msg_type, topic, callback)

    def _create(
        self, kind: type, msg_type: type, topic: str, *rest: Any, qos_overriding_options: Any, **options: Any
    ) -> Publisher | Subscription:
        name, qos = self._other.resolve_topic_name(topic), rest[-1]
        _declare_qos_parameters(kind, self._other, name, qos, qos_overriding_options or QoSOverridingOptions([]))
        create = self.node.create_publisher if kind is Publisher else self.node.create_subscription
        return create(msg_type, name, *rest, **options)

    def close(self) -> None:
        """Let go of the participant; nothing spins it any more."""
        self.node.destroy_node()
        self.node.context.try_shutdown()
