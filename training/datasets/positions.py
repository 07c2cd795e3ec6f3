"""Which of a data set's numbers are joint positions, also where the robot that recorded it is not known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from pi05_progress.robots.layout import POSITION, Layout
from pi05_progress.robots.profile import DEFAULT, RobotProfile, known_profiles

from .reader import Dataset


def position_columns(dataset: Dataset, name: str, robot: Layout | None = None) -> Int[np.ndarray, " p"]:
    """Columns of joint positions in a state or action: those whose names say so, as in data sets of our converter.

    Without such names they are those of the robot that the data set names, if its vectors have that robot's size. Of
    all other data sets every column is taken for a position.

    Args:
        dataset: opened.
        name: of the feature.
        robot: layout of the robot that is to be thought of, instead of the one that the data set names.
    """
    feature = dataset.features[name]
    names = feature.get("names")
    if isinstance(names, list) and (named := [i for i, text in enumerate(names) if str(text).endswith(f".{POSITION}")]):
        return np.array(named)
    if robot is None:
        recorded = dataset.info.get("robot_type")
        robot = RobotProfile.load(recorded if recorded in known_profiles() else DEFAULT).layout
    size = feature["shape"][0]
    return np.arange(len(robot.joints) if size in robot.vector_sizes else size)
