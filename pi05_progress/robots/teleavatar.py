"""The Teleavatar's vectors, gripper curves and camera crops, as array functions.

State and action of a data set are 48 numbers: 16 positions, 16 velocities, 16 efforts, each block
``[left arm 1-7, left gripper, right arm 1-7, right gripper]``; recordings of the second robot append 14 more (end
effector poses), which are ignored.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..units import delta

Side = Literal["left", "right"]
VECTOR_SIZES = (48, 62)
STATE_INDEX = np.r_[0:7, 8:15]  # arm positions
ACTION_INDEX = np.r_[0:7, 39, 8:15, 47]  # arm positions, gripper efforts
GRIPPER_ACTION = {"left": 7, "right": 15}  # columns of the 16 action numbers
DELTA_MASK = delta.delta_mask(7, -1, 7, -1)  # arms, never grippers


class LayoutError(ValueError):
    """A vector or picture does not have the robot's layout."""


def _checked(vector: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(vector)
    if array.shape[-1] not in VECTOR_SIZES:
        raise LayoutError(f"{what} has {array.shape[-1]} numbers on its last axis, the robot's layouts have 48 or 62")
    return array


def model_state(vector: np.ndarray) -> np.ndarray:
    """The model's state (..., 14), arm positions in rad, from a data set's state (..., 48 or 62).

    Raises:
        LayoutError: another number of values.
    """
    return _checked(vector, "state")[..., STATE_INDEX]


def model_action(vector: np.ndarray) -> np.ndarray:
    """The 16 action numbers (..., 16), rad and N m, from a data set's action (..., 48 or 62).

    Raises:
        LayoutError: another number of values.
    """
    return _checked(vector, "action")[..., ACTION_INDEX]


def delta_actions(actions: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Arm targets (..., h, 16) relative to the present state (..., 14); grippers stay absolute."""
    return delta.delta_actions(actions, _in_action_columns(state), DELTA_MASK)


def absolute_actions(actions: np.ndarray, state: np.ndarray) -> np.ndarray:
    """The inverse of ``delta_actions``."""
    return delta.absolute_actions(actions, _in_action_columns(state), DELTA_MASK)


def _in_action_columns(state: np.ndarray) -> np.ndarray:
    columns = np.zeros((*np.shape(state)[:-1], 16), dtype=np.asarray(state).dtype)
    columns[..., DELTA_MASK] = state
    return columns


def gripper_command_from_effort(effort: np.ndarray | float, side: Side, curve: str = "teleavatar") -> np.ndarray:
    """The robot's command number, clipped to [0, 1], for a gripper effort in N m.

    Args:
        effort: any shape.
        side: the curve "teleavatar" differs between the sides.
        curve: "teleavatar" (first robots; 0 = closed) or "teleavatar_v2" (1 = closed).

    Raises:
        ValueError: unknown curve or side.
    """
    e = np.asarray(effort, dtype=float)
    if _known(side, curve) == "teleavatar_v2":
        command = np.where(e > 0, 0.10 * (1 - e / 2.0), 0.10 - 0.90 * e / 1.6)
    elif side == "left":
        command = np.where(e > 0, 0.5 - e / 7, 0.5 - e)
    else:
        command = np.where(e < 0, 0.5 + e / 7, 0.5 + e)
    return np.clip(command, 0.0, 1.0)


def gripper_effort_from_command(command: np.ndarray | float, side: Side, curve: str = "teleavatar") -> np.ndarray:
    """Gripper effort in N m for the robot's command number (clipped to [0, 1]); inverse of the function above."""
    c = np.clip(np.asarray(command, dtype=float), 0.0, 1.0)
    if _known(side, curve) == "teleavatar_v2":
        return np.where(c < 0.10, 2.0 * (1 - c / 0.10), -1.6 * (c - 0.10) / 0.90)
    effort = np.where(c < 0.5, 7 * (0.5 - c), 0.5 - c)
    return effort if side == "left" else -effort


def _known(side: str, curve: str) -> str:
    if side not in ("left", "right"):
        raise ValueError(f"unknown side {side!r}; known: left, right")
    if curve not in ("teleavatar", "teleavatar_v2"):
        raise ValueError(f"unknown gripper curve {curve!r}; known: teleavatar, teleavatar_v2")
    return curve


def crop(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """A view of the part of a picture (h, w, 3) within ``box``: fractions (left, top, right, bottom)."""
    height, width = image.shape[:2]
    left, top, right, bottom = box
    rows = slice(round(top * height), round(bottom * height))
    return image[rows, round(left * width) : round(right * width)]


def one_eye(image: np.ndarray, eye: Literal["left", "right"]) -> np.ndarray:
    """One eye of a stereo picture, known by being at least twice as wide as high; others come back as they are."""
    height, width = image.shape[:2]
    if width < 2 * height:
        return image
    return image[:, : width // 2] if eye == "left" else image[:, width - width // 2 :]


def turned(image: np.ndarray) -> np.ndarray:
    """A view of the picture turned by 180 degrees."""
    return image[::-1, ::-1]
