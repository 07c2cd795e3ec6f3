"""Everything of a run's data but its pictures: data sets, split, numbers in memory, statistics."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from pi05_progress.models.config import Pi05Config
from pi05_progress.robots.layout import Layout
from pi05_progress.robots.profile import RobotProfile, known_profiles
from pi05_progress.units.normalize import NormStats

from ..datasets import layout
from ..datasets.progress_meta import ProgressMeta, load_progress_meta
from ..datasets.reader import Dataset, DatasetError, named_folders, open_dataset
from ..datasets.robot import check_robot
from .config import DataConfig, DataConfigError
from .pictures import camera_features
from .rows import Rows, load_rows
from .split import HELD_OUT, SetSplit, held_out, seen_before
from .statistics import statistics


@dataclass(frozen=True)
class Data:
    """What is known once data sets are opened; lists have an entry per data set."""

    robot: Layout  # layout of its numbers
    datasets: list[Dataset]  # opened
    metas: list[ProgressMeta]  # outcomes and milestones of episodes, and how labels were made
    label_columns: list[str]  # the feature with the progress labels that are used; empty: none
    features: list[dict[str, str]]  # the data set's feature for each of the model's cameras that is used
    held_out: list[list[int]]  # episodes that are not trained on
    rows: list[Rows]  # numbers of all frames
    training: list[Int64[np.ndarray, " n"]]  # numbers of the rows that are trained on
    validation: list[Int64[np.ndarray, " m"]]  # numbers of the others
    imitated: list[tuple[bool, ...]]  # per episode, whether its actions count
    stats: Mapping[str, NormStats]  # of ``state`` and ``actions``, and what else the model needs
    said: list[str]  # what is to be said of statistics and of the split

    def notes(self, config: DataConfig) -> list[str]:
        """What should be said to whoever starts the run, who chose this configuration."""
        episodes = sum(len(dataset.episodes) for dataset in self.datasets)
        train, out = (sum(map(len, parts)) for parts in (self.training, self.validation))
        labelled = sum(int(rows.valid.sum()) for rows in self.rows if rows.valid is not None)
        columns = ", ".join(name or "none" for name in self.label_columns)
        notes = [
            f"data: {train + out} frames of {episodes} episodes in {len(self.datasets)} data "
            f"set{'s' * (len(self.datasets) > 1)}, {sum(map(len, self.held_out))} episodes ({out} frames) held out",
            f"progress labels: {labelled} of {train + out} frames, in {columns}"
            if any(self.label_columns)
            else "no progress labels are used: actions alone are trained",
            *self.said,
        ]
        if wrong := sum(len(rows.not_imitated) for rows in self.rows if rows.not_imitated is not None):
            chosen = "" if config.interventions == "also" else f", --data.interventions {config.interventions}"
            notes.append(f"{wrong} frames are not to be imitated ({layout.DEMONSTRATION_VALID}{chosen})")
        bad = [of for pair in zip(self.metas, self.datasets, strict=True) for of in _unsuccessful(*pair)]
        if count := sum(bad):
            counted = sum(of for of, imitated in zip(bad, itertools.chain(*self.imitated), strict=True) if imitated)
            corrected = (
                f", but for {counted} with corrections (--data.corrected_actions)" if 0 < counted < count else ""
            )
            notes.append(
                f"{count} episode{'s' * (count > 1)} failed or {'were' if count > 1 else 'was'} cut off: their actions "
                f"{'are imitated like those of the others' if counted == count else 'do not count'} "
                f"(--data.failed_actions){corrected}"
            )
        return notes


def read_data(config: DataConfig, model: Pi05Config, before: Sequence[SetSplit] = (), goes_on: bool = False) -> Data:
    """Open, check and read what a configuration names; for ``before`` and ``goes_on`` see ``TrainLoader``."""
    profile = RobotProfile.load(config.robot)
    datasets = open_data_sets(config, profile)
    features = [camera_features(dataset, profile, config.cameras) for dataset in datasets]
    metas = [load_progress_meta(dataset.root) for dataset in datasets]
    columns = label_columns(config, datasets, metas)
    rows = [
        load_rows(
            dataset,
            profile,
            column,
            proprioception=model.state_token,
            hands=model.hands > 0,
            positions=model.positions,
            interventions=config.interventions,
        )
        for dataset, column in zip(datasets, columns, strict=True)
    ]
    stats, said = statistics(config, datasets, rows, profile, model)
    if goes_on:
        out = _as_before(datasets, before[-len(datasets) :])
    else:
        _check_different(datasets, rows)
        out, more = split_episodes(config, datasets, rows, before)
        said += more
    imitated = [
        tuple(
            dataset.root.name not in config.progress_only
            and (config.failed_actions or (config.corrected_actions and of.chunks is not None) or not bad)
            for bad in _unsuccessful(meta, dataset)
        )
        for of, meta, dataset in zip(rows, metas, datasets, strict=True)
    ]
    if strange := set(config.progress_only) - {dataset.root.name for dataset in datasets}:
        there = ", ".join(dataset.root.name for dataset in datasets)
        raise DataConfigError(
            f"data.progress_only: no data set is called {', '.join(sorted(strange))}; there are {there}"
        )
    _check_imitated(datasets, imitated, out)
    is_out = [_rows_of(of.starts, episodes) for of, episodes in zip(rows, out, strict=True)]
    training = [np.flatnonzero(~of) for of in is_out]
    if config.interventions == "only" and all(
        np.isin(trained, of.not_imitated).all() for trained, of in zip(training, rows, strict=True)
    ):
        raise DataConfigError(
            "--data.interventions only: in no frame that is trained on had an operator taken over "
            f"({layout.INTERVENTION}), so no actions would be learnt; add recordings with takeovers, or choose also"
        )
    return Data(
        robot=profile.layout,
        datasets=datasets,
        metas=metas,
        label_columns=columns,
        features=features,
        held_out=out,
        rows=rows,
        training=training,
        validation=[np.flatnonzero(of) for of in is_out],
        imitated=imitated,
        stats=stats,
        said=said,
    )


def _as_before(datasets: list[Dataset], splits: Sequence[SetSplit]) -> list[list[int]]:
    """What the run that goes on holds out; refuses data that cannot be what it began with."""
    for dataset, split in itertools.zip_longest(datasets, splits):
        gone = [i for i in split.episodes if not 0 <= i < len(dataset.episodes)] if split else []
        if gone or split is None:
            found = f"holds out its episodes {gone}, it has {len(dataset.episodes)}" if split else "says nothing of it"
            raise DataConfigError(
                f"{dataset.root}: has changed since the run began, whose {HELD_OUT} {found}; put back what is missing, "
                "or begin another run, from this one's checkpoint: --exp_name and --checkpoint instead of --resume"
            )
    return [list(split.episodes) for split in splits]


def _check_different(datasets: list[Dataset], rows: list[Rows]) -> None:
    """Refuse data sets of which one holds episodes of another, under whatever name."""
    for (one, of_one), (other, of_other) in itertools.combinations(zip(datasets, rows, strict=True), 2):
        if shared := sum(name in of_one.names for name in of_other.names):
            raise DataConfigError(
                f"data.repo_id: {shared} of {len(of_other.names)} episodes of {other.root} are those of {one.root} "
                "under another name: leave one of the two out; --data.weights makes a data set count more"
            )


def split_episodes(
    config: DataConfig, datasets: list[Dataset], rows: list[Rows], before: Sequence[SetSplit]
) -> tuple[list[list[int]], list[str]]:
    """Episodes of each data set that are held out, and what is to be said of them."""
    out, said = [], []
    for dataset, of in zip(datasets, rows, strict=True):
        stay, trained = seen_before(before, dataset.root, of.names)
        alone = len(of.names) == 1 and len(datasets) > 1  # it is trained on; others are there to be held out
        chosen = [] if alone else held_out(of.names, config.validation_fraction, config.seed_split, stay, trained)
        out.append(chosen)
        if stay & set(chosen):
            said.append(f"{dataset.root}: {len(stay)} episodes stay held out, as in the run of the checkpoint")
        if twins := [i for i in chosen if of.names.index(of.names[i]) < i]:
            said.append(f"note: {dataset.root}: episodes {twins} are copies of held-out ones, and held out with them")
        if lost := sorted(stay - set(chosen)):
            said.append(f"note: {dataset.root}: episodes {lost} are trained on now; that run held them out")
        if seen := sorted(trained & set(chosen)):
            said.append(f"note: {dataset.root}: held-out episodes {seen} are known: the checkpoint was trained on them")
    return out, said


def written(dataset: Dataset, rows: Rows, held_out: list[int]) -> SetSplit:
    """What a run writes down of a data set."""
    out = set(held_out)
    kinds = {kind: tuple(name for i, name in enumerate(rows.names) if (i in out) == kind) for kind in (True, False)}
    return SetSplit(str(dataset.root.resolve()), tuple(held_out), kinds[True], kinds[False])


def open_data_sets(config: DataConfig, profile: RobotProfile) -> list[Dataset]:
    """The data sets of a configuration, in its order, all of this robot and of one frame rate."""
    names = named_folders(config.repo_id)
    if not names:
        raise DataConfigError("no data set: give the folder of one, or several separated by commas: --data.repo_id")
    roots = [Path(name).expanduser() for name in names]
    if twice := [str(root) for root in roots if sum(other.resolve() == root.resolve() for other in roots) > 1]:
        raise DataConfigError(f"data.repo_id: {twice[0]} is given twice; --data.weights makes a data set count more")
    if missing := [root for root in roots if not root.exists()]:
        raise DatasetError(
            f"{missing[0]}: no such folder; data sets are read from folders, so one of the Hugging Face hub is "
            "downloaded first: hf download --repo-type dataset NAME --local-dir FOLDER"
        )
    datasets = [open_dataset(root) for root in roots]
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
    return datasets


def label_columns(config: DataConfig, datasets: list[Dataset], metas: list[ProgressMeta]) -> list[str]:
    """The feature with each data set's progress labels: the one that is named for it, or its own; empty if it has none.

    A data set that has several, none of which is named, is refused.
    """
    chosen, names = config.progress_column, [dataset.root.name for dataset in datasets]
    found = [meta.progress_columns(dataset.features) for dataset, meta in zip(datasets, metas, strict=True)]
    if chosen is not None and ":" not in chosen:
        found = [[chosen] * (chosen in dataset.features) for dataset in datasets]
    fits = not chosen or any(found)
    if chosen and ":" in chosen:
        pairs = re.findall(r"(.*?):([^,:]*)(?:,|$)", chosen)  # a comma may also be in a folder's name
        named = {Path(folder).name: column for folder, column in pairs}
        fits = ",".join(map(":".join, pairs)) == chosen and len(named) == len(pairs) and named.keys() <= set(names)
        found = [[named[name]] if name in named else of for name, of in zip(names, found, strict=True)]
    if not fits:
        raise DataConfigError(
            f"progress_column is {chosen}, which no data set has; expected a feature, or NAME:FEATURE of data sets, "
            f"separated by commas; data sets are {', '.join(names)}, {names[0]} has {', '.join(datasets[0].features)}"
        )
    for dataset, columns in zip(datasets, found, strict=True):
        if len(columns) > 1:
            raise DataConfigError(
                f"{dataset.root}: progress labels may be in {' or '.join(columns)}; choose one: --data.progress_column "
                f"{dataset.root.name}:{columns[0]}"
            )
        dataset.require([column for column in columns if column])
    return ["".join(columns) for columns in found]


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


def _unsuccessful(meta: ProgressMeta, dataset: Dataset) -> list[bool]:
    return [meta.episode(index).unsuccessful for index in range(len(dataset.episodes))]


def _check_imitated(datasets: list[Dataset], imitated: list[tuple[bool, ...]], out: list[list[int]]) -> None:
    """Refuse data of which no action would be learnt."""
    trained = [of[i] for of, held in zip(imitated, out, strict=True) for i in sorted(set(range(len(of))) - set(held))]
    if not any(trained):
        raise DataConfigError(
            f"{', '.join(str(dataset.root) for dataset in datasets)}: all {len(trained)} episodes that are trained on "
            f"failed or were cut off ({layout.PROGRESS}), so no actions would be learnt; add episodes that succeeded, "
            "or imitate these: --data.failed_actions, or without --data.progress_only"
        )


def _rows_of(starts: Int64[np.ndarray, " e"], episodes: list[int]) -> np.ndarray:
    """Whether each row is of one of these episodes."""
    chosen = np.zeros(len(starts) - 1, bool)
    chosen[episodes] = True
    return np.repeat(chosen, np.diff(starts))
