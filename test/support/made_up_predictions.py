"""Predictions that are made up, so that every figure about them is known beforehand."""

import numpy as np

from pi05_progress.estimate.estimator import EstimatorConfig
from pi05_progress.observation import ObservationError, PolicyOutput
from pi05_progress.policy import Policy
from training.datasets.progress_meta import EpisodeMeta, Milestone, Outcome
from training.evaluation import playbacks
from training.evaluation.episode_figures import episode_figures
from training.evaluation.playbacks import PLAIN
from training.evaluation.predictions import LEVELS, Answers, track
from training.evaluation.truth import episode_truth
from training.labels.milestones import Stages

FPS, STRIDE, LENGTH = 10, 2, 201  # an episode of 20 s, looked at every 0.2 s
LAST = LENGTH - 1
STAGES = Stages(("grasped", "placed"), np.array([0.25, 0.75]))


def bins_around(values, std, count=100):
    """Normal beliefs over bins, (n, count)."""
    from scipy.stats import norm

    edges = norm.cdf((np.linspace(0, 1, count + 1) - np.asarray(values)[:, None]) / std)
    parts = np.diff(edges)
    return parts / parts.sum(axis=1, keepdims=True)


def linear(frames, *_):
    return frames / LAST


def meta(outcome="SUCCESS", **marks):
    return EpisodeMeta(Outcome(outcome), tuple(Milestone(name, frame) for name, frame in marks.items()))


def figures_of(predict, known=None, *, length=LENGTH, stages=None, median_s=20.0, std=None, perturbed=True, still=()):
    """Of an episode whose raw progress is ``predict(frames, times, playback)``; with bins if ``std`` is given."""
    names = playbacks.PERTURBATIONS if perturbed else ()
    shown = playbacks.all_playbacks(
        length, FPS, STRIDE, "stack", wrong_prompt="fold", black="head_camera", seed=1, names=names
    )
    others = (playbacks.PARAPHRASE, playbacks.REFUSED) if perturbed else ()
    shown += [playbacks.changed(name, shown[0], prompt=name) for name in others]
    tracks = {}
    for playback in shown:
        raw = np.clip(np.broadcast_to(predict(playback.frames, playback.time_s, playback), len(playback.views)), 0, 1)
        bins = None if std is None else bins_around(raw, std)
        answers = Answers(raw.astype(float), bins, np.full(len(raw), 5.0))
        tracks[playback.name] = track(playback, answers, EstimatorConfig(), LEVELS if playback.name == PLAIN else ())
    return episode_figures(tracks, episode_truth(length, known or meta(), stages), FPS, median_s, still)


def bright(_profile):
    """For ``--policy``; says how bright the head camera's picture is."""

    class Bright(MadeUp):
        def infer(self, frame, prompt):
            return PolicyOutput(np.zeros((2, 16), np.float32), float(frame.images["head_camera"].mean() / 255))

    return Bright()


class MadeUp(Policy):
    """A policy that remembers what it was shown, and says what a function of the stamp and the prompt says."""

    model_id, horizon, action_dt_s = "made-up", 2, 0.1

    def __init__(self, predict=lambda time_s, prompt: min(1.0, time_s / 3)):
        self.predict, self.asked = predict, []

    def warm_up(self):
        pass

    def infer(self, frame, prompt):
        self.asked.append((frame, prompt))
        progress = self.predict(frame.stamps_ns["head_camera"] * 1e-9, prompt)
        bins = None if progress is None else bins_around([progress], 0.05)[0].astype(np.float32)
        return PolicyOutput(np.zeros((2, 16), np.float32), progress, progress_belief=bins)


def rising(_profile):
    """For ``--policy made_up_predictions:rising``."""
    return MadeUp()


def stacking(_profile):
    """Reads the instruction: anything but stacking is hardly begun."""
    return MadeUp(lambda time_s, prompt: min(1.0, 0.2 + time_s / 3) if prompt.startswith("stack") else 0.1)


def without_head(_profile):
    return MadeUp(lambda time_s, prompt: None)


def picky(_profile):
    def refuse(time_s, prompt):
        raise ObservationError("the prompt has 99 tokens, the model takes 32")

    return MadeUp(refuse)


def not_a_number(_profile):
    return MadeUp(lambda time_s, prompt: float("nan"))
