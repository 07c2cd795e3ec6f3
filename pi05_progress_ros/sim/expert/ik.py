"""Inverse kinematics of one arm, by differential steps with mink."""

from __future__ import annotations

from functools import cache

import mink
import mujoco
import numpy as np

from ..physics.scene import arm_table, make_spec, side_sign

TILT = np.deg2rad(
    25.0
)  # of the fingers from straight down, tips away from the robot: straight down is hardly reachable


@cache
def _model() -> mujoco.MjModel:
    return make_spec().compile()


def grasp_orientation(side: str, yaw: float = 0.0) -> np.ndarray:
    """(3, 3) orientation of the joint-7 frame for a grasp from above, opening axis along x turned by ``yaw`` rad.

    The axis is mirrored between the arms, which keeps both wrist cameras on the robot's side of the hand.
    """
    sign = side_sign(side)
    opening = np.array([sign, 0.0, 0.0])
    fingers = np.array([0.0, -np.sin(TILT), -np.cos(TILT)])
    y = sign * fingers
    frame = np.column_stack([np.cross(y, opening), y, opening])
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return turn @ frame


def ready_seed(side: str) -> np.ndarray:
    """(7,) joints from which grasps from above are found, rad.

    The arms mirror by q_right = -q_left, their home poses do not: from the right arm's own home the solver ends in a
    configuration at its joint limits that misses the table by centimetres.
    """
    return side_sign(side) * arm_table().home["left"]


class ArmSolver:
    """Finds joint targets for grasp-point poses, each starting from the last one found: poses must come densely."""

    def __init__(self, side: str, joints: np.ndarray) -> None:
        self.side = side
        model = _model()
        names = [link["joint"] for link in arm_table().links[side]]
        self._dofs = [int(model.jnt_dofadr[model.joint(name).id]) for name in names]
        self._qpos = [int(model.jnt_qposadr[model.joint(name).id]) for name in names]
        q = np.zeros(model.nq)
        q[self._qpos] = joints
        self._configuration = mink.Configuration(model, q=q)
        self._task = mink.FrameTask(
            frame_name=f"{side[0]}_grasp", frame_type="site", position_cost=1.0, orientation_cost=0.3, lm_damping=0.01
        )
        self._posture = mink.PostureTask(model, cost=1e-3)
        home = np.zeros(model.nq)
        home[self._qpos] = ready_seed(side)
        self._posture.set_target(home)
        self._limits = [mink.ConfigurationLimit(model)]

    def grasp_position(self) -> np.ndarray:
        """(3,) where the grasp point is now, m."""
        site = self._configuration.model.site(f"{self.side[0]}_grasp").id
        return self._configuration.data.site_xpos[site].copy()

    def solve(self, position: np.ndarray, rotation: np.ndarray, steps: int = 2) -> np.ndarray:
        """(7,) joint targets, rad, that bring the grasp point to a pose near the last one."""
        self._task.set_target(mink.SE3.from_rotation_and_translation(mink.SO3.from_matrix(rotation), position))
        for _ in range(steps):
            velocity = mink.solve_ik(
                self._configuration, [self._task, self._posture], 0.1, solver="daqp", limits=self._limits
            )
            self._configuration.integrate_inplace(velocity, 0.1)
        return self._configuration.q[self._qpos].copy()
