"""A policy's answers to playbacks of an episode, and what the estimator makes of them: raw and filtered progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import batched

import numpy as np
from jaxtyping import Float32

from pi05_progress.errors import UserError
from pi05_progress.estimate.estimator import EstimatorConfig, ProgressEstimator
from pi05_progress.estimate.status import Status
from pi05_progress.estimate.temporal import STEP
from pi05_progress.make_policy import make_policy
from pi05_progress.observation import ObservationError, PolicyOutput, RobotFrame
from pi05_progress.policy import Policy, PolicyOptions
from pi05_progress.robots.layout import LayoutError
from pi05_progress.robots.profile import RobotProfile

from ..datasets import layout
from ..datasets.frames import FrameReader
from ..datasets.reader import Episode
from .playbacks import Playback, View

LEVELS = (0.5, 0.8, 0.9)  # of the intervals whose coverage is looked at
Frames = Callable[[Sequence[int]], Iterator[RobotFrame]]  # of these frames, given in rising order


@dataclass(frozen=True)
class Answers:
    """What the policy said to the views of one playback."""

    progress: np.ndarray  # its raw belief, float64 (n,) in [0, 1]
    bins: np.ndarray | None  # probabilities over equal bins of [0, 1], (n, b), or None if the head has none
    ms: np.ndarray  # what an answer took, float64 (n,)
    # what a temporal head reads beside, float32 (n, f), and chunks (n, rows, columns); None if the policy gives none
    features: np.ndarray | None = None
    actions: np.ndarray | None = None

    def output(self, index: int) -> PolicyOutput:
        """One of them, as the policy gave it."""
        bins, features, actions = (None if of is None else of[index] for of in (self.bins, self.features, self.actions))
        actions = np.zeros((0, 0), np.float32) if actions is None else actions
        progress = float(self.progress[index])
        return PolicyOutput(actions, progress, progress_belief=bins, progress_features=features)


@dataclass(frozen=True)
class Track:
    """Progress over one playback, as the node would have had it: every value is made from the past only."""

    time_s: np.ndarray  # of each view, float64 (n,)
    frames: np.ndarray  # of each view, int (n,)
    raw: np.ndarray  # the model's belief, float64 (n,) in [0, 1]
    filtered: np.ndarray  # the estimator's progress, float64 (n,)
    bins: np.ndarray | None  # probabilities over equal bins of [0, 1], (n, b), or None if the head has none
    intervals: Mapping[float, np.ndarray]  # the estimator's around `filtered`, by confidence level, float64 (n, 2)
    remaining_s: np.ndarray  # until the task is done, with its interval, float64 (n, 3); NaN where it was not told
    status: np.ndarray  # int (n,), members of `Status`
    ms: np.ndarray  # what an answer took, float64 (n,)
    alarm: np.ndarray  # what speaks for a failure, float64 (n,): the estimator's, else s since progress rose last
    done: np.ndarray  # the estimator's probability that the task is complete, float64 (n,)

    def values(self, kind: str) -> np.ndarray:
        """``raw`` or ``filtered``."""
        return self.raw if kind == "raw" else self.filtered

    def declared_s(self) -> float:
        """When the status became SUCCEEDED for the first time; NaN if never."""
        found = np.flatnonzero(self.status == Status.SUCCEEDED)
        return float(self.time_s[found[0]]) if len(found) else np.nan


def ready_policy(profile: RobotProfile, options: PolicyOptions) -> Policy:
    """The policy that options ask for, with everything compiled; a ``UserError`` says what of them does not fit."""
    try:
        policy = make_policy(profile, options)
    except ValueError as error:  # whatever is unknown or does not fit
        raise UserError(f"{options.checkpoint or options.policy}: {error}") from error
    policy.warm_up()
    return policy


def robot_frames(
    episode: Episode, states: Float32[np.ndarray, "n d"], profile: RobotProfile, fps: float, frames: Sequence[int]
) -> Iterator[RobotFrame]:
    """What the robot sensed in these frames, from 0 and in rising order, with the states of all frames.

    The pictures of a data set are already cropped and turned, as those of ``robots/messages.py`` are.
    """
    with FrameReader(fps) as videos:
        for frame in frames:
            images = {key: videos.read(episode.videos[layout.IMAGES + key], frame) for key in profile.cameras}
            stamps = dict.fromkeys(images, round(frame / fps * 1e9))
            yield RobotFrame(images, np.asarray(states[frame], np.float32), stamps)


def ask(policy: Policy, frames: Frames, playbacks: Sequence[Playback]) -> dict[str, Answers]:
    """The policy's answers to every playback, by name.

    Playback by playback and in order, each frame without those after it and with the stamp of when it is shown. A Pi0.5
    has no memory and reads no stamps: what it believes depends on nothing but what it sees, so that a view that comes
    in several playbacks is shown to it once.

    Raises:
        UserError: the policy has no progress head, its progress is no number in [0, 1], or it cannot take a frame
            or an instruction.
    """
    if not policy.remembers:
        views = sorted({v for p in playbacks for v in p.views}, key=lambda v: v.frame)
        times = [0.0] * len(views)  # of no meaning
        known = dict(zip(views, _infer(policy, _forward(frames, views), views, times), strict=True))
        return {p.name: _answers([known[view] for view in p.views]) for p in playbacks}
    numbers = sorted({view.frame for p in playbacks for view in p.views})
    held = dict(zip(numbers, frames(numbers), strict=True))
    return {p.name: _answers(list(_infer(policy, held.__getitem__, p.views, p.time_s))) for p in playbacks}


def _forward(frames: Frames, views: Sequence[View]) -> Callable[[int], RobotFrame]:
    """Gives the frames of views in rising order, and holds one at a time."""
    numbers = list(dict.fromkeys(view.frame for view in views))
    coming = zip(numbers, frames(numbers), strict=True)
    number, frame = next(coming)

    def get(wanted: int) -> RobotFrame:
        nonlocal number, frame
        while number != wanted:
            number, frame = next(coming)
        return frame

    return get


def _infer(
    policy: Policy, get: Callable[[int], RobotFrame], views: Sequence[View], times_s: Sequence[float]
) -> Iterator[tuple[PolicyOutput, float]]:
    """Each answer and what it took, ms; a policy that remembers nothing answers as many at once as it can."""
    for some in batched(zip(views, times_s, strict=True), 1 if policy.remembers else policy.batch_sizes[-1]):
        frames = [view.of(get(view.frame)) for view, _ in some]
        stamps = [dict.fromkeys(f.stamps_ns, round(time_s * 1e9)) for f, (_, time_s) in zip(frames, some, strict=True)]
        frames = [replace(frame, stamps_ns=of) for frame, of in zip(frames, stamps, strict=True)]
        before = time.perf_counter()
        try:
            if len(some) == 1:
                outputs = [policy.infer(frames[0], some[0][0].prompt)]
            else:
                shown = zip(frames, some, strict=True)
                outputs = policy.infer_prepared([policy.prepare(frame, view.prompt) for frame, (view, _) in shown])
        except (ObservationError, LayoutError) as error:
            raise UserError(f"frame {some[0][0].frame}, instruction {some[0][0].prompt!r}: {error}") from error
        ms = 1e3 * (time.perf_counter() - before) / len(some)
        for output, (view, _) in zip(outputs, some, strict=True):
            if output.progress is None:
                raise UserError("the policy gives no progress: its model has no progress head, nothing to evaluate")
            if problem := output.progress_problem():
                raise UserError(f"frame {view.frame}: the policy's {problem} ({output.progress})")
            yield output, ms


def _answers(said: Sequence[tuple[PolicyOutput, float]]) -> Answers:
    outputs, first = [output for output, _ in said], said[0][0]
    known = None if first.progress_belief is None else np.array([o.progress_belief for o in outputs], np.float32)
    progress, ms = np.array([o.progress for o in outputs], float), np.array([ms for _, ms in said], float)
    if first.progress_features is None:
        return Answers(progress, known, ms)
    features = np.array([o.progress_features for o in outputs], np.float32)
    return Answers(progress, known, ms, features, np.array([o.actions for o in outputs], np.float32))


def track(
    playback: Playback,
    answers: Answers,
    config: EstimatorConfig,
    levels: Sequence[float] = (),
    durations_s: Mapping[str, float] | None = None,
    temporal_head: bytes = b"",
) -> Track:
    """What the estimator makes of the answers, fed one after the other as in the node.

    Args:
        levels: of the intervals that are wanted beside the configured one.
        durations_s: what tasks usually take, s, by instruction.
        temporal_head: the policy's; empty takes none.
    """
    runs = {}
    for level in dict.fromkeys((*levels, config.confidence_level)):
        estimator = ProgressEstimator(replace(config, confidence_level=level), durations_s or {}, temporal_head)
        runs[level] = [
            estimator.update(float(moment), answers.output(i), playback.views[i].prompt)
            for i, moment in enumerate(playback.time_s)
        ]
    estimates = runs[config.confidence_level]
    filtered = np.array([e.progress for e in estimates], float)
    alarm = np.array([e.alarm for e in estimates], float)
    done = np.array([e.success_probability for e in estimates], float)
    return Track(
        time_s=playback.time_s,
        frames=playback.frames,
        raw=answers.progress,
        filtered=filtered,
        bins=answers.bins,
        intervals={level: np.array([[e.lower, e.upper] for e in run], float) for level, run in runs.items()},
        remaining_s=np.array([e.remaining_s or (np.nan,) * 3 for e in estimates], float),
        status=np.array([int(e.status) for e in estimates]),
        ms=answers.ms,
        alarm=alarm if temporal_head else _since_rise_s(playback.time_s, filtered),
        done=done,
    )


def _since_rise_s(time_s: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Since when values are not above what they were before by a step, s."""
    since, anchor, moved_s = np.zeros(len(values)), -np.inf, 0.0
    for i, (now_s, value) in enumerate(zip(time_s, values, strict=True)):
        if value >= anchor + STEP:
            anchor, moved_s = value, now_s
        since[i] = now_s - moved_s
    return since
