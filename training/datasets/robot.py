"""Whether a data set is of the robot that a profile describes, as far as its description tells."""

from __future__ import annotations

from collections.abc import Iterable

from pi05_progress.robots.profile import RobotProfile, known_profiles

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
    """Refuse a data set of another robot than the profile's.

    Args:
        dataset: opened.
        profile: whose layout and gripper curve its numbers are read with.
        vectors: features that are states or actions of the robot, and needed.
        cameras: keys of cameras that are needed.
        option: of the command line, that chooses another profile.

    Raises:
        DatasetError: it says so itself, a feature is missing, or vectors have another size.
    """
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
