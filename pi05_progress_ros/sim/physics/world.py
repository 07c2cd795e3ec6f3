"""The simulated world: physics, what the robot senses, what it is told to do, and how far its task has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import mujoco
import numpy as np

from pi05_progress.robots.joints import JointValues

from .laboratory import Furnished, Laboratory
from .scene import FINGER_TRAVEL, TIMESTEP_S, arm_table, make_spec
from .tasks import make_task
from .tasks.base import CUBE_HALF, TaskStatus
from .variation import Physics, Variation

ArmCommand = Literal["position", "velocity"]
TASK_PERIOD_S = 0.02  # how often the task's conditions are looked at
MAX_LAG = 0.15  # rad: how far an integrated velocity target may run ahead of the joint


class GripperState(NamedTuple):
    """Finger travel in m (0 closed .. 0.035 open), its speed in m/s, and the actuator's force in N."""

    position: float
    velocity: float
    effort: float


@dataclass(frozen=True)
class _ArmIndex:
    qpos: np.ndarray
    dof: np.ndarray
    actuators: np.ndarray
    finger_qpos: int
    finger_dof: int
    gripper: int


class World:
    """A robot at a table with a task. Not thread-safe: one thread steps and commands it; others use snapshots."""

    def __init__(
        self,
        task: str,
        seed: int = 0,
        arm_command: ArmCommand = "position",
        laboratory: Laboratory = Laboratory(),  # noqa: B008 (it cannot be changed)
        physics: Physics = "varied",
    ) -> None:
        if arm_command not in ("position", "velocity"):
            raise ValueError(f"arm_command {arm_command!r}: expected 'position' or 'velocity'")
        self.arm_command = arm_command
        self.task = make_task(task)
        spec = make_spec()
        self.task.add_to_scene(spec)
        laboratory.furnish(spec)
        self.model = spec.compile()
        self._variation = Variation(self.model, physics, self.task.object_names)
        self._furnished = Furnished(self.model, laboratory, self.task.object_names)
        self.data = mujoco.MjData(self.model)
        self.timestep_s = TIMESTEP_S
        self.sides = arm_table().sides
        self._index = {side: self._arm_index(side) for side in self.sides}
        self._velocity = {side: np.zeros(len(index.qpos)) for side, index in self._index.items()}
        self._task_every = round(TASK_PERIOD_S / TIMESTEP_S)
        self.reset(seed)

    def _arm_index(self, side: str) -> _ArmIndex:
        joints = [link["joint"] for link in arm_table().links[side]]
        ids = [self.model.joint(name).id for name in joints]
        finger = self.model.joint(f"{side[0]}_finger_a").id
        return _ArmIndex(
            qpos=self.model.jnt_qposadr[ids],
            dof=self.model.jnt_dofadr[ids],
            actuators=np.array([self.model.actuator(name).id for name in joints]),
            finger_qpos=int(self.model.jnt_qposadr[finger]),
            finger_dof=int(self.model.jnt_dofadr[finger]),
            gripper=self.model.actuator(f"{side[0]}_gripper").id,
        )

    # --- time ---

    @property
    def time_s(self) -> float:
        """Simulated seconds since the last reset."""
        return float(self.data.time)

    @property
    def instruction(self) -> str:
        """What the robot is asked to do in this episode."""
        return self.task.instruction

    def reset(self, seed: int | None = None) -> None:
        """Put everything back to the start: arms at home, grippers open, objects where the seed puts them."""
        self.seed = self.seed + 1 if seed is None else int(seed)
        mujoco.mj_resetData(self.model, self.data)
        for side in self.sides:
            index = self._index[side]
            self.data.qpos[index.qpos] = self.data.ctrl[index.actuators] = arm_table().home[side]
            self._velocity[side][:] = 0
            self.data.qpos[self.model.joint(f"{side[0]}_finger_a").qposadr] = FINGER_TRAVEL
            self.data.qpos[self.model.joint(f"{side[0]}_finger_b").qposadr] = FINGER_TRAVEL
            self.data.ctrl[index.gripper] = FINGER_TRAVEL
        self._variation.reset(self.seed)
        self.task.half = CUBE_HALF * self._furnished.reset(self.seed)
        self.task.reset(self.model, self.data, self.seed)
        mujoco.mj_forward(self.model, self.data)
        self._steps = 0

    def step(self, n: int = 1) -> None:
        """Advance the physics by ``n`` steps of ``timestep_s``."""
        for _ in range(n):
            if self.arm_command == "velocity":
                self._integrate_velocities()
            mujoco.mj_step(self.model, self.data)
            self._steps += 1
            if self._steps % self._task_every == 0:
                self.task.update(self.model, self.data)

    def _integrate_velocities(self) -> None:
        for side in self.sides:
            if not self._velocity[side].any():
                continue
            index = self._index[side]
            target = self.data.ctrl[index.actuators] + self._velocity[side] * TIMESTEP_S
            here = self.data.qpos[index.qpos]
            self.data.ctrl[index.actuators] = np.clip(target, here - MAX_LAG, here + MAX_LAG)

    # --- the robot ---

    def joint_ranges(self, side: str) -> np.ndarray:
        """(n, 2) lower and upper limits, rad."""
        return np.array([link["range"] for link in arm_table().links[side]], dtype=float)

    def home(self, side: str) -> np.ndarray:
        """(n,) nominal pose, rad."""
        return arm_table().home[side].copy()

    def arm_state(self, side: str) -> JointValues:
        """What the arm's encoders and currents say now, float64."""
        index = self._index[side]
        return JointValues(
            self.data.qpos[index.qpos].copy(),
            self.data.qvel[index.dof].copy(),
            self.data.actuator_force[index.actuators].copy(),
        )

    def gripper_state(self, side: str) -> GripperState:
        """What the gripper's sensors say now."""
        index = self._index[side]
        return GripperState(
            float(self.data.qpos[index.finger_qpos]),
            float(self.data.qvel[index.finger_dof]),
            float(self.data.actuator_force[index.gripper]),
        )

    def set_arm_position(self, side: str, target: np.ndarray) -> None:
        """Follow joint targets, rad; held until the next command. Values outside the joint ranges are clipped."""
        ranges = self.joint_ranges(side)
        target = _finite(target, len(ranges))
        self.data.ctrl[self._index[side].actuators] = np.clip(target, ranges[:, 0], ranges[:, 1])
        self._velocity[side][:] = 0

    def set_arm_velocity(self, side: str, velocity: np.ndarray) -> None:
        """Move the joints at these speeds, rad/s, until the next command; zero holds the pose.

        Raises:
            ValueError: the world was made for position commands, or a number is not finite.
        """
        if self.arm_command != "velocity":
            raise ValueError("this world's arms follow positions; make it with arm_command='velocity'")
        self._velocity[side][:] = _finite(velocity, len(self._velocity[side]))

    def set_gripper(self, side: str, command: float) -> None:
        """The robot's command number: 0 closed .. 1 open (clipped)."""
        self.data.ctrl[self._index[side].gripper] = float(np.clip(_finite([command], 1)[0], 0, 1)) * FINGER_TRAVEL

    # --- truth ---

    def task_status(self) -> TaskStatus:
        """How far the task has come, from physics."""
        return self.task.status()

    def object_poses(self) -> dict[str, np.ndarray]:
        """Per object: position (m) and quaternion wxyz in the world frame, float64 (7,)."""
        return {
            name: np.concatenate([self.data.body(name).xpos, self.data.body(name).xquat])
            for name in self.task.object_names
        }

    def snapshot(self) -> np.ndarray:
        """A copy of everything a camera needs, float64 (nq,)."""
        return self.data.qpos.copy()


def _finite(values: object, count: int) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise ValueError(f"expected {count} finite numbers, got {array.tolist()}")
    return array
