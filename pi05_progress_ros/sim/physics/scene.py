"""The physical scene: both arms from their kinematic table, grippers, a table, lights and cameras.

World frame = the robot's root frame: between the shoulders, +x to the robot's left, -y forward, +z up, metres.
Which objects lie on the table is the task's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import mujoco
import numpy as np

from pi05_progress.robots.kinematics import default_geometry

TIMESTEP_S = 0.002
TABLE_HEIGHT_ABOVE_FLOOR = 0.80  # m
FINGER_TRAVEL = 0.035  # m, each finger, from closed to open

# Ours, not the vendor's: nominal actuator gains, see docs/simulation.md.
ARM_KP, ARM_KV, ARM_FORCE = 120.0, 8.0, 150.0
JOINT_DAMPING, JOINT_ARMATURE = 0.5, 0.02
FINGER_KP, FINGER_KV, FINGER_FORCE = 400.0, 20.0, 30.0
GRASP_PLANE_Z = -0.031  # m, in the joint-7 frame: the plane in which the fingers meet
OBJECT_FRICTION = (2.0, 0.05, 0.001)
WRIST_CAMERA = {  # position and the directions of the image's right and up, in the joint-7 frame
    "left": ((0.10, 0.05, GRASP_PLANE_Z), ((0, 0, -1), (0.903, 0.430, 0))),
    "right": ((0.10, -0.05, GRASP_PLANE_Z), ((0, 0, 1), (0.903, -0.430, 0))),
}


@dataclass(frozen=True)
class ArmTable:
    """Kinematics of both arms as read from ``config/arm_geometry.yaml``."""

    links: dict[str, list[dict[str, Any]]]  # per side: the entries with a joint
    fingers: dict[str, list[dict[str, Any]]]  # per side: the entries of the two fingers
    grasp: dict[str, list[float]]  # per side: the point between the pads in the joint-7 frame, m
    home: dict[str, np.ndarray]  # per side: rad
    shoulder_height: float  # m above the floor

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the arms, those of the profiles: left and right."""
        return tuple(self.home)


@cache
def arm_table() -> ArmTable:
    """The kinematic table, read once."""
    table = default_geometry()
    sides = table["home"]
    return ArmTable(
        links={side: [entry for entry in table[side] if "joint" in entry] for side in sides},
        fingers={side: [entry for entry in table[side] if "finger" in entry] for side in sides},
        grasp={side: next(entry["pos"] for entry in table[side] if "grasp" in entry) for side in sides},
        home={side: np.array(table["home"][side], dtype=float) for side in sides},
        shoulder_height=float(table["shoulder_height"]),
    )


def table_top_z() -> float:
    """Height of the table's surface in the world frame, m."""
    return TABLE_HEIGHT_ABOVE_FLOOR - arm_table().shoulder_height


def side_sign(side: str) -> float:
    """+1 for the left arm (which works at x > 0), -1 for the right."""
    return 1.0 if side == "left" else -1.0


def grasp_point(side: str) -> np.ndarray:
    """(3,) position of the point between the pads in the joint-7 frame, m."""
    return np.array(arm_table().grasp[side])


def _quat_from_axes(right: tuple[float, ...], up: tuple[float, ...]) -> np.ndarray:
    """Orientation wxyz of a camera from the directions of its image's right and up."""
    x = np.array(right, dtype=float) / np.linalg.norm(right)
    z = np.cross(x, np.array(up, dtype=float))
    z /= np.linalg.norm(z)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([x, np.cross(z, x), z]).ravel())
    return quat


def _add_gripper(spec: mujoco.MjSpec, hand: mujoco.MjsBody, side: str) -> None:
    sign = side_sign(side)
    prefix = side[0]
    for finger, direction in zip(arm_table().fingers[side], (1.0, -1.0), strict=True):
        name = f"{prefix}_finger_{finger['finger']}"
        body = hand.add_body(name=name, pos=[0, 0, GRASP_PLANE_Z], gravcomp=1.0)
        body.mass = finger["mass"]
        body.ipos = [0, 0.17 * sign, 0.02 * direction]
        body.inertia = [2e-5, 2e-5, 2e-5]
        body.explicitinertial = True
        body.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 0, direction], range=[0, FINGER_TRAVEL],
            limited=mujoco.mjtLimited.mjLIMITED_TRUE, damping=1.0, armature=0.01,
        )  # fmt: skip
        body.add_geom(
            name=f"{name}_pad", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.010, 0.0325, 0.004],
            pos=[0, 0.1895 * sign, 0.004 * direction], rgba=[0.15, 0.15, 0.17, 1], friction=OBJECT_FRICTION, condim=4,
            priority=1,
        )  # fmt: skip
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.012, 0.025, 0.006], pos=[0, 0.135 * sign, 0.010 * direction],
            rgba=[0.55, 0.57, 0.6, 1], contype=0, conaffinity=0,
        )  # fmt: skip
    a, b = (f"{prefix}_finger_{f['finger']}" for f in arm_table().fingers[side])
    equality = spec.add_equality(type=mujoco.mjtEq.mjEQ_JOINT, name1=b, name2=a)
    equality.data[:5] = [0, 1, 0, 0, 0]
    equality.solref = [0.004, 1.0]
    actuator = spec.add_actuator(name=f"{prefix}_gripper", target=a, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    actuator.set_to_position(kp=FINGER_KP, kv=FINGER_KV)
    actuator.forcerange = [-FINGER_FORCE, FINGER_FORCE]
    actuator.ctrlrange = [0, FINGER_TRAVEL]
    hand.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.025, 0.025, 0.045], pos=[0, 0.095 * sign, GRASP_PLANE_Z],
        rgba=[0.25, 0.26, 0.28, 1], contype=0, conaffinity=0,
    )  # fmt: skip
    hand.add_site(name=f"{prefix}_grasp", pos=grasp_point(side), size=[0.004, 0.004, 0.004], rgba=[0, 0, 0, 0])
    pos, axes = WRIST_CAMERA[side]
    hand.add_camera(name=f"{side}_color", pos=pos, quat=_quat_from_axes(*axes), fovy=60)


