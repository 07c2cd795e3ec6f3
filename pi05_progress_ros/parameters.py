"""ROS parameters as fields of a frozen dataclass; a wrong one is refused with what was found and what is known."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from pi05_progress.errors import UserError

QOS = "qos_overrides."  # with which parameters begin that set the QoS of a topic
PARAMETER_EVENTS = "/parameter_events"  # made by rclpy before a node has parameters
POLICIES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)


class QosOverrides:
    """Base of nodes whose topics have parameters for their QoS: ``qos_overrides.TOPIC.KIND.POLICY``.

    KIND is ``publisher`` or ``subscription``, POLICY is ``history``, ``depth``, ``reliability`` or ``durability``.
    """

    def create_publisher(self, msg_type: type, topic: str, qos_profile: QoSProfile | int, **options: Any) -> Publisher:
        """See rclpy. It has no events: subscribers are told of QoS that do not fit, too.

        An executor looks at each event whenever it wakes, and fails if another thread destroys one meanwhile.
        """
        options.setdefault("event_callbacks", PublisherEventCallbacks(use_default_callbacks=False))
        return overridable(super().create_publisher, topic, qos_profile, options, msg_type, topic)

    def create_subscription(
        self, msg_type: type, topic: str, callback: Callable[..., None], qos_profile: QoSProfile | int, **options: Any
    ) -> Subscription:
        """See rclpy."""
        return overridable(super().create_subscription, topic, qos_profile, options, msg_type, topic, callback)


def newest_only() -> tuple[QoSProfile, SubscriptionEventCallbacks]:
    """QoS of a sensor, of which only the newest message counts, and no events: best effort fits every publisher."""
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    return qos, SubscriptionEventCallbacks(use_default_callbacks=False)


def overridable(
    create: Callable[..., Any], topic: str, qos: QoSProfile | int, options: dict[str, Any], *arguments: Any
) -> Any:
    """Create a topic's interface with parameters for its QoS; a ``UserError`` if they cannot be used."""
    if topic != PARAMETER_EVENTS:
        options.setdefault("qos_overriding_options", QoSOverridingOptions(POLICIES))
    try:
        return create(*arguments, copy.copy(qos), **options)  # rclpy writes the overrides into the profile it is given
    except (ParameterException, RuntimeError) as error:
        raise UserError(f"{topic} cannot be opened, see its parameters {QOS}{topic}.*: {error}") from error


def warn_of_unused_overrides(node: Node, made_later: Collection[str] = ()) -> None:
    """Call it when a node's topics are made: QoS overrides of topics that it does not have are told in its log."""
    later = tuple(f"{QOS}{node.resolve_topic_name(topic)}." for topic in made_later)
    given = [name for name in node._parameter_overrides if name.startswith(QOS) and not name.startswith(later)]
    if unused := sorted(set(given) - set(node._parameters)):
        known = sorted({name.removeprefix(QOS).rpartition(".")[0] for name in node._parameters if name.startswith(QOS)})
        node.get_logger().warning(f"no effect have {', '.join(unused)}; known are {', '.join(known)}")


def parameter(default: Any, text: str, *, between: tuple[float, float] | None = None, read_only: bool = True) -> Any:
    """A parameter, as the default of a field that has its name."""
    return field(default=default, metadata={"text": text, "between": between, "read_only": read_only})


def declare_all(node: Node, kind: type) -> None:
    """Declare fields that are made by ``parameter``; a ``UserError`` if one given is unknown or cannot be used."""
    for declared in fields(kind):
        declare(node, declared.name, declared.default, **declared.metadata)
    refuse_unknown(node)


def read_all[T](node: Node, kind: type[T]) -> T:
    """The present values of parameters that ``declare_all`` has declared."""
    return kind(**{declared.name: node.get_parameter(declared.name).value for declared in fields(kind)})


def declare(
    node: Node, name: str, default: Any, text: str, between: tuple[float, float] | None = None, read_only: bool = True
) -> None:
    """Declare one parameter, arguments as of ``parameter``; a ``UserError`` if the value given cannot be used."""
    descriptor = ParameterDescriptor(description=text, read_only=read_only)
    if between and isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=between[0], to_value=between[1])]
    elif between:
        descriptor.integer_range = [IntegerRange(from_value=int(between[0]), to_value=int(between[1]))]
    given = node._parameter_overrides.get(name)  # no public way to know what was given before declaring
    # "1" on a command line is an integer to ROS, though the user means the number
    if given is not None and isinstance(default, float) and isinstance(given.value, int):
        node._parameter_overrides[name] = type(given)(name, value=float(given.value))
    try:
        node.declare_parameter(name, default, descriptor)
    except ParameterException as error:
        expected = f"{type(default).__name__}"
        if between:
            expected += f" between {between[0]:g} and {between[1]:g}"
        value = given.value if given is not None else default
        raise UserError(f"parameter {name}: {value!r} is refused, expected {expected} ({text})") from error


def refuse_unknown(node: Node) -> None:
    """Raise a ``UserError`` if the node was given a parameter that it has not; call it when all are declared."""
    known = [name for name in node._parameters if not name.startswith(QOS)]
    given = [name for name in node._parameter_overrides if not name.startswith(QOS)]
    if unknown := sorted(set(given) - set(known) - {"use_sim_time"}):
        raise UserError(f"unknown parameter {', '.join(unknown)}; known: {', '.join(sorted(known))}")
