"""What is commanded from one tick to the next, and what speaks against it. Neither ROS nor a clock in here.

The node's command thread and the simulation's closed loop both walk chunks through this: how a policy drives there is
how it drives a robot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState

from .chunks import blocked, inside, next_commands

ENABLE_PERIOD_S = 0.1  # of the heartbeat that keeps the robot enabled
PAUSE_S = 0.5  # after a stop, so that what the robot says of itself is news again
HOLD_S = 3.0  # how long the end of a chunk is held with the robot enabled
OUTSIDE_RAD = 0.05  # how far outside its range a joint may be measured when commanding begins
AGAIN = "set publish_commands to true again to go on"
PAUSED = f"the robot was paused by another while it was commanded: {AGAIN}"


@dataclass(frozen=True)
class CommandSettings:
    """How commands are made.

    Attributes:
        rate_hz: of the commands.
        blend_s: passing from one chunk to the next.
        max_joint_speed: of any arm joint, rad/s.
        max_tracking_error: how far an arm joint may be from its command before it counts as blocked, rad.
    """

    rate_hz: float = 100.0
    blend_s: float = 0.2
    max_joint_speed: float = 1.0
    max_tracking_error: float = 0.5


class Objection(NamedTuple):
    """What speaks against commanding; an empty reason if nothing does. ``for_good``: until it is asked for anew."""

    reason: str = ""
    for_good: bool = False


class Step(NamedTuple):
    """What is commanded now: rad per arm, gripper numbers in [0, 1] where they move, and what it waits for."""

    arms: dict[str, np.ndarray]
    grippers: dict[str, float]
    waits_for: str


class CommandRules:
    """State from tick to tick. Ask ``objection`` every tick; then ``step`` if nothing speaks against it, else ``stop``.

    Args:
        profile: joint ranges and gripper curve.
        settings: how commands are made.
    """

    def __init__(self, profile: RobotProfile, settings: CommandSettings) -> None:
        self._profile, self._settings = profile, settings
        self.commanding = False
        self._last: dict[str, np.ndarray] = {}  # per arm what was commanded last, rad
        self._highest_fsm = FsmState.PAUSE  # that the robot has reached since commanding began
        self._stopped_s, self._target_s = -math.inf, -math.inf

    def objection(
        self, fsm: int | None, target: np.ndarray | None, positions: dict[str, np.ndarray], now_s: float
    ) -> Objection:
        """What speaks against commanding now.

        Args:
            fsm: state of the robot's state machine.
            target: of the chunk in force, one number per joint; None if there is none.
            positions: where each arm is, rad.
            now_s: of any clock that only goes forward.
        """
        if target is not None:
            self._target_s = now_s
        found = (
            self._objection_to_going_on(fsm, positions)
            if self.commanding
            else self._objection_to_starting(positions, now_s)
        )
        if found.reason or target is not None:
            return found
        if not self.commanding:
            return Objection("no chunk yet")
        return Objection(f"no new actions for {HOLD_S:g} s" if now_s - self._target_s > HOLD_S else "")

    def _objection_to_starting(self, positions: dict[str, np.ndarray], now_s: float) -> Objection:
        if now_s - self._stopped_s < PAUSE_S:
            return Objection("pausing after a stop")
        for side, position in positions.items():
            limits = self._profile.arms[side].limits()
            outside = np.maximum(limits[:, 0] - position, position - limits[:, 1])
            if outside.max() > OUTSIDE_RAD:
                joint = self._profile.arms[side].joints[int(outside.argmax())]
                return Objection(f"{joint} is {outside.max():.2f} rad outside its range: move the arm by hand")
        return Objection()

    def _objection_to_going_on(self, fsm: int | None, positions: dict[str, np.ndarray]) -> Objection:
        # The robot goes PAUSE, SLOW_START, READY by itself; back only if somebody wants it to.
        if fsm is None or fsm < self._highest_fsm:
            return Objection(PAUSED, for_good=True)
        if text := blocked(self._last, positions, self._profile, self._settings.max_tracking_error):
            return Objection(f"{text} {AGAIN}", for_good=True)
        return Objection()

    def step(self, fsm: int, target: np.ndarray | None, positions: dict[str, np.ndarray], period_s: float) -> Step:
        """What is commanded ``period_s`` after the last step; arguments as ``objection``."""
        if not self.commanding:
            self.commanding, self._highest_fsm = True, FsmState.PAUSE
            self._last = inside(positions, self._profile)
        if fsm == FsmState.PAUSE:
            # The pose the arms have is commanded until the robot follows: slow start then moves nothing.
            self._last = inside(positions, self._profile)
        self._highest_fsm = max(self._highest_fsm, fsm)
        grippers: dict[str, float] = {}
        if fsm != FsmState.READY:
            waits_for = f"waiting for the robot to be READY, it is in {FsmState(fsm).name}"
        elif target is None:
            waits_for = "the chunk has ended: holding its last target"
        else:
            waits_for, speed = "", self._settings.max_joint_speed
            self._last, grippers = next_commands(target, self._last, self._profile, speed, period_s)
        return Step(dict(self._last), grippers, waits_for)

    def stop(self, now_s: float) -> None:
        """Commanding has ended; whoever commands makes the present pose the target and pauses the robot."""
        self.commanding, self._stopped_s, self._last = False, now_s, {}
