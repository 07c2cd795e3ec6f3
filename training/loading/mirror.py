"""Data seen in a mirror: every episode as if the other arm had done it, for robots whose arms mirror each other.

Pictures are flipped and those of the wrists swapped; each joint takes the negated angle of the other arm's, grippers
are swapped, x of positions is negated. Labels and instructions stay, so these may name neither arm nor side.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int, UInt8

from pi05_progress.robots.kinematics import fingertips
from pi05_progress.robots.layout import Layout

from .config import DataConfigError
from .pictures import Pictures
from .rows import Rows

APART_M = 0.01  # how far a hand may be from the other one's mirror image
MIRRORED = ("left", "right")
SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)


class MirroredPictures:
    """Pictures of other pictures in a mirror."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    def read(self, episode: int, frame: int) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
        """See ``Pictures``."""
        return {_other(key): picture[:, ::-1] for key, picture in self._pictures.read(episode, frame).items()}


def _other(camera: str) -> str:
    """The model's name of the camera on the other side."""
    one, other = MIRRORED
    return camera.replace(one, other) if camera.startswith(one) else camera.replace(other, one)


def check_instructions(instructions: Iterable[str]) -> None:
    """Refuse instructions that would be wrong in a mirror."""
    if sided := next(filter(SIDED.search, instructions), None):
        raise DataConfigError(f"--data.mirror: the instruction {sided!r} names a side, which a mirror makes wrong")


def mirrored_rows(rows: Rows, robot: Layout) -> Rows:
    """The numbers in the mirror.

    Raises:
        DataConfigError: hands would not be where a mirror shows them, or where they would be is not known.
    """
    joints, signs = _joints(robot)

    def numbers(values: np.ndarray, of: Int[np.ndarray, " n"]) -> np.ndarray:
        """Values whose last axis has a number of each of these joints."""
        places = {int(joint): at for at, joint in enumerate(of)}
        return (values[..., [places[int(joints[joint])] for joint in of]] * signs[of]).astype(values.dtype)

    count = len(robot.joints)
    all_joints = np.arange(count)
    actions = numbers(rows.actions, all_joints)
    further: dict[str, np.ndarray] = {}
    if rows.proprioception is not None:
        further["proprioception"] = numbers(rows.proprioception, robot.proprioception_columns)
    if rows.hands is not None:
        further["hands"] = _places(rows.hands.reshape(-1, len(MIRRORED), 3)[:, ::-1]).reshape(rows.hands.shape)
    if rows.positions is not None:
        further["positions"] = _places(rows.positions)
    if rows.chunks is not None:
        further["chunks"] = numbers(rows.chunks, all_joints)
    _check_hands(rows.actions, actions, robot)
    return dataclasses.replace(
        rows, state=numbers(rows.state, robot.state_columns % count), actions=actions, **further, folder=None
    )


def _joints(robot: Layout) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """For each joint the one in whose place it comes, and the sign of its number."""
    if tuple(robot.arms) != MIRRORED or set(robot.grippers) not in (set(), set(MIRRORED)):
        raise DataConfigError(f"--data.mirror: arms are called {', '.join(robot.arms)}, expected left and right")
    joints, signs = np.arange(len(robot.joints)), np.ones(len(robot.joints), np.float32)
    signs[robot.arm_columns] = -1
    for places in (robot.arms, robot.grippers):
        if places:
            left, right = places["left"], places["right"]
            joints[left], joints[right] = joints[right].copy(), joints[left].copy()
    return joints, signs


def _places(points: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3"]:
    return points * np.array([-1, 1, 1], points.dtype)


def _check_hands(actions: np.ndarray, mirrored: np.ndarray, robot: Layout) -> None:
    some = slice(None, None, max(1, len(actions) // 256))
    own, other = (fingertips(of[some], robot, "grasp") for of in (actions, mirrored))
    if own is None or other is None:
        raise DataConfigError("--data.mirror: where this robot's hands are is not known (arm_geometry.yaml)")
    if (apart := float(np.linalg.norm(other - _places(own[:, ::-1]), axis=-1).max())) > APART_M:
        raise DataConfigError(
            f"--data.mirror: hands would be up to {apart * 1000:.0f} mm from where a mirror shows them, "
            f"{APART_M * 1000:.0f} mm are allowed: this robot's arms do not mirror each other"
        )
