"""Episodes that are made up for the temporal head: what the model says is ambiguous, and only a memory can tell."""

import numpy as np
from flax import nnx

from pi05_progress.estimate.temporal import OTHERS, About, to_bytes
from training.evaluation.predictions import Answers
from training.temporal.network import Network
from training.temporal.preparation import prepared
from training.temporal.streams import Stream

TASK, FPS, DT_S = "stack the cubes", 5.0, 0.2
STAGES = {TASK: ("grasped", "stacked")}
WIDTH, BINS, ROWS = 6, 10, 4


def stream(seed=0, success=True, validation=False, length=60, task=TASK):
    """The first and the last half look the same to the model; a failure stays in the middle, its chunks at odds."""
    rng = np.random.default_rng(seed)
    progress = np.minimum(np.arange(length) / (length - 10), 1.0)
    if not success:
        progress = np.minimum(progress, 0.5)
    seen = np.where(progress < 0.5, progress, progress - 0.5)  # of the moment alone
    pooled = np.stack([np.sin(k * np.pi * seen) for k in range(1, WIDTH)] + [progress >= 1], axis=1)
    pooled = (pooled + 0.02 * rng.standard_normal(pooled.shape)).astype(np.float32)
    bins = np.exp(-0.5 * np.square(((np.arange(BINS) + 0.5) / BINS - seen[:, None]) / 0.1)).astype(np.float32)
    bins /= bins.sum(axis=1, keepdims=True)
    actions = progress[:, None, None] + 0.1 * np.arange(ROWS)[:, None] * np.array([1.0, -1.0])
    actions = actions + 0.3 * (not success) * rng.standard_normal(actions.shape)
    answers = Answers(seen, bins, np.ones(length), pooled, actions.astype(np.float32))
    left = np.maximum(length - 10 - np.arange(length), 0) / FPS if success else np.full(length, np.nan)
    return Stream(task, FPS, success, validation, answers, progress, (progress >= 0.5).astype(int), left)


def streams(count=24, failures=6):
    """Every third one is for calibration; the lengths of successes differ."""
    made = [stream(seed, seed >= failures, seed % 3 == 0, 50 + 4 * (seed % 7)) for seed in range(count)]
    return [s for s in made if not s.validation], [s for s in made if s.validation]


def random_head(unlike=1e30, alarms=None):
    """A head that was not trained."""
    arrays = prepared(streams()[0])
    reads = arrays["projection"].shape[1] + 1 + BINS + OTHERS
    arrays |= {"input_mean": np.zeros(reads), "input_std": np.ones(reads)}
    network = Network(reads, 2, nnx.Rngs(0))
    return to_bytes(arrays | network.arrays(), About(DT_S, STAGES, {TASK: 10.0}, unlike, alarms or {}))
