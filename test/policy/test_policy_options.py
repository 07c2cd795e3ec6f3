"""Policies of models with a state token and of actions that are normalised per row of a chunk."""

import dataclasses

import numpy as np
import pytest
from small_models import SMALL, random_model

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.foreign.conversion import export_checkpoint
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.observation import RobotFrame
from pi05_progress.policies.model_policy import Pi05Policy
from pi05_progress.policy import PolicyOptions
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import NormStats, load_norm_stats, save_norm_stats

PROFILE = RobotProfile.load("teleavatar")
ARMS, HORIZON = np.r_[0:7, 8:15], 4
NEAR = np.linspace(0.001, 0.1, HORIZON)[:, None] * np.ones(16)  # rad, how far rows of a chunk go


def spread(high):
    return NormStats(mean=high * 0, std=high / 2, q01=-high, q99=high)


STATS = {
    "state": spread(np.ones(14)),
    "actions": spread(np.ones(16)),
    "actions_per_row": spread(NEAR),
    "proprioception": spread(np.linspace(1, 2, 16)),
}


@pytest.fixture(scope="module")
def checkpoint():
    sizes = {"action_horizon": HORIZON, "action_dim": 32, "max_token_len": 24, "discrete_state": False}
    config = dataclasses.replace(SMALL, **sizes, state_token=True)
    info = CheckpointInfo(config, model_id="m", delta_actions=True, actions_per_row=True)
    return Checkpoint(info, random_model(config), STATS)


@pytest.fixture(scope="module")
def policy(checkpoint):
    return Pi05Policy(checkpoint, PROFILE, PolicyOptions(num_steps=2, noise="zero", max_batch=2))


def frame(seed=0):
    rng = np.random.default_rng(seed)
    images = {key: rng.integers(0, 256, (48, 64, 3), np.uint8) for key in PROFILE.cameras}
    return RobotFrame(images, rng.uniform(-0.5, 0.5, 48).astype(np.float32))


def test_actions_are_the_state_and_what_each_row_adds_to_it_in_its_own_spread_of_a_fiftieth_at_least(policy):
    given = frame()
    said = policy.sampler(policy.observe(given, "stack"), np.zeros((1, HORIZON, 32), np.float32)).actions[0]
    actions = policy.infer(given, "stack").actions
    away = said[:, ARMS] * np.maximum(NEAR[:, ARMS], 0.01)
    assert np.abs(said[:, ARMS]).max(axis=1).min() > 0.1
    np.testing.assert_allclose(actions[:, ARMS], given.state[ARMS] + away, atol=1e-4)


def test_the_token_has_the_positions_of_arms_and_grippers_and_matters_to_actions_and_progress(policy):
    given = frame()
    positions = policy.observe(given, "stack").proprioception[0]
    np.testing.assert_allclose(positions[:16], given.state[np.r_[0:7, 8:15, 7, 15]] / np.linspace(1, 2, 16), atol=1e-5)
    assert not positions[16:].any()
    shut = dataclasses.replace(given, state=given.state + np.eye(48, dtype=np.float32)[7])  # no other number is read
    one, other = (policy.infer(of, "stack") for of in (given, shut))
    assert np.abs(one.actions - other.actions).max() > 1e-5 and one.progress != other.progress


def test_what_was_compiled_ahead_answers_alone_and_together_as_before(policy):
    alone = [policy.infer(frame(seed), "stack") for seed in (1, 2)]
    policy.warm_up()
    programs = len(policy.sampler.programs)
    together = policy.infer_prepared([policy.prepare(frame(seed), "stack", -1) for seed in (1, 2)])
    assert len(policy.sampler.programs) == programs
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours.actions, theirs.actions, atol=1e-5)
        assert ours.progress == pytest.approx(theirs.progress, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions_per_row": None}, "no statistics of actions_per_row, only of actions, proprioception, state"),
        ({"actions_per_row": spread(NEAR[:3])}, "actions_per_row has statistics of 3 rows, chunks have 4"),
        ({"actions_per_row": spread(NEAR[:, :7])}, "statistics of actions have 7 numbers, the robot has 16"),
        ({"proprioception": None}, "the statistics lack proprioception; they have actions, actions_per_row, state"),
        ({"proprioception": spread(np.ones(14))}, "statistics of proprioception have 14 numbers, the robot has 16"),
    ],
)
def test_statistics_that_a_checkpoint_needs_and_lacks_are_named_when_it_is_loaded(checkpoint, change, message):
    stats = {key: value for key, value in (STATS | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        Pi05Policy(dataclasses.replace(checkpoint, stats=stats), PROFILE)


def test_a_checkpoint_keeps_both_and_what_cannot_express_them_refuses_them_by_name(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "ours", checkpoint)
    loaded = load_checkpoint(tmp_path / "ours")
    assert loaded.info.model.state_token and loaded.info.actions_per_row
    np.testing.assert_array_equal(loaded.stats["actions_per_row"].q99, NEAR)
    for layout, program in (("openpi", "openpi"), ("lerobot", "LeRobot")):
        with pytest.raises(
            CheckpointError, match=rf"\(state_token\) and .*\(actions_per_row\), which {program} cannot"
        ):
            export_checkpoint(tmp_path / "ours", tmp_path / "theirs", layout)
    assert not (tmp_path / "theirs").exists()


def test_statistics_of_rows_are_lists_of_rows_alone(tmp_path):
    save_norm_stats(tmp_path / "norm_stats.json", STATS)
    assert load_norm_stats(tmp_path / "norm_stats.json")["actions_per_row"].mean.shape == (HORIZON, 16)
    for key, wrong, what in (("actions_per_row", np.ones(16), "rows"), ("state", np.ones((2, 14)), "numbers")):
        save_norm_stats(tmp_path / "norm_stats.json", STATS | {key: spread(wrong)})
        with pytest.raises(ValueError, match=f"{key}.mean is not a list of {what}"):
            load_norm_stats(tmp_path / "norm_stats.json")
