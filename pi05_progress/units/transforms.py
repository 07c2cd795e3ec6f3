"""Between the robot's units and the model's: pictures, states and actions, both ways. Array functions, no state.

Vectors of another length than the robot's are refused by a ``LayoutError``.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image

from ..robots.kinematics import fingertips
from ..robots.layout import Layout, LayoutError


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


def seen(image: np.ndarray, crop: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """What a model sees of a camera's picture: a part of it (top, left, bottom, right as shares of its sides), fitted
    to a size as by ``resize_with_pad``."""
    (h, w), (top, left, bottom, right) = image.shape[:2], crop
    part = image[round(top * h) : max(1, round(bottom * h)), round(left * w) : max(1, round(right * w))]
    return resize_with_pad(part, *size)


def middle_rows(image: np.ndarray, shape: float) -> np.ndarray:
    """Of a picture (h, w, 3) taller than ``shape`` (width over height), the rows in its middle, a view; 0: all."""
    height, width = image.shape[:2]
    rows = max(1, round(width / shape)) if shape else height
    above = (height - rows) // 2
    return image[above : above + rows] if above > 0 else image


def pad_to(x: np.ndarray, size: int) -> np.ndarray:
    """Zeros appended to the last axis up to ``size``; a ``LayoutError`` if it is longer than that."""
    if x.shape[-1] > size:
        raise LayoutError(f"{x.shape[-1]} values do not fit into the model's {size}")
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])


def state_to_model(vector: Float[np.ndarray, "*b v"], layout: Layout) -> Float32[np.ndarray, "*b s"]:
    """What the model reads of a state vector, in the robot's units; not normalised yet."""
    return layout.checked(vector, "state")[..., layout.state_columns].astype(np.float32)


def proprioception_to_model(vector: Float[np.ndarray, "*b v"], layout: Layout) -> Float32[np.ndarray, "*b p"]:
    """What a model's state token is made of: positions in the robot's units; not normalised yet."""
    return layout.checked(vector, "state")[..., layout.proprioception_columns].astype(np.float32)


def hands_to_model(vector: Float[np.ndarray, "*b v"], layout: Layout) -> Float32[np.ndarray, "*b n"]:
    """Where each hand's grasp point is, three numbers per arm, m; a ``LayoutError`` where the arms' geometry is not
    known."""
    if (hands := fingertips(layout.positions(vector), layout, "grasp")) is None:
        raise LayoutError("arm_geometry.yaml is not of this robot's arms: a model that is told of hands cannot be used")
    return hands.reshape(*hands.shape[:-2], -1).astype(np.float32)


def actions_to_model(vector: Float[np.ndarray, "*b v"], layout: Layout) -> Float32[np.ndarray, "*b n"]:
    """The rows that the model learns from action vectors: arms stay, grippers become the robot's command numbers."""
    actions = layout.checked(vector, "action")[..., layout.action_columns].astype(np.float32)
    for gripper, column in layout.grippers.items():
        actions[..., column] = layout.curves[gripper].command(actions[..., column])
    return actions


def actions_from_model(actions: Float[np.ndarray, "*b w"], layout: Layout) -> Float32[np.ndarray, "*b n"]:
    """The inverse of ``actions_to_model``; columns beyond the robot's are left out."""
    actions = np.array(actions[..., : layout.action_size], np.float32)
    for gripper, column in layout.grippers.items():
        actions[..., column] = layout.curves[gripper].effort(actions[..., column])
    return actions


def delta_actions(
    actions: Float[np.ndarray, "*b h n"], state: Float[np.ndarray, "*b s"], layout: Layout
) -> Float[np.ndarray, "*b h n"]:
    """Rows of actions relative to the model's state, in the columns that the layout says."""
    return shifted(actions, layout.state_in_actions(state), -1)


def absolute_actions(
    actions: Float[np.ndarray, "*b h n"], state: Float[np.ndarray, "*b s"], layout: Layout
) -> Float[np.ndarray, "*b h n"]:
    """The inverse of ``delta_actions``."""
    return shifted(actions, layout.state_in_actions(state), 1)


def shifted(
    actions: Float[np.ndarray, "*b h d"], offset: Float[np.ndarray, "*b n"], sign: int
) -> Float[np.ndarray, "*b h d"]:
    """New actions with ``sign`` times an offset added to every row of a chunk; columns beyond the offset's stay."""
    n = offset.shape[-1]
    return np.concatenate([actions[..., :n] + sign * offset[..., None, :], actions[..., n:]], axis=-1)
