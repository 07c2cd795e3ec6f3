"""Goals of ``RunTask`` in recordings: what was said of each, and how it really ended."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from pi05_progress.robots.episode_notes import GOAL, JUDGED

from ..bags.episodes import START, STOP, outcome_of
from ..bags.finding import find_bags
from ..bags.inputs import POSES
from ..bags.message_types import EVENT_TYPE
from ..bags.reading import Bag
from ..datasets.progress_meta import Outcome
from .bootstrap import Figure, paired, share

TRUTH = "/sim/events"
DECLARED = ("SUCCEEDED", "ALREADY_DONE")  # reasons by which a goal says of itself that it is done
GRID_M = 0.005  # objects that are at the same points of it lie alike
VALUES = {Outcome.SUCCESS: 1.0, Outcome.FAILURE: 0.0, Outcome.UNKNOWN: np.nan}


@dataclass(frozen=True)
class Rollout:
    """One goal that moved the robot."""

    recording: str
    task: str
    checkpoint: str  # as it names itself
    reason: str  # why it ended
    outcome: Outcome  # as the operator judged it, or the simulation decided; else as it was declared
    judged: bool  # whether it is not only declared
    seconds: float
    interventions: int
    start: str  # starts of a task that are called alike are the same


@dataclass(frozen=True)
class Row:
    """What one checkpoint's rollouts come to."""

    checkpoint: str
    success: Figure
    judged: int
    interventions_per_hour: float
    seconds_to_success: float | None
    false_succeeded: int  # judged ones that were declared done, and were not
    missed: int  # judged ones that were done, and not declared so
    better: Figure  # share of success minus that of the first checkpoint, over pairs of the same start


def read_rollouts(folders: Sequence[Path]) -> list[Rollout]:
    """All goals that have ended in all recordings of these folders.

    Raises:
        BagError: a folder has no recording, or one cannot be read.
    """
    found = []
    for path in find_bags(folders):
        with tempfile.TemporaryDirectory() as scratch, Bag(path, Path(scratch)) as bag:
            found += _of_bag(bag)
    return found


def _of_bag(bag: Bag) -> list[Rollout]:
    begun: dict[str, tuple[int, str]] = {}
    ended: dict[str, Rollout] = {}
    decided: dict[str, Outcome] = {}
    where, latest = bag.path.name, ""
    topics = [name for name, topic in bag.topics.items() if topic.type == EVENT_TYPE or name == POSES]
    for stored in bag.messages(topics):
        message = bag.deserialize(stored)
        if stored.topic == POSES:
            at = np.array([(pose.position.x, pose.position.y, pose.position.z) for pose in message.poses])
            where = str(np.round(at / GRID_M).astype(int).tolist())
        elif stored.topic == TRUTH:
            if message.event == STOP and message.outcome and latest:
                decided.setdefault(latest, outcome_of(message))
        elif message.event == START:
            latest = message.episode_id
            begun[latest] = stored.received_ns, where
        elif message.label.startswith(JUDGED):
            decided[message.episode_id] = outcome_of(message)
        elif (told := GOAL.fullmatch(message.label)) and message.episode_id in begun:
            start_ns, start = begun[message.episode_id]
            ended[message.episode_id] = Rollout(
                str(bag.path), message.task, told["model"], told["reason"], outcome_of(message), False,
                (stored.received_ns - start_ns) * 1e-9, int(told["interventions"]), start,
            )  # fmt: skip
    return [replace(of, outcome=decided.get(goal, of.outcome), judged=goal in decided) for goal, of in ended.items()]


def compare(rollouts: Sequence[Rollout]) -> list[Row]:
    """A row for each checkpoint, in the order of their names; all are compared with the first."""
    ordered = sorted(rollouts, key=lambda of: of.checkpoint)
    parts = [list(of) for _, of in groupby(ordered, lambda of: of.checkpoint)]
    return [_row(of, parts[0]) for of in parts]


def _row(rollouts: list[Rollout], first: list[Rollout]) -> Row:
    done = [of.seconds for of in rollouts if of.outcome is Outcome.SUCCESS]
    judged = [of for of in rollouts if of.judged]
    ours, theirs = _by_start(rollouts), _by_start(first) if rollouts is not first else {}
    return Row(
        rollouts[0].checkpoint,
        share(np.array([VALUES[of.outcome] for of in rollouts])),
        len(judged),
        3600 * sum(of.interventions for of in rollouts) / max(sum(of.seconds for of in rollouts), 1e-9),
        float(np.mean(done)) if done else None,
        sum(of.reason in DECLARED and of.outcome is Outcome.FAILURE for of in judged),
        sum(of.reason not in DECLARED and of.outcome is Outcome.SUCCESS for of in judged),
        paired(np.array([ours[start] - theirs[start] for start in sorted(ours.keys() & theirs.keys())])),
    )


def _by_start(rollouts: list[Rollout]) -> dict[tuple[str, str], float]:
    """Mean success by task and start."""
    values: dict[tuple[str, str], list[float]] = {}
    for of in rollouts:
        if of.outcome is not Outcome.UNKNOWN:
            values.setdefault((of.task, of.start), []).append(VALUES[of.outcome])
    return {start: float(np.mean(of)) for start, of in values.items()}
