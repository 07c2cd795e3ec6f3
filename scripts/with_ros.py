#!/usr/bin/env python3
"""Run a command so that it finds the messages built into the environment beside a sourced ROS installation.

With ROS from wheels nothing is needed and the command is run as it is. With a sourced ROS the libraries of
``pi05_progress_msgs`` lie in its ``lib``, which the dynamic loader must be told, unless an overlay has the package.
The environment is that of the Python which runs this, else ``.venv``.

Usage: with_ros.py COMMAND [ARGUMENT ...]
"""

import os
import sys
from pathlib import Path

VENV = Path(sys.prefix) if sys.prefix != sys.base_prefix else Path(__file__).resolve().parent.parent / ".venv"


def environment(env: dict[str, str]) -> dict[str, str]:
    """The environment to run in, from the caller's."""
    if not env.get("ROS_DISTRO"):
        return env
    changed = dict(env)
    for variable, folder in (("LD_LIBRARY_PATH", VENV / "lib"), ("AMENT_PREFIX_PATH", VENV)):
        parts = [part for part in env.get(variable, "").split(os.pathsep) if part]
        changed[variable] = os.pathsep.join([*parts, str(folder)])
    return changed


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    os.execvpe(sys.argv[1], sys.argv[1:], environment(dict(os.environ)))
