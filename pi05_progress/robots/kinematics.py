"""What arms are made of, and where hands are: the robot's geometry (``config/arm_geometry.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import UserError
from ..files.config_files import config_file
from ..files.yaml_text import load_yaml
from .layout import Layout
from .profile import RobotProfile

ROOT_FRAME = "base_link"  # what ROS calls the frame in which all of it is
Table = Mapping[str, Any]  # such a file's content


@cache
def default_geometry() -> Table:
    """The Teleavatar's, read once."""
    return load_yaml(config_file("arm_geometry.yaml").read_text(encoding="utf-8"))


def read_geometry(profile: RobotProfile) -> Table:
    """The geometry that a profile names; a ``UserError`` if it names none, or one that is not of its arms."""
    if profile.geometry is None:
        raise UserError(f"the profile {profile.name} has no geometry")
    path = config_file(profile.geometry.file)
    table = load_yaml(path.read_text(encoding="utf-8"))
    for arm, about in profile.arms.items():
        found = [link["joint"] for link in _links(table, arm)]
        if found != list(about.joints) or arm not in table.get("capsules", {}):
            joints = ", ".join(about.joints)
            raise UserError(f"geometry.file: {path} has no links and capsules of arm {arm} with joints {joints}")
    return table


def _links(table: Table, arm: str) -> list[dict[str, Any]]:
    return [link for link in table.get(arm, ()) if "joint" in link]


def link_capsules(table: Table, arm: str) -> list[tuple[dict[str, Any], list[float], float]]:
    """An arm's links, each with the end, in its frame, and the radius of the capsule around it, m."""
    links, capsules = _links(table, arm), table["capsules"][arm]
    ends = [*(link["pos"] for link in links[1:]), capsules["hand"]]
    return list(zip(links, ends, capsules["radii"], strict=True))


def fingertips(
    arms: Float[np.ndarray, "*b n"], layout: Layout, of: str = "finger", table: Table | None = None
) -> Float[np.ndarray, "*b a 3"] | None:
    """A point of each arm's hand, m in the robot's root frame; None if the geometry is not of these arms: it lacks one,
    or one has other joints, or no such point.

    Args:
        arms: a number per joint in the layout's order, rad; those of grippers are not looked at.
        of: `finger`, midway between the frames of both fingers, or `grasp`, between their pads.
        table: the geometry; ``config/arm_geometry.yaml`` unless given.
    """
    geometry, points = table or default_geometry(), []
    for arm, columns in layout.arms.items():
        links = _links(geometry, arm)
        fingers = [link["pos"] for link in geometry.get(arm, ()) if of in link]
        if [link["joint"] for link in links] != list(layout.joints[columns]) or not fingers:
            return None
        angles = arms[..., columns].reshape(-1, len(links))
        point = np.broadcast_to(np.mean(fingers, axis=0), (len(angles), 3))
        for link, angle in zip(reversed(links), angles.T[::-1], strict=True):
            axis = np.array(link["axis"]) / np.linalg.norm(link["axis"])
            turned = _turned(point, np.cos(angle[:, None] / 2), np.sin(angle[:, None] / 2) * axis)
            scalar, *vector = np.array(link["quat"]) / np.linalg.norm(link["quat"])
            point = _turned(turned, scalar, np.array(vector)) + link["pos"]
        points.append(point.reshape(*arms.shape[:-1], 3))
    return np.stack(points, axis=-2)


def _turned(points: Float[np.ndarray, "n 3"], scalar: np.ndarray, vector: np.ndarray) -> Float[np.ndarray, "n 3"]:
    """Points, turned by unit quaternions; scipy's rotations take long to import where every program starts."""
    return points + 2 * np.cross(vector, np.cross(vector, points) + scalar * points)
