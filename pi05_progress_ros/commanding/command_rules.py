"""What is commanded from one tick to the next. Neither ROS nor a clock in here.

The node's command thread and the simulation's closed loop both walk chunks through this and obey the same state machine
(``state_machine.py``): how a policy drives there is how it drives a robot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pi05_progress.robots.joints import JointValues
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState

from .chunks import blocked, inside
from .limits import Limits
from .state_machine import Ending, Reason

ENABLE_PERIOD_S = 0.1  # of the heartbeat that keeps the robot enabled


@dataclass(frozen=True)
class CommandSettings:
    """How commands are made."""

    rate_hz: float = 100.0
    blend_s: float = 0.2  # passing from one chunk to the next
    max_joint_speed: float = 1.0  # of any arm joint, rad/s
    max_tracking_error: float = 0.5  # how far an arm joint may be from its command before it counts as blocked, rad
    execute_s: float = 0.0  # how long a chunk is carried out before a newer one takes over; 0: every newer one does
    max_joint_acceleration: float = 15.0  # of any arm joint that speeds up, rad/s^2


class Step(NamedTuple):
    """What is commanded now: rad per arm, gripper numbers in [0, 1] where they move, and what it waits for."""

    arms: dict[str, np.ndarray]
    grippers: dict[str, float]
    waits_for: str


class CommandRules:
    """State from tick to tick: ``step`` at every tick at which the state machine lets something be sent, else ``stop``.

    The profile says joint ranges, the gripper curve and which limits are watched; the arms keep to ``limits``.
    """

    def __init__(self, profile: RobotProfile, settings: CommandSettings) -> None:
        self._profile, self._settings = profile, settings
        self.limits = Limits(profile, settings.max_joint_speed, settings.max_joint_acceleration)
        self._last: dict[str, np.ndarray] = {}  # per arm what was commanded last, rad; empty while nothing is
        self._still = False  # whether that is the pose that was measured when there was nothing else to command

    @property
    def commanding(self) -> bool:
        """Whether the robot is commanded, enabled and all."""
        return bool(self._last)

    def limit(self, arms: Mapping[str, JointValues], now_s: float) -> Ending | None:
        """The limit that commanded arms are beyond now, if there is one; ``arms`` are as they were measured."""
        if not self._last:
            return None
        text = blocked(self._last, positions(arms), self._profile, self._settings.max_tracking_error)
        text = text or self.limits.measured(arms, now_s)
        return Ending(Reason.LIMIT, text) if text else None

    def step(
        self, fsm: int, target: np.ndarray | None, measured: Mapping[str, np.ndarray], period_s: float
    ) -> Step | Ending:
        """What is commanded ``period_s`` after the last step; or the limit by which nothing may be.

        Args:
            fsm: state of the robot's state machine.
            target: of the chunk in force, one number per joint; None to hold the pose that the arms have now.
            measured: where each arm is, rad.
            period_s: since the last step.
        """
        # The pose the arms have is commanded until the robot follows: slow start then moves nothing.
        if not self._last or fsm == FsmState.PAUSE or (target is None and not self._still):
            self._last = inside(measured, self._profile)
            self.limits.begin(self._last)
        self._still = target is None
        grippers: dict[str, float] = {}
        waits_for = "" if fsm == FsmState.READY else f"waiting for the robot to be READY, it is in {FsmState(fsm).name}"
        commanded, layout = self._last, self._profile.layout
        if target is not None and not waits_for:
            commanded = self.limits.towards({arm: target[columns] for arm, columns in layout.arms.items()}, period_s)
            grippers = {of: float(layout.curves[of].command(target[at])) for of, at in layout.grippers.items()}
        if text := self.limits.problem(measured, commanded, period_s):
            return Ending(Reason.LIMIT, text)
        self._last = dict(commanded)
        return Step(dict(self._last), grippers, waits_for)

    def stop(self) -> None:
        """Commanding has ended; whoever commands makes the present pose the target and pauses the robot."""
        self._last = {}
        self.limits.end()


def positions(arms: Mapping[str, JointValues]) -> dict[str, np.ndarray]:
    """Of all arms, rad."""
    return {arm: values.position.astype(float) for arm, values in arms.items()}
