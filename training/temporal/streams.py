"""What a frozen policy says over whole episodes, with what is true of them: computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.policy import Policy
from pi05_progress.robots.profile import RobotProfile

from ..datasets import layout
from ..datasets.instructions import Instructions
from ..datasets.progress_meta import Stage, load_progress_meta
from ..datasets.reader import open_dataset
from ..datasets.robot import check_robot
from ..evaluation.cache import AnswerCache
from ..evaluation.playbacks import PLAIN, REFUSED, plain, said_otherwise
from ..evaluation.predictions import Answers, ask, robot_frames
from ..loading.split import CONTENTS, SetSplit, episode_name, held_out, seen_before

FRACTION = 0.2  # of episodes for calibration, where it is not known which the policy's run held out
REWORDED_EVERY = 3  # of episodes: each costs two more answers per frame


@dataclass(frozen=True)
class Stream:
    """One episode under one instruction; arrays have a row per frame."""

    task: str
    fps: float
    success: bool
    validation: bool  # whether it is for calibration, not for training
    answers: Answers  # with features, bins and chunks
    progress: np.ndarray  # in [0, 1], 1 from where it is done on; NaN where unknown
    stage: np.ndarray  # index; -1 where unknown
    remaining_s: np.ndarray  # until the task is done; NaN where unknown
    refused: bool = False  # the instruction asks for something else

    def under(self, answers: Answers, refused: bool) -> Stream:
        """The same under another instruction; how far that is done nobody knows where something else is asked for."""
        if not refused:
            return replace(self, answers=answers)
        unknown = np.full_like(self.progress, np.nan)
        return replace(
            self, answers=answers, success=False, progress=unknown, stage=np.full_like(self.stage, -1),
            remaining_s=unknown, refused=True,
        )  # fmt: skip


def read_streams(
    policy: Policy, profile: RobotProfile, root: Path, splits: Sequence[SetSplit], cache: AnswerCache,
    instructions: Instructions | None = None, advance: Callable[[int], None] = lambda episodes: None,
) -> tuple[list[Stream], Mapping[str, Sequence[Stage]]]:  # fmt: skip
    """Streams of a labelled data set's episodes, and its stages; what the policy's run held out is for calibration.

    With instructions, each third episode that is trained on comes under another wording and under a refused one, too.

    Raises:
        UserError: it has no progress labels, or the policy no categorical head.
        DatasetError, PictureError: it is of another robot, or damaged.
    """
    dataset, meta = open_dataset(root), load_progress_meta(root)
    labels = meta.labels
    check_robot(dataset, profile, [layout.STATE], profile.cameras)
    if labels is None:
        remedy = "python -m training.add_progress_labels --method milestone"
        raise UserError(f"{root}: has no progress labels; make them with {remedy}")
    names = {episode.index: episode_name(of) for episode, of in dataset.frames(CONTENTS)}
    names = [names[index] for index in sorted(names)]
    validation, trained = seen_before(splits, root, names)
    validation = validation or set(held_out(names, FRACTION, 0, trained=trained))
    streams = []
    for episode, of in dataset.frames([layout.STATE, *labels.columns.values()]):
        shown = [original := plain(episode.length, dataset.fps, 1, episode.task)]
        if instructions and episode.index not in validation and episode.index % REWORDED_EVERY == 0:
            shown += said_otherwise(original, instructions, False, seed=episode.index)
        answers = cache.load(episode.index, shown)
        if answers is None:
            answers = ask(policy, partial(robot_frames, episode, of[layout.STATE], profile, dataset.fps), shown)
            cache.save(episode.index, shown, answers)
        said, unknown = answers[PLAIN], np.full(episode.length, -1.0)
        if said.features is None or said.bins is None:
            raise UserError("the policy gives no features or bins: a temporal head needs a categorical progress head")
        known = {key: of[column].reshape(-1) for key, column in labels.columns.items()}
        left = known.get("seconds_remaining", unknown)
        streams.append(of_plain := Stream(
            episode.task, dataset.fps, not meta.episode(episode.index).unsuccessful, episode.index in validation, said,
            np.where(known["valid"], known["progress"], np.nan), known.get("stage", unknown).astype(int),
            np.where(left >= 0, left, np.nan),
        ))  # fmt: skip
        streams += [of_plain.under(answers[of.name], of.name == REFUSED) for of in shown[1:]]
        advance(1)
    return streams, labels.stages
