"""Writes ``config/policy_node.yaml``, the parameter file to copy, from what the node declares.

``python scripts/parameter_template.py > config/policy_node.yaml``; a test sees to it that they agree.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import fields

from pi05_progress_ros.node.node_parameters import NodeParameters

HEAD = """\
# Parameters of the policy node at their defaults; copy this file, keep what you change and give it to
#   ros2 launch pi05_progress bringup.launch.py params_file:=FILE
# Launch arguments (robot, checkpoint, prompt, publish_commands, use_sim_time, autostart) win over it.
# Written by python scripts/parameter_template.py.
/**:
  ros__parameters:
"""


def template() -> str:
    """The file's text: every parameter with its meaning, range and default."""
    entries = []
    for declared in fields(NodeParameters):
        text, between = declared.metadata["text"], declared.metadata["between"]
        if between:
            low, high = between
            text += f"; {low} to {high}" if isinstance(declared.default, int) else f"; {low:g} to {high:g}"
        if not declared.metadata["read_only"] and "running" not in text:
            text += "; may be changed while running"
        comment = textwrap.wrap(text, 115, initial_indent="    # ", subsequent_indent="    # ")
        entries.append("\n".join([*comment, f"    {declared.name}: {json.dumps(declared.default)}"]))  # JSON is YAML
    return HEAD + "\n".join(entries) + "\n"


if __name__ == "__main__":
    print(template(), end="")
