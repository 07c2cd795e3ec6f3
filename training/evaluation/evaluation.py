"""From a data set and a policy to predictions and figures of every episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from pi05_progress.estimate.estimator import EstimatorConfig
from pi05_progress.observation import IMAGE_KEYS
from pi05_progress.policy import Policy
from pi05_progress.robots.laboratory_shifts import recorded_shift
from pi05_progress.robots.profile import RobotProfile

from ..datasets import layout
from ..datasets.instructions import Instructions
from ..datasets.progress_meta import EpisodeMeta, ProgressMeta
from ..datasets.reader import Dataset, Episode
from ..datasets.robot import check_robot
from . import metrics, playbacks
from .bootstrap import Figure
from .cache import AnswerCache
from .episode_figures import boundary_errors, episode_figures, with_memory
from .playbacks import PERTURBATIONS, PLAIN, WRONG, Playback, wrong_instruction
from .predictions import LEVELS, Answers, Track, ask, robot_frames, track
from .summary import summarise
from .truth import Training, Truth, episode_truth, standstills, task_stages


@dataclass(frozen=True)
class Settings:
    """How it is done."""

    rate_hz: float = 5.0  # inferences per second of an episode
    perturbations: tuple[str, ...] = PERTURBATIONS  # which are made
    black: str = ""  # the camera that is covered in one of them; empty takes the head's
    wrong: str = ""  # the instruction for something else in one of them; empty takes another task's
    resamples: int = 2000  # of the bootstrap
    seed: int = 0  # of the bootstrap
    shift: str = "none"  # a named change of the laboratory that all pictures are shown with
    instructions: str = ""  # file of other wordings and refused instructions, with which successes are shown, too
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)  # turns beliefs into progress and status

    def stride(self, fps: float) -> int:
        """Frames from one inference to the next."""
        return max(1, round(fps / self.rate_hz))


@dataclass(frozen=True)
class EpisodeResult:
    """One episode: predictions over every playback, truth, and figures by name."""

    episode: Episode
    meta: EpisodeMeta
    truth: Truth
    tracks: Mapping[str, Track]
    figures: Mapping[str, float]

    @property
    def error(self) -> float:
        """What episodes are ordered by: mean error of a success, progress beyond its last milestone of a failure."""
        if self.truth.success:
            by_milestones = self.figures["mae_milestone.filtered"]
            return by_milestones if np.isfinite(by_milestones) else self.figures["mae_linear.filtered"]
        reached = 0.0 if self.truth.milestone is None else float(self.truth.milestone.max())
        return max(0.0, self.figures["failure_high.filtered"] - reached)


@dataclass(frozen=True)
class Evaluation:
    """All of it."""

    episodes: tuple[EpisodeResult, ...]  # in the order of their index
    total: Mapping[str, Figure]  # figures over all of them, by name
    by_task: Mapping[str, Mapping[str, Figure]]  # the same by task
    # by task and milestone: mean signed error of raw and filtered progress, and how many episodes
    milestones: Mapping[str, Mapping[str, Mapping[str, float]]]
    stages_from: Mapping[str, str]  # by task where its stages are from
    wrong: Mapping[str, str]  # by task the wrong instruction its episodes were shown with; empty if they were not
    # by source the probabilities that a task is complete, in tenths: the mean that was said, the share that was so
    reliability: Mapping[str, tuple[np.ndarray, np.ndarray]]
    notes: Sequence[str]  # what somebody should know


def evaluate(
    policy: Policy,
    profile: RobotProfile,
    dataset: Dataset,
    meta: ProgressMeta,
    training: Training,
    wanted: Sequence[int],
    settings: Settings,
    *,
    cache: AnswerCache | None = None,
    advance: Callable[[int], None] = lambda episodes: None,
) -> Evaluation:
    """Predict and judge episodes.

    Args:
        training: durations and stages of the data the policy was trained on.
        wanted: indices of the episodes, at least one.
        advance: called with 1 after every episode.

    Raises:
        UserError: the policy gives no progress, the wrong instruction is a right one, or the file of instructions
            lacks a task.
        DatasetError, PictureError: the data set is of another robot, or damaged.
    """
    check_robot(dataset, profile, [layout.STATE], profile.cameras)
    cache = cache or AnswerCache(None)
    shift = recorded_shift(settings.shift)
    instructions = Instructions.load(Path(settings.instructions)) if settings.instructions else None
    stages, stages_from = task_stages(dataset, meta, training.stages)
    known = {episode.task for episode in dataset.episodes}
    tasks = list(dict.fromkeys(e.task for e in dataset.episodes if e.index in set(wanted)))
    wrong = {task: wrong_instruction(task, {*known, *training.tasks}, settings.wrong) for task in tasks}
    results, said, complete = [], {}, []
    for episode, columns in dataset.frames([layout.STATE], set(wanted)):
        perturbed = episode.length > 1 and not meta.episode(episode.index).unsuccessful
        shown = playbacks.all_playbacks(
            episode.length,
            dataset.fps,
            settings.stride(dataset.fps),
            episode.task,
            wrong_prompt=wrong[episode.task],
            black=settings.black or head_camera(profile),
            seed=episode.index,
            names=settings.perturbations if perturbed else (),
        )
        if instructions and perturbed:
            shown += playbacks.said_otherwise(shown[0], instructions, judging=True, seed=episode.index)
        answers = cache.load(episode.index, shown)
        if answers is None:
            recorded = partial(robot_frames, episode, columns[layout.STATE], profile, dataset.fps)
            answers = ask(policy, lambda n, of=recorded: (shift.of(frame, profile) for frame in of(n)), shown)
            cache.save(episode.index, shown, answers)
        tracks = _tracks(shown, answers, settings, training.durations_s)
        truth = episode_truth(episode.length, meta.episode(episode.index), stages[episode.task])
        still = standstills(columns[layout.STATE], profile.layout, dataset.fps, truth.done_frame)
        figures = episode_figures(tracks, truth, dataset.fps, training.durations_s.get(episode.task), still)
        complete.append(truth.complete(tracks[PLAIN].frames))
        said.setdefault("filtered", []).append(tracks[PLAIN].done)
        if policy.temporal_head:
            median_s = training.durations_s.get(episode.task)
            remembered = _tracks(shown, answers, settings, training.durations_s, policy.temporal_head)
            figures |= with_memory(episode_figures(remembered, truth, dataset.fps, median_s, still))
            said.setdefault("temporal", []).append(remembered[PLAIN].done)
        results.append(EpisodeResult(episode, meta.episode(episode.index), truth, tracks, figures))
        advance(1)
    results.sort(key=lambda result: result.episode.index)
    options = {"resamples": settings.resamples, "seed": settings.seed}
    by_task = {}
    for task in tasks:
        own = [r.figures for r in results if r.episode.task == task]
        by_task[task] = summarise(own, [task] * len(own), **options)
    total = summarise([r.figures for r in results], [r.episode.task for r in results], **options)
    milestones = {task: _at_milestones([r for r in results if r.episode.task == task], dataset.fps) for task in tasks}
    notes = _notes(results, training, stages_from, settings.stride(dataset.fps), dataset.fps)
    used = {task: wrong[task] for task in dict.fromkeys(r.episode.task for r in results if WRONG in r.tracks)}
    curves = {of: metrics.reliability(np.concatenate(done), np.concatenate(complete)) for of, done in said.items()}
    return Evaluation(tuple(results), total, by_task, milestones, stages_from, used, curves, notes)


def _tracks(
    shown: Sequence[Playback],
    answers: Mapping[str, Answers],
    settings: Settings,
    durations_s: Mapping[str, float],
    temporal_head: bytes = b"",
) -> dict[str, Track]:
    """What the estimator makes of the answers to each playback, by name."""
    levels = {p.name: LEVELS if p.name == PLAIN else () for p in shown}
    rest = durations_s, temporal_head
    return {p.name: track(p, answers[p.name], settings.estimator, levels[p.name], *rest) for p in shown}


def head_camera(profile: RobotProfile) -> str:
    """The camera that sees most of the task: the first in the model's order."""
    return min(profile.cameras, key=lambda key: IMAGE_KEYS.index(profile.cameras[key].model_input))


