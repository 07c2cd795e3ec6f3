"""The simulated robot without ROS: the world's arms behind the robot's own state machine, PAUSE, SLOW_START, READY.

Not thread-safe: whoever lets several threads at it holds a lock. Time is simulated seconds and never goes backwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from pi05_progress.robots.states import FsmState

from ..physics.world import World

ENABLE_TIMEOUT_S = 1.0  # no enable for this long: back to PAUSE
COMMAND_TIMEOUT_S = 0.5  # a command older than this is not followed
SLEW_RAD_S = 0.5  # speed of the slow start
CLOSE_RAD = 0.08  # every joint this near its target ...
CLOSE_CHECKS = 5  # ... for this many checks: ready
CHECK_PERIOD_S = 0.05  # between checks, the rate at which the state is published
MAX_STEP_S = 0.02  # the longest period one slew step makes up for


@dataclass
class StateMachine:
    """Decides what the arms follow. ``update`` is called at a fixed rate and returns what to do with each arm."""

    state: FsmState = FsmState.PAUSE
    reason: str = "not enabled yet"
    _enabled_s: float = -math.inf
    _targets: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)
    _slewed: dict[str, np.ndarray] = field(default_factory=dict)
    _close: int = 0
    _checked_s: float = -math.inf
    _now: float = -math.inf

    def enable(self, value: float, now_s: float) -> None:
        """The heartbeat: above 0 enables, anything else pauses at once."""
        if value > 0:
            self._enabled_s = now_s
        else:
            self._enabled_s = -math.inf
            self._pause("disabled")

    def enabled(self, now_s: float) -> bool:
        """Whether the heartbeat is fresh."""
        return now_s - self._enabled_s <= ENABLE_TIMEOUT_S

    def command(self, side: str, target: np.ndarray, now_s: float) -> None:
        """A valid target, rad, for one arm."""
        self._targets[side] = (now_s, target)

    def forget(self) -> None:
        """Drop commands and enabling, as when the source of commands changes."""
        self._targets.clear()
        self._enabled_s = -math.inf
        self._pause("the source of commands changed")

    def _pause(self, reason: str) -> None:
        self.state, self.reason, self._close = FsmState.PAUSE, reason, 0
        self._slewed.clear()

    def _fresh(self, side: str, now_s: float) -> bool:
        return side in self._targets and now_s - self._targets[side][0] <= COMMAND_TIMEOUT_S

    def update(self, positions: dict[str, np.ndarray], now_s: float) -> dict[str, np.ndarray | None]:
        """Per arm the target to follow now, rad, or None for: hold the pose you have."""
        # After a gap, or at the very first call, the arm must not jump to make up for it.
        dt = 0.0 if math.isinf(self._now) else max(0.0, min(now_s - self._now, MAX_STEP_S))
        self._now = now_s
        if self.state != FsmState.PAUSE and not self.enabled(now_s):
            self._pause(f"no enable for {ENABLE_TIMEOUT_S:g} s")
        if self.state == FsmState.PAUSE:
            if not self.enabled(now_s):
                return dict.fromkeys(positions)
            self.state, self.reason = FsmState.SLOW_START, "enabled, waiting for commands to both arms"
            self._slewed = {side: position.copy() for side, position in positions.items()}
        if self.state == FsmState.SLOW_START:
            return self._slow_start(positions, dt, now_s)
        return {side: self._targets[side][1] if self._fresh(side, now_s) else None for side in positions}

    def _slow_start(self, positions: dict[str, np.ndarray], dt: float, now_s: float) -> dict[str, np.ndarray | None]:
        if not all(self._fresh(side, now_s) for side in positions):
            self._close = 0
            return dict.fromkeys(positions)
        step = SLEW_RAD_S * dt
        for side in positions:
            gap = self._targets[side][1] - self._slewed[side]
            self._slewed[side] = self._slewed[side] + np.clip(gap, -step, step)
        if now_s - self._checked_s < CHECK_PERIOD_S - 1e-9:
            return dict(self._slewed)
        self._checked_s = now_s
        near = all(np.abs(position - self._targets[side][1]).max() <= CLOSE_RAD for side, position in positions.items())
        self._close = self._close + 1 if near else 0
        if self._close >= CLOSE_CHECKS:
            self.state, self.reason = FsmState.READY, "following commands"
        return dict(self._slewed)


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
        self._led: dict[str, np.ndarray] = {}  # where the simulation itself moves the arms

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

    def lead(self, targets: dict[str, np.ndarray]) -> None:
        """The simulation itself moves the arms, rad, until the next episode; the robot is paused for all others."""
        self._led = targets

    def command_gripper(self, side: str, opening: float) -> None:
        """0 closed .. 1 open; followed unless the robot is paused."""
        self._grippers[side] = opening

    def advance(self) -> None:
        """Let the rules decide and the physics go on for 1 / STATE_HZ s."""
        world = self.world
        if self._led:
            self.machine.forget()
        follow = self.machine.update({side: world.arm_state(side).position for side in world.sides}, self.now_s)
        follow |= self._led
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
