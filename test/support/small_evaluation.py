"""What evaluating is tried on: a small checkpoint, and LeRobot's small data set with what is known of its episodes."""

import dataclasses

import numpy as np
from small_datasets import facts, lerobot_copy
from small_models import SMALL, random_model

from pi05_progress.checkpoints.checkpoint import Checkpoint
from pi05_progress.checkpoints.description import DURATIONS, CheckpointInfo
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.units.normalize import NormStats

CONFIG = dataclasses.replace(SMALL, action_dim=16, max_token_len=32, discrete_state=False)  # one length of prompts


def save_small(folder, kind="categorical", **info):
    """A checkpoint that says it is trained."""
    stats = {
        key: NormStats(mean=np.zeros(n), std=np.ones(n), q01=-np.ones(n), q99=np.ones(n))
        for key, n in (("state", 14), ("actions", 16))
    }
    config = CONFIG.with_progress(kind)
    made = CheckpointInfo(config, **{"model_id": "small", "action_dt_s": 0.1} | info)
    save_checkpoint(folder, Checkpoint(made, random_model(config), stats))
    return folder


def save_trained(folder):
    """A small checkpoint that knows how long its training episodes were."""
    labels = {"method": "linear", DURATIONS: {"stack the cubes": 2.0}}
    return save_small(folder, labels=labels)


def with_failure(folder):
    """LeRobot's small data set: tasks of 12 and 1, and of 30 and 21 frames, 10 frames/s; one episode has failed."""
    root = lerobot_copy(folder)
    facts(root, e1=("SUCCESS", {"lifted": 10, "stacked": 25}), e3=("FAILURE", {"lifted": 9}))
    return root
