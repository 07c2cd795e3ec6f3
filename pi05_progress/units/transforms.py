"""Between the robot's units and the model's: pictures, states and actions, both ways. Array functions, no state."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..robots.profile import SIDES, RobotProfile
from ..robots.teleavatar import (
    GRIPPER_ACTION,
    LayoutError,
    gripper_command_from_effort,
    gripper_effort_from_command,
    model_action,
    model_state,
)


def resize_with_pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (h, w, 3) keeping the aspect, bilinear and antialiased, padded with black to (height, width, 3).

    As openpi does before the model (PIL); a picture of the right size comes back as it is.
    """
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    ratio = max(w / width, h / height)
    new_h, new_w = max(1, int(h / ratio)), max(1, int(w / ratio))  # 1: of a very long and thin picture
    resized = Image.fromarray(np.ascontiguousarray(image)).resize((new_w, new_h), resample=Image.Resampling.BILINEAR)
    padded = np.zeros((height, width, 3), np.uint8)
    top, left = int((height - new_h) / 2), int((width - new_w) / 2)
    padded[top : top + new_h, left : left + new_w] = np.asarray(resized)
    return padded


def pad_to(x: np.ndarray, size: int) -> np.ndarray:
    """Zeros appended to the last axis up to ``size``.

    Raises:
        LayoutError: the last axis is longer than that.
    """
    if x.shape[-1] > size:
        raise LayoutError(f"{x.shape[-1]} values do not fit into the model's {size}")
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])


def state_to_model(vector: np.ndarray) -> np.ndarray:
    """Arm positions float32 (..., 14) of a state vector (..., 48 or 62), rad; not normalised yet."""
    return model_state(vector).astype(np.float32)


def actions_to_model(vector: np.ndarray, profile: RobotProfile) -> np.ndarray:
    """The 16 numbers the model learns (..., 16) from a data set's action (..., 48 or 62).

    Arm positions stay rad, gripper efforts become the robot's command numbers.
    """
    actions = np.array(model_action(vector), np.float32)
    for side in SIDES:
        column = GRIPPER_ACTION[side]
        actions[..., column] = gripper_command_from_effort(actions[..., column], side, profile.gripper_curve)
    return actions


def actions_from_model(actions: np.ndarray, profile: RobotProfile) -> np.ndarray:
    """The inverse of ``actions_to_model`` for (..., 16 or more): rad and N m, float32 (..., 16)."""
    actions = np.array(actions[..., :16], np.float32)
    for side in SIDES:
        column = GRIPPER_ACTION[side]
        actions[..., column] = gripper_effort_from_command(actions[..., column], side, profile.gripper_curve)
    return actions