def _add_arm(spec: mujoco.MjSpec, side: str) -> None:
    parent = spec.worldbody
    links = arm_table().links[side]
    for index, link in enumerate(links):
        body = parent.add_body(name=link["joint"], pos=link["pos"], quat=link["quat"], gravcomp=1.0)
        body.mass = link["mass"]
        body.ipos = link["com"]
        body.inertia = [0.01 * link["mass"]] * 3
        body.explicitinertial = True
        body.add_joint(
            name=link["joint"], type=mujoco.mjtJoint.mjJNT_HINGE, axis=link["axis"], range=np.array(link["range"]),
            limited=mujoco.mjtLimited.mjLIMITED_TRUE, damping=JOINT_DAMPING, armature=JOINT_ARMATURE,
        )  # fmt: skip
        # Links are drawn, not collided with: the tasks keep arms apart, fingers and hands do the touching.
        end = links[index + 1]["pos"] if index + 1 < len(links) else [0, 0.07 * side_sign(side), GRASP_PLANE_Z]
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=[0, 0, 0, *end], size=[0.034 - 0.002 * index, 0, 0],
            rgba=[0.88, 0.89, 0.91, 1] if index % 2 else [0.32, 0.36, 0.42, 1], contype=0, conaffinity=0,
        )  # fmt: skip
        actuator = spec.add_actuator(name=link["joint"], target=link["joint"], trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=ARM_KP, kv=ARM_KV)
        actuator.forcerange = [-ARM_FORCE, ARM_FORCE]
        actuator.ctrlrange = link["range"]
        parent = body
    _add_gripper(spec, parent, side)


def _add_surroundings(spec: mujoco.MjSpec) -> None:
    world = spec.worldbody
    top = table_top_z()
    floor = -arm_table().shoulder_height
    world.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=[0, 0, floor], size=[4, 4, 0.1], rgba=[0.42, 0.43, 0.45, 1]
    )
    world.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0, -0.52, top - 0.02], size=[0.65, 0.30, 0.02],
        rgba=[0.72, 0.60, 0.46, 1], friction=OBJECT_FRICTION, condim=4,
    )  # fmt: skip
    world.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER, pos=[0, 0.12, floor / 2], size=[0.07, -floor / 2, 0],
        rgba=[0.3, 0.32, 0.36, 1], contype=0, conaffinity=0,
    )  # fmt: skip
    world.add_light(pos=[0.6, 0.3, 1.2], dir=[-0.4, -0.6, -1], diffuse=[0.35] * 3, specular=[0] * 3, castshadow=False)
    world.add_light(pos=[-0.8, -1.0, 1.2], dir=[0.4, 0.3, -1], diffuse=[0.35] * 3, specular=[0] * 3, castshadow=False)
    quat = _quat_from_axes((-1, 0, 0), (0, -0.904, 0.427))
    world.add_camera(name="head_camera", pos=[0, -0.08, 0.25], quat=quat, fovy=58)


def make_spec() -> mujoco.MjSpec:
    """A fresh, editable scene without objects."""
    spec = mujoco.MjSpec()
    spec.modelname = "teleavatar"
    spec.compiler.degree = False
    option = spec.option
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10
    spec.visual.headlight.ambient = [0.35] * 3
    spec.visual.headlight.diffuse = [0.3] * 3
    spec.visual.headlight.specular = [0] * 3
    spec.visual.quality.shadowsize = 0
    spec.visual.quality.offsamples = 0
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1920, 1080
    spec.visual.map.znear = 0.005
    _add_surroundings(spec)
    for side in arm_table().sides:
        _add_arm(spec, side)
    return spec
