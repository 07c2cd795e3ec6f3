"""A robot's own states and modes, and how they are written on its topics (``fsm_topic`` and ``mode_topic``)."""

from __future__ import annotations

import json
from enum import IntEnum


class FsmState(IntEnum):
    """State of the robot's state machine, an ``Int32`` on ``fsm_topic``."""

    PAUSE = 0
    SLOW_START = 1
    READY = 2


class Mode(IntEnum):
    """Whose commands the robot follows."""

    TELEOPERATION = 0
    API = 1


def mode_text(mode: Mode) -> str:
    """A mode as the vendor's simulator writes it on ``mode_topic``, in JSON; the robot leaves out ``simulator``."""
    enabled = {"enable_left_arm": True, "enable_right_arm": True, "enable_chassis": False, "enable_lift_servo": False}
    return json.dumps(
        {"meta_mode": int(mode), "left_arm_control_mode": 1, "right_arm_control_mode": 1}
        | enabled
        | {"enable_collision_check": False, "current_mode": 1, "simulator": "mujoco"}
    )


def read_mode(text: str) -> int | None:
    """The number of the mode in a text of ``mode_topic``, known or not; None if the text holds none."""
    try:
        mode = json.loads(text)["meta_mode"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return mode if type(mode) is int else None
