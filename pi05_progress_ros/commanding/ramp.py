"""A slow way from the pose that the arms have to another one, from rest to rest. No ROS in here, no clock."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from pi05_progress.robots.profile import RobotProfile

from .state_machine import Ending, Reason

SPEED, ACCELERATION, JERK = 0.1, 0.3, 1.5  # of any joint at most, rad/s and its derivatives
NEAR_RAD = 0.05  # arms that are so close have arrived
SETTLE_S = 3.0  # which they may take for that


class Ramp:
    """Where the arms are to be, all rad; its time goes on only while they follow (``advance``).

    It leads from ``start`` to the ``goal`` of all arms' joints, in the layout's order; ``max_speed`` is in rad/s.
    """

    def __init__(
        self, start: Mapping[str, np.ndarray], goal: Float[np.ndarray, " a"], profile: RobotProfile, max_speed: float
    ) -> None:
        self._layout, self._goal, self._speed = profile.layout, np.asarray(goal, float), min(SPEED, max_speed)
        self.restart(start)

    def restart(self, start: Mapping[str, np.ndarray]) -> None:
        """Go from where each arm is now, rad: whoever held or moved them meanwhile, they go on from there as slowly."""
        from ruckig import InputParameter, Ruckig, Trajectory  # here: nothing else of the node needs it

        joints, self._time_s = len(self._goal), 0.0
        asked = InputParameter(joints)
        asked.current_position = np.concatenate([start[arm] for arm in self._layout.arms]).tolist()
        asked.target_position = self._goal.tolist()
        asked.max_velocity = [self._speed] * joints
        asked.max_acceleration, asked.max_jerk = [ACCELERATION] * joints, [JERK] * joints
        self._way = Trajectory(joints)
        Ruckig(joints).calculate(asked, self._way)

    def target(self) -> Float[np.ndarray, " n"]:
        """A row of the layout for now; of grippers it says nothing (0)."""
        row = np.zeros(self._layout.action_size)
        row[self._layout.arm_columns] = self._way.at_time(min(self._time_s, self._way.duration))[0]
        return row

    def advance(self, period_s: float) -> None:
        """So much time has passed while the arms followed."""
        self._time_s += period_s

    def ending(self, positions: Mapping[str, np.ndarray]) -> Ending | None:
        """Whether the way has ended, by where the arms are, rad, and how."""
        if self._time_s < self._way.duration or len(positions) < len(self._layout.arms):
            return None
        error = np.abs(np.concatenate([positions[arm] for arm in self._layout.arms]) - self._goal)
        if error.max() <= NEAR_RAD:
            return Ending(Reason.SUCCEEDED, "the arms are where episodes of the training data begin")
        if self._time_s < self._way.duration + SETTLE_S:
            return None
        joint = self._layout.joints[self._layout.arm_columns[error.argmax()]]
        return Ending(Reason.STALLED, f"{joint} stays {error.max():.2f} rad from where it should be")
