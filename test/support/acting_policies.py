"""Policies that repeat the demonstration of ``data/stack_one``, perfectly or with one fault that is known beforehand.

They know the moment by the pictures' stamp. A perfect one still heeds every input: what is not as it was recorded then
moves its actions.
"""

import numpy as np
from places import DATA
from small_models import SMALL

from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.observation import PolicyOutput
from pi05_progress.policy import Policy
from training.datasets.progress_meta import load_progress_meta
from training.datasets.reader import open_dataset
from training.evaluation.predictions import robot_frames
from training.explanation.demonstrations import demonstrations

STACKING = DATA / "stack_one"  # stack_cubes, seed 5000, at 15 frames/s
HORIZON, FPS = 15, 15


class Repeats(Policy):
    """Perfect, unless told otherwise."""

    model_id, horizon, action_dt_s = "repeats", HORIZON, 1 / FPS

    def __init__(self, profile, *, offset=0.0, blind=(), late=0.0, still=False, dither=0.0, wild=0.0, forgets=False):
        self.robot, self.seed = profile.layout, 0
        self.offset, self.blind, self.late, self.still = offset, blind, late, still
        self.dither, self.wild, self.forgets = dither, wild, forgets
        dataset = open_dataset(STACKING)
        (self.demonstration,) = demonstrations(dataset, load_progress_meta(STACKING), profile, [0])
        states = self.demonstration.states
        frames = robot_frames(dataset.episodes[0], states, profile, dataset.fps, range(len(states)))
        self.pictures = [{key: picture.mean() for key, picture in frame.images.items()} for frame in frames]

    def warm_up(self):
        pass

    def restart(self, seed):
        self.seed = seed

    def infer(self, frame, prompt):
        now = round(frame.stamps_ns["head_camera"] * 1e-9 * FPS)
        commands, arms = self.demonstration.commands, self.robot.arm_columns
        rows = np.minimum(now + np.arange(HORIZON), len(commands) - 1)
        actions = commands[rows].astype(float)
        shown, recorded = (self.robot.positions(state) for state in (frame.state, self.demonstration.states[now]))
        if self.still:
            actions[:, arms] = shown[arms]
        else:
            lit = sum(
                frame.images[key].mean() - was for key, was in self.pictures[now].items() if key not in self.blind
            )
            actions[:, arms] += self.offset + lit / 50 + (0 if self.forgets else 0.5 * (shown - recorded)[arms])
            actions[:, arms] += self.wild * (np.sin(3000 * shown) - np.sin(3000 * recorded))[arms]
        drift = np.linspace(0, self.dither, HORIZON)[:, None]
        actions[:, arms] += drift * np.random.default_rng(self.seed).normal(size=len(arms))
        for gripper, column in self.robot.grippers.items():
            then = np.clip(rows - round(self.late * FPS), 0, len(commands) - 1)
            actions[:, column] = self.robot.curves[gripper].effort(commands[then, column])
        return PolicyOutput(actions.astype(np.float32), None)


def perfect(profile):
    return Repeats(profile)


def beside(profile):
    return Repeats(profile, offset=0.1)


def _beside(profile, **info):
    policy = Repeats(profile, offset=0.1)
    policy.info = CheckpointInfo(SMALL, **info)
    return policy


def beside_absolute(profile):
    return _beside(profile)


def beside_relative(profile):
    return _beside(profile, delta_actions=True)


def beside_relative_per_row(profile):
    return _beside(profile, delta_actions=True, actions_per_row=True)


def ignores_the_head(profile):
    return Repeats(profile, blind=("head_camera",))


def ignores_the_state(profile):
    return Repeats(profile, forgets=True)


def late(profile):
    return Repeats(profile, late=0.4)


def early(profile):
    return Repeats(profile, late=-0.4)


def stands_still(profile):
    return Repeats(profile, still=True)


def dithers(profile):
    return Repeats(profile, dither=0.1)


def takes_noise_for_motion(profile):
    return Repeats(profile, wild=0.1)
