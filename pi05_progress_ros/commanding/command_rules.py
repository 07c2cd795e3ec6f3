"""What is commanded from one tick to the next. Neither ROS nor a clock in here.

The node's command thread and the simulation's closed loop both walk chunks through this and obey the same state machine
(``state_machine.py``): how a policy drives there is how it drives a robot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState

from .chunks import blocked, inside, next_commands
from .state_machine import Ending, Reason

ENABLE_PERIOD_S = 0.1  # of the heartbeat that keeps the robot enabled
OUTSIDE_RAD = 0.05  # how far outside its range a joint may be measured when commanding begins


@dataclass(frozen=True)
class CommandSettings:
    """How commands are made.

    Attributes:
        rate_hz: of the commands.
        blend_s: passing from one chunk to the next.
        max_joint_speed: of any arm joint, rad/s.
        max_tracking_error: how far an arm joint may be from its command before it counts as blocked, rad.
        execute_s: how long a chunk is carried out before a newer one takes over; 0: every newer one does.
    """

    rate_hz: float = 100.0
    blend_s: float = 0.2
    max_joint_speed: float = 1.0
    max_tracking_error: float = 0.5
    execute_s: float = 0.0


class Step(NamedTuple):
    """What is commanded now: rad per arm, gripper numbers in [0, 1] where they move, and what it waits for."""

    arms: dict[str, np.ndarray]
    grippers: dict[str, float]
    waits_for: str


class CommandRules:
    """State from tick to tick: ``step`` at every tick at which the state machine lets something be sent, else ``stop``.

    Args:
        profile: joint ranges and gripper curve.
        settings: how commands are made.
    """

    def __init__(self, profile: RobotProfile, settings: CommandSettings) -> None:
        self._profile, self._settings = profile, settings
        self._last: dict[str, np.ndarray] = {}  # per arm what was commanded last, rad; empty while nothing is
        self._still = False  # whether that is the pose that was measured when there was nothing else to command

    @property
    def commanding(self) -> bool:
        """Whether the robot is commanded, enabled and all."""
        return bool(self._last)

    def outside(self, positions: dict[str, np.ndarray]) -> str:
        """Which joint is too far outside its range to command the arms from there; empty if none is."""
        for side, position in positions.items():
            limits = self._profile.arms[side].limits()
            outside = np.maximum(limits[:, 0] - position, position - limits[:, 1])
            if outside.max() > OUTSIDE_RAD:
                joint = self._profile.arms[side].joints[int(outside.argmax())]
                return f"{joint} is {outside.max():.2f} rad outside its range: move the arm by hand"
        return ""

    def limit(self, positions: dict[str, np.ndarray]) -> Ending | None:
        """The limit that is broken now, if one is; ``positions`` are where the arms are, rad."""
        text = blocked(self._last, positions, self._profile, self._settings.max_tracking_error)
        return Ending(Reason.LIMIT, text) if text else None

    def step(self, fsm: int, target: np.ndarray | None, positions: dict[str, np.ndarray], period_s: float) -> Step:
        """What is commanded ``period_s`` after the last step.

        Args:
            fsm: state of the robot's state machine.
            target: of the chunk in force, one number per joint; None to hold the pose that the arms have now.
            positions: where each arm is, rad.
            period_s: since the last step.
        """
        # The pose the arms have is commanded until the robot follows: slow start then moves nothing.
        if not self._last or fsm == FsmState.PAUSE or (target is None and not self._still):
            self._last = inside(positions, self._profile)
        self._still = target is None
        grippers: dict[str, float] = {}
        waits_for = "" if fsm == FsmState.READY else f"waiting for the robot to be READY, it is in {FsmState(fsm).name}"
        if target is not None and not waits_for:
            speed = self._settings.max_joint_speed
            self._last, grippers = next_commands(target, self._last, self._profile, speed, period_s)
        return Step(dict(self._last), grippers, waits_for)

    def stop(self) -> None:
        """Commanding has ended; whoever commands makes the present pose the target and pauses the robot."""
        self._last = {}
