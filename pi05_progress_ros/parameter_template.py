"""Writes ``config/policy_node.yaml``, the parameter file to copy, from what the node declares.

``python -m pi05_progress_ros.parameter_template > config/policy_node.yaml``; a test sees to it that they agree.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor

from .node.node_parameters import declare_parameters

HEAD = """\
# Parameters of the policy node at their defaults; copy this file, keep what you change and give it to
#   ros2 launch pi05_progress bringup.launch.py params_file:=FILE
# Launch arguments (robot, checkpoint, prompt, publish_commands, use_sim_time, autostart) win over it.
# Written by python -m pi05_progress_ros.parameter_template.
/**:
  ros__parameters:
"""


class _Declared:
    """Stands in for a node and keeps what is declared on it."""

    def __init__(self) -> None:
        self._parameters: dict[str, tuple[Any, ParameterDescriptor]] = {}
        self._parameter_overrides: dict[str, Any] = {}

    def declare_parameter(self, name: str, default: Any, descriptor: ParameterDescriptor) -> None:
        """As of a node."""
        self._parameters[name] = (default, descriptor)


def template() -> str:
    """The file's text: every parameter with its meaning, range and default."""
    declared = _Declared()
    declare_parameters(declared)
    entries = []
    for name, (default, descriptor) in declared._parameters.items():
        text = descriptor.description
        text += "".join(f"; {r.from_value:g} to {r.to_value:g}" for r in descriptor.floating_point_range)
        text += "".join(f"; {r.from_value} to {r.to_value}" for r in descriptor.integer_range)
        if not descriptor.read_only and "running" not in text:
            text += "; may be changed while running"
        comment = textwrap.wrap(text, 115, initial_indent="    # ", subsequent_indent="    # ")
        entries.append("\n".join([*comment, f"    {name}: {json.dumps(default)}"]))  # JSON is YAML
    return HEAD + "\n".join(entries) + "\n"


if __name__ == "__main__":
    print(template(), end="")
