"""Stages of a task from milestones that were marked in its episodes, and how long these took until it was done."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from pi05_progress.errors import UserError
from pi05_progress.robots.episode_notes import UNDONE

from ..datasets.progress_meta import EpisodeMeta, Milestone, ProgressMeta, Stage
from ..datasets.reader import Dataset

Finish = Literal["stage", "done"]  # the time after the last milestone is one more stage, or the task is done by then
STAGES = "stages"  # where a checkpoint's `labels` keep the stages of each task: lists of {"name": ..., "share": ...}
FINISH = "finish"  # the stage after the last milestone


class MilestoneError(UserError):
    """Milestones are missing or wrong; the message names file or episode and what to do."""


@dataclass(frozen=True)
class Stages:
    """The stages of one task."""

    labels: tuple[str, ...]  # of the milestones, in order; milestone `k` ends stage `k`
    boundaries: np.ndarray  # progress at each milestone, float64 (m,): the mean share of an episode until it

    @property
    def end_the_task(self) -> bool:
        """Whether the task is done at its last milestone: nothing of it comes after that."""
        return bool(np.isclose(self.boundaries[-1], 1.0, rtol=0, atol=1e-9))

    def named(self) -> tuple[Stage, ...]:
        """Names and shares; the part after the last milestone is a stage, too, if it takes any time."""
        shares = np.diff(self.boundaries, prepend=0.0, append=1.0)
        names = [*self.labels, FINISH]
        stages = [Stage(name, float(share)) for name, share in zip(names, shares, strict=True)]
        return tuple(stages if stages[-1].share > 0 else stages[:-1])

    @classmethod
    def of(cls, named: Sequence[Stage]) -> Stages:
        """The stages that ``named`` gave these names and shares."""
        kept = named[:-1] if named[-1].name == FINISH and len(named) > 1 else named
        return cls(tuple(stage.name for stage in kept), np.cumsum([stage.share for stage in kept]))


def with_names(milestones: Sequence[Milestone]) -> list[Milestone]:
    """Milestones in the order of their frames; those without a label get their number as a name."""
    ordered = sorted(milestones, key=lambda m: m.frame)
    return [Milestone(m.label or f"milestone {i + 1}", m.frame) for i, m in enumerate(ordered)]


def reached(milestones: Sequence[Milestone], labels: Sequence[str]) -> dict[str, int]:
    """The frame that counts for each milestone of a task that an episode reached.

    Where one comes several times (a part was dropped and taken again) its last time before the next milestone counts,
    so the frames rise with the order of the task. A milestone that was only marked after a later one is left out.
    """
    frames: dict[str, int] = {}
    limit = np.inf
    for label in reversed(labels):  # whether it was undone in between is for `course` to say
        before = [m.frame for m in milestones if m.label == label and m.frame <= limit]
        if before:
            frames[label] = limit = max(before)
    return {label: frames[label] for label in labels if label in frames}


def task_stages(episodes: Mapping[int, tuple[int, Sequence[Milestone]]], finish: Finish = "stage") -> Stages:
    """Stages of one task from its successful episodes: by index, the number of frames and the milestones in order.

    The order of milestones is the one most episodes have; boundaries are means over the episodes that have them all.

    Raises:
        MilestoneError: no episode has a milestone.
    """
    names = ([m.label for m in milestones if not m.label.startswith(UNDONE)] for _, milestones in episodes.values())
    orders = Counter(tuple(dict.fromkeys(of)) for of in names)
    orders.pop((), None)
    if not orders:
        raise MilestoneError(f"none of the episodes {sorted(episodes)} has a milestone")
    most = max(orders.values())
    labels = max((order for order, count in orders.items() if count == most), key=len)
    shares = []
    for length, milestones in episodes.values():
        frames = reached(milestones, labels)
        if len(frames) == len(labels):
            whole = frames[labels[-1]] if finish == "done" else length - 1
            if whole > 0:
                shares.append([frames[label] / whole for label in labels])
    if not shares:  # the order is some episode's own: only one that takes no time has no shares
        raise MilestoneError(f"the only episodes with milestones, of {sorted(episodes)}, end in their first frame")
    return Stages(labels, np.mean(shares, axis=0))


def anchors(
    length: int, frames: Mapping[str, int], stages: Stages, finished: bool
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Frames where an episode's progress is known, rising, and the progress there; it is linear in between.

    Args:
        frames: of the milestones it ``reached``.
        finished: whether the last frame has progress 1; otherwise progress stays what it was at the last milestone.
    """
    points = {0: 0.0}
    for label, boundary in zip(stages.labels, stages.boundaries, strict=True):
        if label in frames:
            points[frames[label]] = float(boundary)  # of milestones in one frame, the furthest
    if finished:
        points[length - 1] = 1.0
    return np.array(list(points), float), np.array(list(points.values()))


