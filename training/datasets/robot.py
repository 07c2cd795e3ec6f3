"""Of which robot a data set is, and what its numbers are, as far as its description tells."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from pi05_progress.robots.layout import POSITION, Layout
from pi05_progress.robots.profile import DEFAULT, RobotProfile, known_profiles

from . import layout
from .reader import Dataset, DatasetError

UNKNOWN = (None, "", "unknown")  # robot types that say nothing


def vectors_problem(dataset: Dataset, profile: RobotProfile, names: Iterable[str]) -> str:
    """What is wrong with the size of states or actions for this robot; empty if nothing is."""
    for name in names:
        shape = list(dataset.features[name]["shape"])
        if len(shape) != 1 or shape[0] not in profile.layout.vector_sizes:
            found = f"{shape[0]} numbers" if len(shape) == 1 else f"shape {shape}"
            sizes = " or ".join(map(str, profile.layout.vector_sizes))
            return (
                f"{dataset.root / layout.INFO}: {name} has {found}, vectors of {profile.name} have {sizes}; this is "
                "another robot's data"
            )
    return ""


def check_robot(
    dataset: Dataset,
    profile: RobotProfile,
    vectors: Iterable[str] = (layout.STATE, layout.ACTION),
    cameras: Iterable[str] = (),
    option: str = "--robot",
) -> None:
    """Refuse a data set of another robot than the profile's, which ``option`` of the command line chooses: it says so
    itself, a feature is missing, or vectors have another size."""
    robot = dataset.info.get("robot_type")
    if robot not in (*UNKNOWN, profile.name):
        remedy = f"choose {option} {robot}" if robot in known_profiles() else "correct robot_type if that is wrong"
        raise DatasetError(
            f"{dataset.root / layout.INFO}: robot_type is {robot}, the profile is {profile.name}, whose layout and "
            f"gripper curve may differ; {remedy}"
        )
    dataset.require([*vectors, *(layout.IMAGES + key for key in cameras)])
    if problem := vectors_problem(dataset, profile, vectors):
        raise DatasetError(problem)


def position_columns(dataset: Dataset, name: str, robot: Layout | None = None) -> Int[np.ndarray, " p"]:
    """Columns of joint positions in a state or action: those whose names say so, as in data sets of our converter.

    Without such names they are those of the robot that the data set names, if its vectors have that robot's size. Of
    all other data sets every column is taken for a position.
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
