"""What is true of an episode: how far it had come, when it was done, and how long its task takes by the clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pi05_progress.checkpoints.description import DURATIONS
from pi05_progress.errors import UserError
from pi05_progress.robots.layout import Layout

from ..datasets.progress_meta import EpisodeMeta, ProgressMeta, Stage, load_progress_meta
from ..datasets.reader import Dataset, open_dataset
from ..labels import methods, milestones
from ..labels.milestones import STAGES, MilestoneError, Stages, durations_s, end_frame

FAILED, PARTIAL, SUCCESSFUL = 0, 1, 2
STILL_SPEED = 0.02  # rad/s: slower than this a joint stands still
STILL_S = 3.0  # a standstill lasts at least this long


@dataclass(frozen=True)
class Truth:
    """One episode."""

    # FAILED (no milestone was reached), PARTIAL (a failure that reached some), SUCCESSFUL (anything that is not known
    # to have failed)
    rank: int
    # progress by time, float64 (frames,), 1 from `end_frame` on; None for failures, which do not come to 1
    linear: np.ndarray | None
    # progress by milestones, float64 (frames,); None where the task or the episode has none. A failure stays at its
    # last milestone.
    milestone: np.ndarray | None
    boundaries: tuple[tuple[str, int, float], ...]  # milestones that were reached: name, frame, progress
    # from which on a success is done: its task's last milestone, or the last frame if that is not known
    done_frame: int
    # from which on its progress is 1: `done_frame` where the task ends with its last milestone, else the last frame
    end_frame: int

    @property
    def reference(self) -> np.ndarray | None:
        """The best that is known: by milestones, else by time."""
        return self.linear if self.milestone is None else self.milestone

    @property
    def falls(self) -> bool:
        """Whether a step was undone, so that progress fell."""
        return self.milestone is not None and bool((np.diff(self.milestone) < 0).any())

    def complete(self, frames: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether the task is complete at these frames."""
        return self.success & (frames >= self.done_frame)

    @property
    def success(self) -> bool:
        """Whether the episode counts as done."""
        return self.rank == SUCCESSFUL


def episode_truth(length: int, meta: EpisodeMeta, stages: Stages | None) -> Truth:
    """What is true of an episode of so many frames; ``stages`` are those of its task, None if they are not known."""
    failed, end = meta.unsuccessful, end_frame(length, meta, stages)
    linear = None if failed else np.append(methods.linear(end + 1), np.ones(length - 1 - end))
    if stages is None:
        rank = (PARTIAL if meta.milestones else FAILED) if failed else SUCCESSFUL
        return Truth(rank, linear, None, (), length - 1, end)
    marks = milestones.with_names(meta.milestones)
    frames = milestones.reached(marks, stages.labels)
    rank = (PARTIAL if frames else FAILED) if failed else SUCCESSFUL
    progress = dict(zip(stages.labels, stages.boundaries.tolist(), strict=True))
    boundaries = tuple((name, frame, progress[name]) for name, frame in frames.items())
    by_milestones = None
    if frames or failed:
        by_milestones = milestones.course(length, marks, stages, finished=not failed)
    return Truth(rank, linear, by_milestones, boundaries, frames.get(stages.labels[-1], length - 1), end)


def task_stages(
    dataset: Dataset, meta: ProgressMeta, trained: Mapping[str, Sequence[Stage]]
) -> tuple[dict[str, Stages | None], dict[str, str]]:
    """Stages of every task of a data set, and where they are from.

    Those the model was trained with come first, then those the data set was labelled with, then those its own
    successful episodes have.
    """
    labelled = meta.labels.stages if meta.labels and meta.labels.method == "milestone" else {}
    found: dict[str, Stages | None] = {}
    source: dict[str, str] = {}
    for task in dict.fromkeys(episode.task for episode in dataset.episodes):
        if trained.get(task):
            found[task], source[task] = Stages.of(trained[task]), "training"
        elif labelled.get(task):
            found[task], source[task] = Stages.of(labelled[task]), "labels of the data set"
        else:
            own = {
                e.index: (e.length, milestones.with_names(meta.episode(e.index).milestones))
                for e in dataset.episodes
                if e.task == task and not meta.episode(e.index).unsuccessful
            }
            try:
                found[task], source[task] = milestones.task_stages(own), "milestones of the data set"
            except MilestoneError:
                found[task], source[task] = None, "none"
    return found, source


def standstills(
    states: Float[np.ndarray, "n d"], robot: Layout, fps: float, done_frame: int
) -> tuple[tuple[int, int], ...]:
    """First and last frame of every stretch in which no joint or gripper moves, before the task is done."""
    positions = robot.positions(states[: done_frame + 1])
    still = methods.speeds(positions, fps) < STILL_SPEED
    # a step leads to its frame: n still steps are n + 1 frames at rest
    return tuple(
        (start, stop) for start, stop in methods.runs(still[1:]) if (stop - start) / fps >= STILL_S - 1e-9
    )  # fmt: skip


@dataclass(frozen=True)
class Training:
    """What is known of the training data."""

    durations_s: Mapping[str, float]  # median duration of the successful episodes of each task, s
    stages: Mapping[str, tuple[Stage, ...]]  # of each task, where its labels had any
    source: str  # where this was read
    # all instructions the model is known to have been trained on, whatever the source of the others says
    tasks: frozenset[str] = frozenset()


def training_of(
    train_datasets: Sequence[Path],
    labels: Mapping[str, Any],
    checkpoint: str,
    evaluated: Path,
    held_out: Collection[int],
) -> Training:
    """Durations and stages of the training data, from its data sets or, without any, from what the checkpoint says.

    Where the data set that is evaluated is one of them, its episodes that are evaluated do not count.

    Raises:
        UserError: neither is there, or what the checkpoint says is not what it should be.
    """
    if not train_datasets:
        return _from_checkpoint(labels, checkpoint)
    tasks = {task for key in (DURATIONS, STAGES) if isinstance(of := labels.get(key), Mapping) for task in of}
    seconds: dict[str, list[float]] = {}
    stages: dict[str, tuple[Stage, ...]] = {}
    for root in train_datasets:
        dataset, meta = open_dataset(root), load_progress_meta(root)
        tasks |= {episode.task for episode in dataset.episodes}
        left_out = set(held_out) if root.resolve() == evaluated.resolve() else set()
        for task, durations in durations_s(dataset, meta, left_out).items():
            seconds.setdefault(task, []).extend(durations)
        if meta.labels is not None:
            stages |= meta.labels.stages
    if not seconds:
        raise UserError(
            f"--train_dataset {', '.join(map(str, train_datasets))}: no successful episode but those evaluated; "
            "evaluate fewer, or name the data the model was trained on"
        )
    medians = {task: float(np.median(of)) for task, of in seconds.items()}
    return Training(medians, stages, ", ".join(map(str, train_datasets)), frozenset(tasks))


def _from_checkpoint(labels: Mapping[str, Any], checkpoint: str) -> Training:
    durations, named = labels.get(DURATIONS), labels.get(STAGES) or {}
    if not durations:
        raise UserError(
            f"{checkpoint} does not say how long its training episodes were ({DURATIONS} among its labels in "
            "config.json), which the comparison with a clock needs; give the data with --train_dataset"
        )
    try:
        stages = {t: tuple(Stage(str(s["name"]), float(s["share"])) for s in of) for t, of in named.items()}
        medians = {task: float(value) for task, value in durations.items()}
        return Training(medians, stages, "checkpoint", frozenset(medians) | frozenset(stages))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{checkpoint}: config.json, labels: {DURATIONS} or {STAGES} are wrong: {error!r}") from error