def course(length: int, marks: Sequence[Milestone], stages: Stages, finished: bool) -> Float[np.ndarray, " n"]:
    """An episode's progress by its milestones, frame by frame; it falls where one is undone.

    From the frame after such a mark on progress is what it was before that milestone, and later ones hold no more.

    Args:
        marks: its milestones in order, undone ones among them.
        finished: whether the last frame has progress 1; otherwise progress stays what it was at the last milestone.
    """
    if not falls(marks):
        return np.interp(np.arange(length), *anchors(length, reached(marks, stages.labels), stages, finished))
    at = np.concatenate([[0.0], stages.boundaries])
    points = {0: 0.0}  # progress by frame
    for frame, before, held in _steps(marks, stages):
        points[frame] = float(at[max(before, held)])
        if held < before:
            points[min(frame + 1, length - 1)] = float(at[held])
    if finished:
        points[length - 1] = 1.0
    return np.interp(np.arange(length), list(points), list(points.values()))


def falls(marks: Sequence[Milestone]) -> bool:
    """Whether a step was undone."""
    return any(mark.label.startswith(UNDONE) for mark in marks)


def _steps(marks: Sequence[Milestone], stages: Stages) -> Iterator[tuple[int, int, int]]:
    """Frames after which more or fewer milestones hold: how many before, and how many then."""
    held = 0
    for mark in marks:
        name = mark.label.removeprefix(UNDONE)
        k = stages.labels.index(name) if name in stages.labels else -1
        if (k >= held) if name == mark.label else (0 <= k < held):
            yield mark.frame, held, (held := k + (name == mark.label))


def done_frame(length: int, frames: Mapping[str, int], stages: Stages) -> int:
    """The frame from which on an episode that was done has progress 1, from the milestones it ``reached``."""
    return frames.get(stages.labels[-1], length - 1) if stages.end_the_task else length - 1


def stage_indices(length: int, marks: Sequence[Milestone], stages: Stages, finished: bool) -> Int[np.ndarray, " n"]:
    """The stage each frame belongs to, int64; -1 where it is unknown because a milestone was not marked.

    A milestone's own frame ends its stage; where it is undone its stage is tried again. Without ``finished``, the
    frames after the last milestone belong to the stage that was tried then.
    """
    last, frames = len(stages.named()) - 1, reached(marks, stages.labels)
    if falls(marks):
        index = np.zeros(length, np.int64)
        for frame, _, held in _steps(marks, stages):
            index[frame + 1 :] = min(held, last)
        return index
    index = np.full(length, -1, np.int64)
    start, known = 0, 0  # from frame `start` on, milestone `known - 1` has been reached
    for k, label in enumerate(stages.labels):
        if label not in frames:
            continue
        stop = frames[label] + 1
        if k == known:
            index[start:stop] = k
        start, known = stop, k + 1
    if known == len(stages.labels) or not finished:
        index[start:] = min(known, last)
    return index


def end_frame(length: int, meta: EpisodeMeta, stages: Stages | None) -> int:
    """The frame from which on a success has progress 1; without stages of its task that is the last one."""
    if stages is None:
        return length - 1
    return done_frame(length, reached(with_names(meta.milestones), stages.labels), stages)


def durations_s(dataset: Dataset, meta: ProgressMeta, left_out: Collection[int]) -> dict[str, list[float]]:
    """How long the successful episodes of each task took, s: from the first frame until progress is 1.

    Stages are those of the data set's labels; episodes with the indices ``left_out`` do not count.
    """
    stages = {task: Stages.of(of) for task, of in (meta.labels.stages if meta.labels else {}).items()}
    seconds: dict[str, list[float]] = {}
    for episode in dataset.episodes:
        of = meta.episode(episode.index)
        if episode.index not in left_out and not of.unsuccessful:
            end = end_frame(episode.length, of, stages.get(episode.task))
            seconds.setdefault(episode.task, []).append(end / dataset.fps)
    return seconds


def read_csv(path: Path) -> dict[int, list[Milestone | tuple[str, float]]]:
    """Milestones of episodes from a table with the columns ``episode_index``, ``label`` and ``frame`` or ``seconds``.

    They are by episode index; a milestone given in seconds is a pair of label and seconds.

    Raises:
        MilestoneError: unreadable, a column is missing, or a line is wrong; the line is named.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            fields = reader.fieldnames or []
            when = next((name for name in ("frame", "seconds") if name in fields), None)
            if when is None or not {"episode_index", "label"} <= set(fields):
                raise MilestoneError(
                    f"{path}: the first line is {','.join(fields)!r}, expected episode_index,label,frame or "
                    "episode_index,label,seconds"
                )
            found: dict[int, list[Milestone | tuple[str, float]]] = {}
            for row in reader:
                try:
                    found.setdefault(int(row["episode_index"]), []).append(_mark(row, when))
                except (TypeError, ValueError, AttributeError) as error:
                    raise MilestoneError(f"{path}:{reader.line_num}: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MilestoneError(f"{path}: cannot be read: {error}") from error
    return found


def _mark(row: Mapping[str | None, str], when: str) -> Milestone | tuple[str, float]:
    """A line's milestone; a ``TypeError``, ``ValueError`` or ``AttributeError`` if something in it is wrong."""
    if None in row:
        raise ValueError(f"more values than columns: {row[None]}")
    label, value = row["label"].strip(), int(row[when]) if when == "frame" else float(row[when])
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{when} is {row[when]}, expected a number of at least 0")
    return Milestone(label, value) if when == "frame" else (label, value)
