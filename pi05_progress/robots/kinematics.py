"""Where hands are, by forward kinematics of the robot's geometry (``config/arm_geometry.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from ..files.config_files import config_file
from ..files.yaml_text import load_yaml
from .layout import Layout


@cache
def _geometry() -> Mapping[str, Any]:
    return load_yaml(config_file("arm_geometry.yaml").read_text(encoding="utf-8"))


def fingertips(
    arms: Float[np.ndarray, "*b n"], layout: Layout, of: str = "finger"
) -> Float[np.ndarray, "*b a 3"] | None:
    """A point of each arm's hand, m in the robot's root frame.

    Args:
        arms: a number per joint in the layout's order, rad; those of grippers are not looked at.
        of: `finger`, midway between the frames of both fingers, or `grasp`, between their pads.

    Returns:
        None if the geometry is not of these arms: it lacks one, or one has other joints.
    """
    geometry, points = _geometry(), []
    for arm, columns in layout.arms.items():
        links = [link for link in geometry.get(arm, ()) if "joint" in link]
        if [link["joint"] for link in links] != list(layout.joints[columns]):
            return None
        fingers = [link["pos"] for link in geometry[arm] if of in link]
        angles = arms[..., columns].reshape(-1, len(links))
        point = np.broadcast_to(np.mean(fingers, axis=0), (len(angles), 3))
        for link, angle in zip(reversed(links), angles.T[::-1], strict=True):
            axis = np.array(link["axis"]) / np.linalg.norm(link["axis"])
            turned = Rotation.from_rotvec(angle[:, None] * axis).apply(point)
            point = Rotation.from_quat(link["quat"], scalar_first=True).apply(turned) + link["pos"]
        points.append(point.reshape(*arms.shape[:-1], 3))
    return np.stack(points, axis=-2)
