"""What the robot and its relay say of themselves, as far as it decides whether it may be commanded. No ROS in here.

Written by the callbacks' thread, read by the commands' thread: single attributes that are replaced as a whole, no lock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState, Mode, read_mode

FSM_TIMEOUT_S = 1.0  # comes at 20 Hz
MODE_TIMEOUT_S = 3.0  # comes at 1 Hz
RELAY_TIMEOUT_S = 0.3
RELAY_HZ = 10.0
DEAD_MAN_TIMEOUT_S = 0.2
RELAY_TOPIC = "arm_relay/status"


class RobotState:
    """State machine, mode and relay of the robot, with the time they were heard; the profile names the topics."""

    def __init__(self, profile: RobotProfile) -> None:
        self._profile = profile
        self._heard: dict[str, tuple[float, Any]] = {}  # by topic: monotonic s, and what is of interest
        self._used = False  # whether the dead-man button was held when the robot was stopped, and still is

    def hear_fsm(self, state: int) -> None:
        """The state machine's state, as published."""
        self._heard[self._profile.fsm_topic] = (time.monotonic(), state)

    def hear_mode(self, text: str) -> str:
        """The mode, JSON as published; returns what is wrong with it, else an empty string."""
        mode, topic = read_mode(text), self._profile.mode_topic
        if mode is None:
            self._heard.pop(topic, None)
            return f"{topic}: expected JSON with meta_mode, got {text[:80]!r}"
        self._heard[topic] = (time.monotonic(), mode)
        return ""

    def hear_relay(self, refuses: str) -> None:
        """The relay lives; ``refuses`` is why it passes nothing on, empty if it does when there is something."""
        self._heard[RELAY_TOPIC] = (time.monotonic(), refuses)

    def hear_dead_man(self, buttons: Sequence[int]) -> None:
        """All buttons of the message that has the dead-man's."""
        dead_man = self._profile.dead_man
        held = len(buttons) > dead_man.button and buttons[dead_man.button] == 1
        if not held:
            self._used = False
        self._heard[dead_man.topic] = (time.monotonic(), held)

    def stopped(self) -> None:
        """The robot was stopped: a dead-man button is to be released and pressed anew."""
        self._used = True

    def released(self) -> str:
        """Why the dead-man's button, where there is one, does not let the robot be commanded."""
        if (dead_man := self._profile.dead_man) is None:
            return ""
        heard_s, held = self._heard.get(dead_man.topic, (-math.inf, False))
        what = f"the dead-man's button {dead_man.button} of {dead_man.topic}"
        if time.monotonic() - heard_s > DEAD_MAN_TIMEOUT_S:
            return f"{what}: nothing for more than {DEAD_MAN_TIMEOUT_S:g} s"
        if not held:
            return f"{what} is not held"
        return f"{what} is held since before the stop: release it and press it anew" if self._used else ""

    @property
    def fsm(self) -> int:
        """The state last heard of; PAUSE before there is one."""
        return self._heard.get(self._profile.fsm_topic, (0.0, FsmState.PAUSE))[1]

    @property
    def mode(self) -> tuple[float, int]:
        """When the mode was heard last, monotonic s, and what it was."""
        return self._heard.get(self._profile.mode_topic, (-math.inf, Mode.API))

    def lost(self) -> list[str]:
        """What speaks against commanding the robot at all, whoever it follows."""
        now_s, profile = time.monotonic(), self._profile
        limits = {profile.fsm_topic: (FSM_TIMEOUT_S, ""), profile.mode_topic: (MODE_TIMEOUT_S, "")}
        if profile.arm_command == "relay":
            limits[RELAY_TOPIC] = (RELAY_TIMEOUT_S, ": does arm_relay_node run?")
        heard, found = dict(self._heard), []
        for topic, (limit_s, remedy) in limits.items():
            if topic not in heard:
                found.append(f"nothing valid on {topic} yet{remedy or ": the robot's state is not known"}")
            elif now_s - heard[topic][0] > limit_s:
                found.append(f"{topic}: nothing for more than {limit_s:g} s{remedy}")
        if (mode := self.mode[1]) not in Mode:
            found.append(f"{profile.mode_topic}: meta_mode {mode} is not known")
        if self.fsm not in FsmState:
            found.append(f"{profile.fsm_topic}: state {self.fsm} is not known")
        if released := self.released():
            found.append(released)
        if refuses := heard.get(RELAY_TOPIC, (0.0, ""))[1]:
            found.append(f"the arm relay is silent: {refuses}")
        return found
