"""Everything of a run's data but its pictures: data sets, split, numbers in memory, statistics."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from pi05_progress.models.config import Pi05Config
from pi05_progress.robots.layout import Layout
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import NormStats

from ..datasets import layout
from ..datasets.progress_meta import ProgressMeta, load_progress_meta
from ..datasets.reader import Dataset
from .config import DataConfig, DataConfigError
from .data_sets import open_data_sets
from .pictures import camera_features
from .rows import Rows, load_rows
from .split import SetSplit, held_out, seen_before
from .statistics import statistics


@dataclass(frozen=True)
class Data:
    """What is known once data sets are opened; lists have an entry per data set.

    Attributes:
        robot: layout of its numbers.
        datasets: opened.
        metas: outcomes and milestones of episodes, and how labels were made.
        features: the data set's feature for each of the model's cameras that is used.
        held_out: episodes that are not trained on.
        rows: numbers of all frames.
        training: numbers of the rows that are trained on.
        validation: numbers of the others.
        imitated: per episode, whether its actions count.
        stats: of ``state`` and ``actions``.
        said: what is to be said of statistics and of the split.
    """

    robot: Layout
    datasets: list[Dataset]
    metas: list[ProgressMeta]
    features: list[dict[str, str]]
    held_out: list[list[int]]
    rows: list[Rows]
    training: list[Int64[np.ndarray, " n"]]
    validation: list[Int64[np.ndarray, " m"]]
    imitated: list[tuple[bool, ...]]
    stats: Mapping[str, NormStats]
    said: list[str]

    @property
    def has_labels(self) -> bool:
        """Whether any data set has progress labels."""
        return any(rows.progress is not None for rows in self.rows)

    def notes(self, config: DataConfig) -> list[str]:
        """What should be said to whoever starts the run, who chose this configuration."""
        episodes = sum(len(dataset.episodes) for dataset in self.datasets)
        train, out = (sum(map(len, parts)) for parts in (self.training, self.validation))
        labelled = sum(int(rows.valid.sum()) for rows in self.rows if rows.valid is not None)
        notes = [
            f"data: {train + out} frames of {episodes} episodes in {len(self.datasets)} data "
            f"set{'s' * (len(self.datasets) > 1)}, {sum(map(len, self.held_out))} episodes ({out} frames) held out",
            f"progress labels: {labelled} of {train + out} frames"
            if self.has_labels
            else "no progress labels are used: actions alone are trained",
            *self.said,
        ]
        if bad := sum(sum(of) for of in map(_unsuccessful, self.metas, self.datasets)):
            notes.append(
                f"{bad} episode{'s' * (bad > 1)} failed or {'were' if bad > 1 else 'was'} cut off: their actions "
                f"{'are imitated like those of the others' if config.failed_actions else 'do not count'} "
                "(--data.failed_actions)"
            )
        for dataset, meta in zip(self.datasets, self.metas, strict=True):
            column = meta.labels.columns.get("progress") if meta.labels else None
            if column and config.progress_column and column != config.progress_column:
                notes.append(
                    f"note: the labels of {dataset.root} are in {column}, not in {config.progress_column}; "
                    f"--data.progress_column {column} uses them"
                )
        return notes


def read_data(config: DataConfig, model: Pi05Config, before: Sequence[SetSplit] = (), goes_on: bool = False) -> Data:
    """Open, check and read what a configuration names.

    Args:
        before: what the run did with its data that this one starts from, or goes on with.
        goes_on: whether this is the same run, whose split stays as it is.

    Raises:
        DataConfigError, DatasetError, ConfigError, ProgressMetaError: what does not fit; says what to do.
    """
    profile = RobotProfile.load(config.robot)
    datasets = open_data_sets(config, profile)
    features = [camera_features(dataset, profile, config.cameras) for dataset in datasets]
    rows = [load_rows(dataset, profile, config.progress_column) for dataset in datasets]
    stats, said = statistics(config, datasets, rows, profile, model.action_horizon)
    if goes_on:
        out = [list(split.episodes) for split in before[-len(datasets) :]]
    else:
        _check_different(datasets, rows)
        out, more = split_episodes(config, datasets, rows, before)
        said += more
    metas = [load_progress_meta(dataset.root) for dataset in datasets]
    imitated = [
        tuple(config.failed_actions or not bad for bad in _unsuccessful(*of))
        for of in zip(metas, datasets, strict=True)
    ]
    _check_imitated(datasets, imitated, out)
    is_out = [_rows_of(of.starts, episodes) for of, episodes in zip(rows, out, strict=True)]
    return Data(
        robot=profile.layout,
        datasets=datasets,
        metas=metas,
        features=features,
        held_out=out,
        rows=rows,
        training=[np.flatnonzero(~of) for of in is_out],
        validation=[np.flatnonzero(of) for of in is_out],
        imitated=imitated,
        stats=stats,
        said=said,
    )


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
        count = len(dataset.episodes)
        alone = count == 1 and len(datasets) > 1  # it is trained on; others are there to be held out
        chosen = [] if alone else held_out(count, config.validation_fraction, config.seed_split, stay, trained)
        out.append(chosen)
        if stay & set(chosen):
            said.append(f"{dataset.root}: {len(stay)} episodes stay held out, as in the run of the checkpoint")
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


def _unsuccessful(meta: ProgressMeta, dataset: Dataset) -> list[bool]:
    return [meta.episode(index).unsuccessful for index in range(len(dataset.episodes))]


def _check_imitated(datasets: list[Dataset], imitated: list[tuple[bool, ...]], out: list[list[int]]) -> None:
    """Refuse data of which no action would be learnt."""
    trained = [of[i] for of, held in zip(imitated, out, strict=True) for i in sorted(set(range(len(of))) - set(held))]
    if not any(trained):
        raise DataConfigError(
            f"{', '.join(str(dataset.root) for dataset in datasets)}: all {len(trained)} episodes that are trained on "
            f"failed or were cut off ({layout.PROGRESS}), so no actions would be learnt; add episodes that succeeded, "
            "or imitate these: --data.failed_actions"
        )


def _rows_of(starts: Int64[np.ndarray, " e"], episodes: list[int]) -> np.ndarray:
    """Whether each row is of one of these episodes."""
    chosen = np.zeros(len(starts) - 1, bool)
    chosen[episodes] = True
    return np.repeat(chosen, np.diff(starts))
