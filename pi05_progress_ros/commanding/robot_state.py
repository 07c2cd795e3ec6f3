"""What the robot says of itself, as far as it decides whether it may be commanded. No ROS in here.

Written by the callbacks' thread, read by the commands' thread: single attributes that are replaced as a whole, no lock.
"""

from __future__ import annotations

import time

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState, Mode, read_mode

FSM_TIMEOUT_S = 1.0  # comes at 20 Hz
MODE_TIMEOUT_S = 3.0  # comes at 1 Hz


class RobotState:
    """State machine and mode of the robot, with the time they were heard.

    Args:
        profile: names the topics.
    """

    def __init__(self, profile: RobotProfile) -> None:
        self._profile = profile
        self._fsm: tuple[float, int] | None = None  # monotonic s, state
        self._mode: tuple[float, int] | None = None

    def hear_fsm(self, state: int) -> None:
        """The state machine's state, as published."""
        self._fsm = (time.monotonic(), state)

    def hear_mode(self, text: str) -> str:
        """The mode, JSON as published; returns what is wrong with it, else an empty string."""
        mode = read_mode(text)
        self._mode = None if mode is None else (time.monotonic(), mode)
        if self._mode is None:
            return f"{self._profile.mode_topic}: expected JSON with meta_mode, got {text[:80]!r}"
        return ""

    @property
    def fsm(self) -> int | None:
        """The state last heard of."""
        return self._fsm[1] if self._fsm else None

    def against(self) -> str:
        """What speaks against commanding the robot; empty if nothing does."""
        now = time.monotonic()
        for what, heard, limit in (
            (self._profile.fsm_topic, self._fsm, FSM_TIMEOUT_S),
            (self._profile.mode_topic, self._mode, MODE_TIMEOUT_S),
        ):
            if heard is None:
                return f"nothing valid on {what} yet: the robot's state is not known"
            if now - heard[0] > limit:
                return f"{what}: nothing for more than {limit:g} s"
        if self._mode[1] == Mode.TELEOPERATION:
            return "the robot is in teleoperation mode and ignores commands"
        if self._mode[1] != Mode.API:
            return f"{self._profile.mode_topic}: meta_mode {self._mode[1]} is not known"
        return "" if self._fsm[1] in FsmState else f"{self._profile.fsm_topic}: state {self._fsm[1]} is not known"
