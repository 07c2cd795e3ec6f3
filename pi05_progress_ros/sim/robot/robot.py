"""The simulated robot without ROS: the world's arms behind the robot's own rules.

Not thread-safe: whoever lets several threads at it holds a lock.
"""

from __future__ import annotations

import numpy as np

from pi05_progress.robots.states import FsmState

from ..physics.world import World
from .robot_api import StateMachine

STATE_HZ = 200  # rate of joint states, and of the rules' decisions
VELOCITY_TIMEOUT_S = 0.1  # a velocity is not run on for longer than this: no command means no motion


class Robot:
    """A world whose arms follow commands as the robot's state machine allows."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.machine = StateMachine()
        self._offset_s = 0.0  # time of the episodes before this one: the robot's clock never goes back
        self._ticks = 0
        self._clear()

    def _clear(self) -> None:
        self._grippers = dict.fromkeys(self.world.sides, 1.0)  # opening, 0 closed .. 1 open
        self._held: dict[str, np.ndarray | None] = {}  # per arm the pose it holds; None while it follows
        self._velocities: dict[str, tuple[float, np.ndarray]] = {}

    @property
    def now_s(self) -> float:
        """Simulated seconds since the start, over all episodes."""
        return self._offset_s + self.world.time_s

    def stamp_ns(self, time_s: float) -> int:
        """The robot's clock, ns, at a moment of the present episode (s)."""
        return round((self._offset_s + time_s) * 1e9)

    def reset(self, seed: int) -> None:
        """Begin another episode: everything back to the start, the robot paused."""
        self._offset_s += self.world.time_s
        self.world.reset(seed)
        self.machine.forget()
        self._clear()

    def command_arm(self, side: str, target: np.ndarray, velocity: np.ndarray | None = None) -> None:
        """A valid target, rad, within the joint ranges; with a velocity, rad/s, that is what is followed."""
        self.machine.command(side, target, self.now_s)
        if velocity is not None:
            self._velocities[side] = (self.now_s, velocity)
        else:
            self._velocities.pop(side, None)

    def command_gripper(self, side: str, opening: float) -> None:
        """0 closed .. 1 open; followed unless the robot is paused."""
        self._grippers[side] = opening

    def advance(self) -> None:
        """Let the rules decide and the physics go on for 1 / STATE_HZ s."""
        world = self.world
        follow = self.machine.update({side: world.arm_state(side).position for side in world.sides}, self.now_s)
        for side in world.sides:
            self._follow(side, follow[side])
            if self.machine.state != FsmState.PAUSE:
                world.set_gripper(side, self._grippers[side])
        self._ticks += 1
        while self.now_s < self._ticks / STATE_HZ - world.timestep_s / 2:
            world.step()

    def _follow(self, side: str, target: np.ndarray | None) -> None:
        world = self.world
        if target is None:
            if self._held.get(side) is None:
                self._held[side] = world.arm_state(side).position
                world.set_arm_position(side, self._held[side])
            return
        self._held[side] = None
        stamped = self._velocities.get(side)
        if self.machine.state == FsmState.READY and stamped is not None:
            fresh = self.now_s - stamped[0] <= VELOCITY_TIMEOUT_S
            world.set_arm_velocity(side, stamped[1] if fresh else np.zeros_like(stamped[1]))
        else:
            world.set_arm_position(side, target)