def _at_milestones(results: Sequence[EpisodeResult], fps: float) -> dict[str, dict[str, float]]:
    errors: dict[str, list[tuple[float, float]]] = {}
    for result in (r for r in results if r.truth.success):
        shown = result.tracks[PLAIN]
        raw, filtered = (boundary_errors(shown, shown.values(kind), result.truth, fps) for kind in ("raw", "filtered"))
        for name, error in raw.items():
            errors.setdefault(name, []).append((error, filtered[name]))
    return {
        name: {"raw": float(np.mean(of, axis=0)[0]), "filtered": float(np.mean(of, axis=0)[1]), "episodes": len(of)}
        for name, of in errors.items()
    }


def _notes(
    results: Sequence[EpisodeResult], training: Training, stages_from: Mapping[str, str], stride: int, fps: float
) -> list[str]:
    notes = [f"every {stride}. frame was used: {fps / stride:.3g} inferences per second of an episode"]
    seen = dict.fromkeys(r.episode.task for r in results)
    for task in seen:
        if task not in training.durations_s:
            notes.append(f"training had no episodes of task {task!r}: it has no figures of the clock, and no skill")
        if stages_from[task] == "none":
            notes.append(f"task {task!r} has no milestones: truth is linear, done is the last frame")
    if not any(r.truth.success for r in results):
        notes.append("none of the episodes is a success: only figures of failures are there")
    if all(r.truth.success for r in results):
        notes.append("none of the episodes is a failure: nothing is known of ranking and of false alarms")
    if any(r.tracks[PLAIN].bins is None for r in results):
        notes.append("the head has no bins: no CRPS and no intervals of the model's own")
    if len(results) == 1:
        notes.append("a single episode: nothing is known of how figures vary, so there are no intervals")
    return notes
