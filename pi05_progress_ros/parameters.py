"""Declaring ROS parameters so that a wrong one is refused with its name, what was found and what is known."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from pi05_progress.errors import UserError


def declare(
    node: Node,
    name: str,
    default: Any,
    text: str,
    *,
    between: tuple[float, float] | None = None,
    read_only: bool = True,
) -> None:
    """Declare one parameter.

    Args:
        node: whose it is.
        name: its name.
        default: its value unless given; its type is the parameter's type.
        text: description, with the unit.
        between: smallest and largest value of a number.
        read_only: whether it may be changed while the node runs.

    Raises:
        UserError: the value given to the node is of another type or out of range.
    """
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
    """Call it when all parameters are declared.

    Raises:
        UserError: the node was given one that it does not have.
    """
    known = [name for name in node._parameters if not name.startswith("qos_overrides")]
    given = [name for name in node._parameter_overrides if not name.startswith("qos_overrides")]
    if unknown := sorted(set(given) - set(known) - {"use_sim_time"}):
        raise UserError(f"unknown parameter {', '.join(unknown)}; known: {', '.join(sorted(known))}")
