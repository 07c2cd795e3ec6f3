"""Opens a run's data sets and checks that they are of the robot, and fit together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pi05_progress.robots.profile import RobotProfile, known_profiles

from ..datasets import layout
from ..datasets.reader import Dataset, DatasetError, named_folders, open_dataset
from ..datasets.robot import check_robot
from .config import DataConfig, DataConfigError


def open_data_sets(config: DataConfig, profile: RobotProfile) -> list[Dataset]:
    """The data sets of a configuration, in its order.

    Raises:
        DataConfigError: none is given, one is given twice, or frame rates differ.
        DatasetError: a folder is not a data set, lacks something, or is of another robot.
    """
    names = named_folders(config.repo_id)
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
        check_robot(dataset, profile, option="--data.robot")
        dataset.require(["task_index"])
        _check_size(dataset, profile)
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


def _check_size(dataset: Dataset, profile: RobotProfile) -> None:
    """Refuse vectors that this robot would not record, though it can read them."""
    for name in (layout.STATE, layout.ACTION):
        if (size := dataset.features[name]["shape"][0]) > profile.vector_size:
            fitting = [known for known in known_profiles() if RobotProfile.load(known).vector_size == size]
            raise DataConfigError(
                f"{dataset.root / layout.INFO}: {name} has {size} numbers, robot {profile.name} has "
                f"{profile.vector_size}; choose the profile of the robot that recorded it: --data.robot "
                f"{' or '.join(fitting)}"
            )
