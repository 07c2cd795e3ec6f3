"""``--data.mirror``: every episode once more, as if the other arm had done it."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import lerobot_copy
from small_loading import LENGTHS, add_column, loader
from test_demonstrations import LOCATING, ROBOT

from pi05_progress.robots.kinematics import fingertips
from pi05_progress.units.normalize import unnormalize
from training.datasets import layout
from training.datasets.progress_meta import EpisodeMeta, Outcome, ProgressMeta, save_progress_meta
from training.loading.config import DataConfigError

FRAMES = sum(LENGTHS)
OTHER = {"base_0_rgb": "base_0_rgb", "left_wrist_0_rgb": "right_wrist_0_rgb", "right_wrist_0_rgb": "left_wrist_0_rgb"}


@pytest.fixture
def root(tmp_path):
    """A data set that says where two cubes are, and one of whose episodes failed."""
    root = lerobot_copy(tmp_path)
    places = np.random.default_rng(1).uniform(-0.4, 0.4, (FRAMES, 6)).astype(np.float32)
    names = [f"{name}.{axis}" for name in ("blue_cube", "red_cube") for axis in "xyz"]
    add_column(root, layout.TRUTH_POSITIONS, layout.vector(names), places)
    save_progress_meta(root, ProgressMeta({1: EpisodeMeta(Outcome.FAILURE)}))
    return root


def samples_of(root, **config):
    """All samples, in the robot's units, those of the data first."""
    model = dataclasses.replace(LOCATING, discrete_state=False, state_token=True, hands=2)
    with loader(root, model=model, resident=True, validation_fraction=0, **config) as data:
        samples = data.all_samples()
        state = unnormalize(samples.observation.state, data.stats["state"], True)[:, :14]
        actions = unnormalize(samples.actions, data.stats["actions"], True)[..., : ROBOT.action_size]
        assert not list(data.validation_batches(8))
    return samples, state, actions


def test_a_mirror_shows_the_other_arm_at_work_in_pictures_numbers_and_places(root):
    both, state, actions = samples_of(root, mirror=True)
    own, shown = slice(None, FRAMES), slice(FRAMES, None)
    assert len(state) == 2 * FRAMES
    np.testing.assert_array_equal(both.origin[shown] - both.origin[own], [[1, 0, 0]] * FRAMES)
    for key, image in both.observation.images.items():
        np.testing.assert_array_equal(image[shown], both.observation.images[OTHER[key]][own][:, :, ::-1])
    np.testing.assert_allclose(state[shown], -state[own][:, [*range(7, 14), *range(7)]], atol=1e-5)
    left, right = actions[own][..., :8], actions[own][..., 8:]
    signs = np.array([-1] * 7 + [1])  # grippers are as open as they were
    np.testing.assert_allclose(actions[shown], np.concatenate([signs * right, signs * left], axis=-1), atol=1e-5)
    positions = both.observation.positions
    np.testing.assert_allclose(positions[shown], positions[own] * np.array([-1, 1, 1]))
    hands = both.observation.proprioception[:, -6:].reshape(-1, 2, 3)
    np.testing.assert_allclose(hands[shown], hands[own][:, ::-1] * np.array([-1, 1, 1]))
    joints = np.zeros((FRAMES, 16))
    joints[:, np.r_[:7, 8:15]] = state[shown]
    assert np.abs(fingertips(joints, ROBOT, "grasp") - hands[shown]).max() < 0.01  # kinematics agree
    np.testing.assert_array_equal(both.observation.tokenized_prompt[shown], both.observation.tokenized_prompt[own])
    np.testing.assert_array_equal(both.action_weight[shown], both.action_weight[own])
    assert 0 < both.action_weight.sum() < 2 * FRAMES


def test_what_is_not_mirrored_stays_as_it_is(root):
    both, state, _ = samples_of(root, mirror=True)
    plain, alone, _ = samples_of(root)
    np.testing.assert_allclose(state[:FRAMES], alone, atol=1e-6)
    for key, image in plain.observation.images.items():
        np.testing.assert_array_equal(both.observation.images[key][:FRAMES], image)


def test_held_out_episodes_are_not_trained_on_in_a_mirror_nor_validated_in_one(root):
    with loader(root, mirror=True, resident=True, validation_fraction=0.5) as data:
        (out,), trained = data.held_out, data.all_samples().origin
        assert out and not set(out) & set(trained[:, 1].tolist())
        assert {data_set for data_set, *_ in trained.tolist()} == {0, 1}
        seen = np.concatenate([batch.origin for batch in data.validation_batches(8)])
    assert set(seen[:, 0].tolist()) <= {0, -1} and set(out) <= set(seen[:, 1].tolist())


def test_weights_and_the_order_of_batches_reckon_with_it(root):
    with loader(root, mirror=True, weights=(1.0,), batch_size=16) as data:
        sets = np.concatenate([next(data).origin[:, 0] for _ in range(4)])
    assert np.bincount(sets).tolist() == [32, 32]
    with loader(root) as data:
        state = data.state()
    with loader(root, mirror=True) as data, pytest.raises(DataConfigError, match="mirror was None, is True"):
        data.restore(state)


def test_an_instruction_that_names_a_side_is_refused(tmp_path):
    root = lerobot_copy(tmp_path)
    tasks = pq.read_table(root / layout.TASKS)
    name = next(name for name in tasks.column_names if name != "task_index")
    named = pa.table({"task_index": tasks["task_index"], name: ["lift the left cube", "lift the cube"]})
    pq.write_table(named, root / layout.TASKS)
    with pytest.raises(DataConfigError, match="'lift the left cube' names a side"):
        loader(root, mirror=True)


def test_corrections_count_whatever_came_of_the_episode_if_asked_for(root):
    chunks = np.zeros((FRAMES, 4 * ROBOT.action_size), np.float32)
    names = [f"{joint}.{row}" for row in range(4) for joint in ROBOT.joints]
    with loader(root, resident=True, validation_fraction=0, corrected_actions=True) as data:
        plain = data.all_samples().action_weight  # the labels are what was executed: a failure is one
    add_column(root, layout.DEMONSTRATION_ACTIONS, layout.vector(names), chunks)
    with loader(root, resident=True, validation_fraction=0, corrected_actions=True) as data:
        corrected = data.all_samples().action_weight
        assert any("their actions are imitated" in note for note in data.notes)
    with loader(root, resident=True, validation_fraction=0) as data:
        assert data.all_samples().action_weight.sum() == plain.sum() < FRAMES
    assert corrected.all()
