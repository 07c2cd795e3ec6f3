"""Labels of every episode of a data set: which method, what is known of the episodes, and what failures get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from pi05_progress.errors import UserError
from pi05_progress.robots.episode_notes import UNDONE

from ..datasets import layout
from ..datasets.progress_meta import EpisodeMeta, Milestone, Outcome, Stage
from ..datasets.reader import Dataset, Episode
from ..datasets.robot import position_columns
from . import methods, milestones
from .methods import Method
from .milestones import Finish, MilestoneError, Stages

Failures = Literal["unlabelled", "last-milestone"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How labels are made; the command line of ``training.add_progress_labels`` has these fields, too."""

    method: Method = "linear"
    """linear: 0 at the first frame, 1 at the last. milestone: linear within stages, whose boundaries are the mean
    shares of an episode. remaining: 1 - time remaining / longest time remaining of the task. activity: time without
    standstill. learned: when the same happens in the task's other successful episodes, by their joint positions."""
    failures: Failures = "unlabelled"
    """Episodes known to have failed: leave them unlabelled, or let their progress end at the last milestone reached."""
    finish: Finish = "stage"
    """Of milestone. stage: the time after the last milestone is one more stage, and progress is 1 at its end. done: the
    task is done at its last milestone, and progress is 1 from there on."""
    standstill_speed: float = 0.02
    """Of activity: joints slower than this stand still, rad/s."""
    standstill_s: float = 0.5
    """Of activity: shorter standstills count as motion, s."""
    label_cut_off: bool = False
    """Count episodes whose recording was cut off or aborted as if they had been done; otherwise they are labelled as
    failures are."""

    def arguments(self) -> dict[str, str | float | bool]:
        """Those that matter to the method, for the record."""
        kept: dict[str, str | float | bool] = {"failures": self.failures}
        if self.method == "activity":
            kept |= {"standstill_speed": self.standstill_speed, "standstill_s": self.standstill_s}
        if self.method == "milestone":
            kept["finish"] = self.finish
        return kept | ({"label_cut_off": True} if self.label_cut_off else {})


@dataclass(frozen=True)
class EpisodeLabels:
    """Labels of one episode's frames, in the types of their columns."""

    progress: Float32[np.ndarray, " n"]  # in [0, 1]; 0 where unlabelled
    valid: Bool[np.ndarray, " n"]  # whether `progress` is a label
    # until the task is done, which is at the last frame or what `finish` says; -1 where unknown
    seconds_remaining: Float32[np.ndarray, " n"]
    stage: Int64[np.ndarray, " n"] | None = None  # index; -1 where unknown. None where the method has no stages.


@dataclass(frozen=True)
class LabelSet:
    """Labels of a data set."""

    episodes: Mapping[int, EpisodeLabels]  # by index, every episode
    stages: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)  # by task, where the method has them
    outcomes: Mapping[Outcome, int] = field(default_factory=dict)  # how many episodes of each
    cut_off: tuple[int, ...] = ()  # indices of episodes of unknown outcome that were cut off or aborted
    # what somebody should know: episodes that stayed unlabelled and why, marks that were left out
    notes: Sequence[str] = ()


def checked_facts(dataset: Dataset, facts: Mapping[int, EpisodeMeta], source: str) -> dict[int, EpisodeMeta]:
    """What is known of each episode, every one of them.

    Raises:
        UserError: an episode or a milestone's frame that is not in the data set; ``source`` is named.
    """
    complete = {episode.index: EpisodeMeta() for episode in dataset.episodes}
    for index, known in facts.items():
        if index not in complete:
            raise UserError(f"{source}: episode {index} is not among the data set's {len(complete)} episodes")
        length = dataset.episodes[index].length
        for mark in known.milestones:
            if not 0 <= mark.frame < length:
                raise UserError(f"{source}: milestone {mark.label!r} of episode {index} is at frame {mark.frame}, "
                                 f"the episode has the frames 0 to {length - 1}")  # fmt: skip
        complete[index] = known
    return complete


def with_marks(
    dataset: Dataset, facts: Mapping[int, EpisodeMeta], table: Mapping[int, Sequence[Milestone | tuple[str, float]]]
) -> dict[int, EpisodeMeta]:
    """``facts`` with the milestones of a table instead of its own; seconds become the first frame at or after them."""
    indices = {*facts, *table}
    result = {}
    for index in indices:
        marks = [
            m if isinstance(m, Milestone) else Milestone(m[0], int(np.ceil(round(m[1] * dataset.fps, 6))))
            for m in table.get(index, ())
        ]
        result[index] = replace(facts.get(index, EpisodeMeta()), milestones=tuple(marks))
    return result


