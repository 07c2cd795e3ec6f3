"""Opens a run's data sets and checks that they are of the robot, and fit together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pi05_progress.robots.profile import RobotProfile, known_profiles

from ..datasets import layout
from ..datasets.reader import Dataset, DatasetError, open_dataset
from .config import DataConfig, DataConfigError


def open_data_sets(config: DataConfig, profile: RobotProfile) -> list[Dataset]:
    """The data sets of a configuration, in its order.

    Raises:
        DataConfigError: none is given, one is given twice, of another robot, or frame rates differ.
        DatasetError: a folder is not a data set, or lacks something.
    """
    names = [name.strip() for name in config.repo_id.split(",") if name.strip()]
    if not names:
        raise DataConfigError("no data set: give the folder of one, or several separated by commas: --data.repo_id")
    roots = [Path(name).expanduser() for name in names]
    if twice := [str(root) for root in roots if sum(other.resolve() == root.resolve() for other in roots) > 1]:
        raise DataConfigError(f"data.repo_id: {twice[0]} is given twice; --data.weights makes a data set count more")
    datasets = [_opened(root) for root in roots]
    if len({dataset.fps for dataset in datasets}) > 1:
        rates = ", ".join(f"{dataset.root}: {dataset.fps:g}" for dataset in datasets)
        raise DataConfigError(
            f"action chunks would last for different times, frames per second are {rates}; convert the recordings anew "
            "at one rate (convert_rosbags --fps), or train on those of one rate"
        )
    for dataset in datasets:
        _check_robot(dataset, profile)
    named = config.progress_column not in ("", layout.PROGRESS_COLUMN)
    if named and not any(config.progress_column in dataset.features for dataset in datasets):
        raise DataConfigError(
            f"progress_column is {config.progress_column}, which no data set has; {datasets[0].root} has "
            f"{', '.join(datasets[0].features)}"
        )
    return datasets


def asset_name(config: DataConfig, datasets: Sequence[Dataset]) -> str:
    """The statistics' name in checkpoints."""
    return config.asset_id or "+".join(dataset.root.resolve().name for dataset in datasets)


def _opened(root: Path) -> Dataset:
    if not root.exists():
        raise DatasetError(
            f"{root}: no such folder; data sets are read from folders, so one of the Hugging Face hub is downloaded "
            "first: hf download --repo-type dataset NAME --local-dir FOLDER"
        )
    return open_dataset(root)


def _check_robot(dataset: Dataset, profile: RobotProfile) -> None:
    """Refuse data of another robot, as far as its description tells."""
    path, robot = dataset.root / layout.INFO, dataset.info.get("robot_type")
    if robot not in (None, "", "unknown", profile.name):
        remedy = f"choose --data.robot {robot}" if robot in known_profiles() else "correct robot_type if that is wrong"
        raise DataConfigError(
            f"{path}: robot_type is {robot}, the profile is {profile.name}, whose layout and gripper curve may "
            f"differ; {remedy}"
        )
    dataset.require([layout.STATE, layout.ACTION, "task_index"])
    for name in (layout.STATE, layout.ACTION):
        shape = list(dataset.features[name]["shape"])
        if len(shape) != 1 or shape[0] not in (sizes := profile.layout.vector_sizes):
            raise DataConfigError(
                f"{path}: {name} has shape {shape}, vectors of {profile.name} have {' or '.join(map(str, sizes))} "
                "numbers; this is another robot's data"
            )
        if shape[0] > profile.vector_size:
            fitting = [known for known in known_profiles() if RobotProfile.load(known).vector_size == shape[0]]
            raise DataConfigError(
                f"{path}: {name} has {shape[0]} numbers, robot {profile.name} has {profile.vector_size}; choose the "
                f"profile of the robot that recorded it: --data.robot {' or '.join(fitting)}"
            )
