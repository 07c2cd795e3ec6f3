"""How long episodes took until their task was done, and where a checkpoint tells the stages of its labels."""

from __future__ import annotations

from collections.abc import Collection

from ..datasets.progress_meta import EpisodeMeta, ProgressMeta
from ..datasets.reader import Dataset
from . import milestones
from .milestones import Stages

STAGES = "stages"  # where a checkpoint's `labels` keep the stages of each task: lists of {"name": ..., "share": ...}


def end_frame(length: int, meta: EpisodeMeta, stages: Stages | None) -> int:
    """The frame from which on a success has progress 1; without stages of its task that is the last one."""
    if stages is None:
        return length - 1
    return milestones.done_frame(
        length, milestones.reached(milestones.with_names(meta.milestones), stages.labels), stages
    )


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