def label(dataset: Dataset, facts: Mapping[int, EpisodeMeta], options: Options) -> LabelSet:
    """Labels of every episode, of which ``checked_facts`` are known; ``activity`` reads their states, too.

    Raises:
        UserError: nothing would be labelled, an option is out of range, or the method lacks what it needs.
        DatasetError: the data set is damaged.
    """
    for name in ("standstill_speed", "standstill_s"):
        value = getattr(options, name)
        if not (np.isfinite(value) and value >= 0):
            raise UserError(f"--{name} is {value}, expected a number of at least 0")
    if options.finish != "stage" and options.method != "milestone":
        raise UserError(f"--finish {options.finish} goes with --method milestone only, not with {options.method}")
    if options.failures == "last-milestone" and options.method in ("remaining", "learned"):
        what = (
            "the time that a failed episode would still have needed"
            if options.method == "remaining"
            else "how far it came"
        )
        raise UserError(
            f"{what} is not known, so --failures last-milestone does not go with --method {options.method}; leave "
            "failures unlabelled or take another method"
        )
    return _Labelling(dataset, facts, options).run()


class _Labelling:
    """One run: facts of tasks first, then every episode."""

    def __init__(self, dataset: Dataset, facts: Mapping[int, EpisodeMeta], options: Options) -> None:
        self._dataset, self._facts, self._options = dataset, facts, options
        self._notes: list[str] = []
        self._clocks: dict[int, np.ndarray | None] = {}  # of `activity` and `learned`, by episode
        self._frames: dict[int, dict[str, int]] = {}  # of milestones reached, by episode
        self._marks = {e.index: milestones.with_names(facts[e.index].milestones) for e in dataset.episodes}
        self._cut_off = tuple(e.index for e in dataset.episodes if facts[e.index].ended_early)
        self._failed = {index for index, known in facts.items() if known.outcome is Outcome.FAILURE}
        self._failed |= set() if options.label_cut_off else set(self._cut_off)

    def run(self) -> LabelSet:
        by_task: dict[str, list[Episode]] = {}
        for episode in self._dataset.episodes:
            by_task.setdefault(episode.task, []).append(episode)
        if self._options.method in ("activity", "learned"):
            self._clocks = self._activity() if self._options.method == "activity" else self._learned(by_task.values())
        labels: dict[int, EpisodeLabels] = {}
        named: dict[str, tuple[Stage, ...]] = {}
        for task, episodes in by_task.items():
            done = [e for e in episodes if e.index not in self._failed]
            if not done:
                cut_off = " or were cut off" if {e.index for e in episodes} & set(self._cut_off) else ""
                self._notes.append(f"task {task!r}: all {len(episodes)} episodes failed{cut_off}; they stay unlabelled")
                labels |= {e.index: self._unlabelled(e) for e in episodes}
                continue
            stages = self._stages(task, done)
            if stages is not None and self._options.method == "milestone":
                named[task] = stages.named()
            elif self._options.method == "learned":
                named[task] = tuple(Stage(f"part {k + 1}", 1 / methods.PARTS) for k in range(methods.PARTS))
            longest = max(e.length for e in done)
            progress = {e.index: self._progress(e, longest, stages) for e in done}
            labels |= {e.index: self._labelled(e, progress[e.index], stages) for e in done}
            targets = self._targets(stages, progress)
            labels |= {e.index: self._failure(e, stages, targets) for e in episodes if e.index in self._failed}
        if not any(of.valid.any() for of in labels.values()):
            raise UserError("; ".join(["no episode would be labelled", *self._notes]))
        outcomes = Counter(self._facts[e.index].outcome for e in self._dataset.episodes)
        return LabelSet(dict(sorted(labels.items())), named, outcomes, self._cut_off, tuple(self._notes))

    def _positions(self) -> Iterator[tuple[int, Float[np.ndarray, "n p"]]]:
        """Every episode's index and positions."""
        wanted = position_columns(self._dataset, layout.STATE)
        for episode, columns in self._dataset.frames([layout.STATE]):
            positions = np.atleast_2d(columns[layout.STATE].T).T[:, wanted]
            if not np.isfinite(positions).all():
                raise UserError(f"episode {episode.index}: {layout.STATE} holds numbers that are not finite")
            yield episode.index, positions

    def _activity(self) -> dict[int, Float[np.ndarray, " n"] | None]:
        clocks, fps = {}, self._dataset.fps
        for index, positions in self._positions():
            threshold, seconds = self._options.standstill_speed, self._options.standstill_s
            moving = methods.moving(methods.speeds(positions, fps), fps, threshold, seconds)
            clocks[index] = methods.activity(moving)
        return clocks

    def _learned(self, tasks: Iterable[Sequence[Episode]]) -> dict[int, Float[np.ndarray, " n"] | None]:
        clocks, positions = {}, dict(self._positions())
        for episodes in tasks:
            done = [e.index for e in episodes if e.index not in self._failed]
            if len(done) == 1:
                self._notes.append(f"episode {done[0]}: is the only one of its task, nothing to align it with")
            elif done:
                clocks |= zip(done, methods.learned([positions[index] for index in done]), strict=True)
        return clocks

    def _stages(self, task: str, done: list[Episode]) -> Stages | None:
        """The task's stages, where method or failures need them."""
        if self._options.method != "milestone" and self._options.failures != "last-milestone":
            return None
        try:
            own = {e.index: (e.length, self._marks[e.index]) for e in done}
            stages = milestones.task_stages(own, self._options.finish)
        except MilestoneError as error:
            if self._options.method != "milestone":
                self._notes.append(f"task {task!r}: {error}; its failures stay unlabelled")
                return None
            raise UserError(
                f"task {task!r}: {error}; record milestones, give them with --milestones FILE.csv, or take another "
                "method"
            ) from error
        for episode in self._dataset.episodes:
            if episode.task == task:
                self._frames[episode.index] = milestones.reached(self._marks[episode.index], stages.labels)
                self._note_marks(episode, stages)
        return stages

    def _note_marks(self, episode: Episode, stages: Stages) -> None:
        frames = self._frames[episode.index]
        named = {m.label.removeprefix(UNDONE) for m in self._marks[episode.index]}
        if other := sorted(named - set(stages.labels)):
            self._notes.append(f"episode {episode.index}: milestones that its task does not have: {', '.join(other)}")
        missing = [name for name in stages.labels if name not in frames]
        if missing and frames and episode.index not in self._failed and self._options.method == "milestone":
            self._notes.append(f"episode {episode.index}: no mark of {', '.join(missing)}; linear across")

    def _progress(self, episode: Episode, longest: int, stages: Stages | None) -> Float[np.ndarray, " n"] | None:
        """Of an episode that was done; None if the method cannot tell."""
        n = episode.length
        match self._options.method:
            case "linear":
                return methods.linear(n)
            case "remaining":
                return methods.remaining(n, longest)
            case "activity":
                if self._clocks[episode.index] is None:
                    self._notes.append(f"episode {episode.index}: nothing moves in it; it stays unlabelled")
                return self._clocks[episode.index]
            case "learned":
                return self._clocks.get(episode.index)
            case "milestone":
                if self._frames[episode.index]:
                    return milestones.course(n, self._marks[episode.index], stages, finished=True)
                self._notes.append(f"episode {episode.index}: no milestones; it stays unlabelled")
                return None

    def _targets(self, stages: Stages | None, progress: Mapping[int, np.ndarray | None]) -> dict[str, float]:
        """Mean progress at each milestone in the episodes that were done."""
        if stages is None or self._options.failures != "last-milestone":
            return {}
        if self._options.method == "milestone":
            return dict(zip(stages.labels, stages.boundaries.tolist(), strict=True))
        seen: dict[str, list[float]] = {}
        for index, values in progress.items():
            for name, frame in self._frames[index].items():
                if values is not None:
                    seen.setdefault(name, []).append(float(values[frame]))
        means = {name: float(np.mean(values)) for name, values in seen.items()}
        return {name: means[name] for name in stages.labels if name in means}

    def _failure(self, episode: Episode, stages: Stages | None, targets: Mapping[str, float]) -> EpisodeLabels:
        if stages is None or self._options.failures == "unlabelled":
            return self._unlabelled(episode)
        n, frames = episode.length, self._frames[episode.index]
        last = next((name for name in reversed(stages.labels) if name in frames and name in targets), None)
        if last is None:
            self._notes.append(f"episode {episode.index}: failed before its first milestone; it stays unlabelled")
            return self._unlabelled(episode)
        if self._options.method == "milestone":
            progress = milestones.course(n, self._marks[episode.index], stages, finished=False)
        else:
            clock = self._clocks.get(episode.index) if self._options.method == "activity" else methods.linear(n)
            until = np.zeros(n) if clock is None else np.minimum(clock, clock[frames[last]])
            # a milestone that was reached before anything moved, or in the first frame, holds from there on
            scaled = until / until[frames[last]] if until[frames[last]] > 0 else np.arange(n) >= frames[last]
            progress = targets[last] * scaled
        return self._labelled(episode, progress, stages, finished=False)

    def _labelled(
        self, episode: Episode, progress: np.ndarray | None, stages: Stages | None, finished: bool = True
    ) -> EpisodeLabels:
        if progress is None:
            return self._unlabelled(episode)
        n = episode.length
        end, stage = n - 1, None
        if self._options.method == "milestone" and stages is not None:
            frames = self._frames[episode.index]
            stage = milestones.stage_indices(n, self._marks[episode.index], stages, finished)
            end = milestones.done_frame(n, frames, stages)
        elif self._options.method == "learned":
            stage = np.minimum((progress * methods.PARTS).astype(np.int64), methods.PARTS - 1)
        left = np.maximum(end - np.arange(n), 0) / self._dataset.fps if finished else np.full(n, -1.0)
        return EpisodeLabels(progress.astype(np.float32), np.ones(n, bool), left.astype(np.float32), stage)

    def _unlabelled(self, episode: Episode) -> EpisodeLabels:
        n = episode.length
        stage = np.full(n, -1, np.int64) if self._options.method in ("milestone", "learned") else None
        return EpisodeLabels(np.zeros(n, np.float32), np.zeros(n, bool), np.full(n, -1.0, np.float32), stage)
