"""Episodes of a policy: one that is decided, or left, ends, the arms go home by themselves, and the next one begins."""

from __future__ import annotations

import math

import numpy as np
from builtin_interfaces.msg import Time

from pi05_progress.robots.states import FsmState

from .robot import Robot
from .states import STOP_AFTER_S

YIELD_S = 1.0  # how long whoever commands the arms has after the episode's end to let go of them
HOME_RAD_S = 0.8  # fastest joint on the way home
LEAST_S = 1.0  # of the way home, however near that is
REST_S = 0.5  # at home, before the next episode
LEFT_S = 5.0  # after which nobody goes on with what was begun: a limit has ended it, or it was taken for done
LEFT = f"not done, and not commanded any more for {LEFT_S:g} s"


class PolicyEpisodes:
    """See the module's docstring; ``physics_loop.Worker`` says who calls. Grippers keep what they have on the way."""

    not_to_imitate = ""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self.new_episode()

    def new_episode(self) -> None:
        """The world has been reset."""
        self.gave_up = ""
        self._decided_s: float | None = None
        self._commanded_s = math.inf  # when it was last, in this episode
        self._began_s: float | None = None

    def publish(self, _: Time) -> bool:
        """Move the arms, if that is due; whether the next episode may begin."""
        world, now = self._robot.world, self._robot.world.time_s
        if self._decided_s is None:
            if self._robot.machine.state != FsmState.PAUSE:
                self._commanded_s = now
            if world.task_status().outcome != "unknown":
                self._decided_s = now
            elif now - self._commanded_s > LEFT_S:
                self.gave_up, self._decided_s = LEFT, now - STOP_AFTER_S
            else:
                return False
        if self._began_s is None:
            late_s = now - self._decided_s - STOP_AFTER_S
            if late_s < 0 or (self._robot.machine.state != FsmState.PAUSE and late_s < YIELD_S):
                return False
            self._began_s = now
            self._start = {side: world.arm_state(side).position for side in world.sides}
            farthest = max(np.abs(self._start[side] - world.home(side)).max() for side in world.sides)
            self._duration_s = max(LEAST_S, 1.875 * farthest / HOME_RAD_S)  # a fifth-order course is that much faster
        share = min(1.0, (now - self._began_s) / self._duration_s)
        passed = share**3 * (10 - 15 * share + 6 * share**2)
        self._robot.lead(
            {side: start + passed * (self._robot.world.home(side) - start) for side, start in self._start.items()}
        )
        return now >= self._began_s + self._duration_s + REST_S
