"""A ROS message as YAML, as ``ros2 topic echo`` prints it, for machines that lack that program. Imports no ROS."""

from __future__ import annotations

import sys
from typing import Any

import yaml


def _plain(value: Any) -> Any:
    if hasattr(value, "get_fields_and_field_types"):  # a message
        return {name: _plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, bytes):  # `octet` and arrays of it
        return "".join(chr(number) for number in value)
    if isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "tolist"):  # arrays of numbers, NumPy scalars
        return value.tolist()
    return [_plain(element) for element in value]


def message_yaml(message: Any) -> str:
    """YAML of a message, fields in the order of its definition, nothing shortened, NaN as ``.nan``.

    Args:
        message: any generated message; only its fields are read.

    Returns:
        the text, ending with a newline; the ``---`` that parts messages is the caller's.
    """
    return yaml.safe_dump(
        _plain(message), sort_keys=False, allow_unicode=True, width=sys.maxsize, default_flow_style=False
    )
