"""A policy's answers to playbacks of an episode, and what the estimator makes of them: raw and filtered progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from pi05_progress.errors import UserError
from pi05_progress.estimate.estimator import EstimatorConfig, ProgressEstimator
from pi05_progress.estimate.status import Status
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
) -> Iterator[tuple[float, np.ndarray | None, float]]:
    for view, time_s in zip(views, times_s, strict=True):
        shown = view.of(get(view.frame))
        shown = replace(shown, stamps_ns=dict.fromkeys(shown.stamps_ns, round(time_s * 1e9)))
        before = time.perf_counter()
        try:
            output = policy.infer(shown, view.prompt)
        except (ObservationError, LayoutError) as error:
            raise UserError(f"frame {view.frame}, instruction {view.prompt!r}: {error}") from error
        ms = 1e3 * (time.perf_counter() - before)
        if output.progress is None:
            raise UserError("the policy gives no progress: its model has no progress head, nothing to evaluate")
        if problem := output.progress_problem():
            raise UserError(f"frame {view.frame}: the policy's {problem} ({output.progress})")
        yield output.progress, output.progress_belief, ms


def _answers(said: Sequence[tuple[float, np.ndarray | None, float]]) -> Answers:
    progress, bins, ms = zip(*said, strict=True)
    known = None if bins[0] is None else np.array(bins, np.float32)
    return Answers(np.array(progress, float), known, np.array(ms, float))


def track(
    playback: Playback,
    answers: Answers,
    config: EstimatorConfig,
    levels: Sequence[float] = (),
    durations_s: Mapping[str, float] | None = None,
) -> Track:
    """What the estimator makes of the answers, fed one after the other as in the node.

    Args:
        levels: of the intervals that are wanted beside the configured one.
        durations_s: what tasks usually take, s, by instruction.
    """
    runs = {}
    for level in dict.fromkeys((*levels, config.confidence_level)):
        estimator = ProgressEstimator(replace(config, confidence_level=level), durations_s or {})
        runs[level] = [
            estimator.update(float(moment), _output(answers, i), playback.views[i].prompt)
            for i, moment in enumerate(playback.time_s)
        ]
    estimates = runs[config.confidence_level]
    return Track(
        time_s=playback.time_s,
        frames=playback.frames,
        raw=answers.progress,
        filtered=np.array([e.progress for e in estimates], float),
        bins=answers.bins,
        intervals={level: np.array([[e.lower, e.upper] for e in run], float) for level, run in runs.items()},
        remaining_s=np.array([e.remaining_s or (np.nan,) * 3 for e in estimates], float),
        status=np.array([int(e.status) for e in estimates]),
        ms=answers.ms,
    )


def _output(answers: Answers, index: int) -> PolicyOutput:
    bins = None if answers.bins is None else answers.bins[index]
    return PolicyOutput(np.zeros((0, 0), np.float32), float(answers.progress[index]), progress_belief=bins)
