"""What the loader gives: samples as the policy reads them, in an order that the seed alone decides."""

import dataclasses
import itertools

import av
import numpy as np
import pytest
from small_datasets import TWO_TASKS, lerobot_copy
from small_loading import LENGTHS, MODEL, arrays, assert_same, loader, origins, take
from small_models import SMALL, random_model

from pi05_progress.checkpoints.checkpoint import Checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.models.observation import check_actions, check_observation
from pi05_progress.models.pi05 import Sample
from pi05_progress.observation import IMAGE_KEYS, RobotFrame
from pi05_progress.policies.model_policy import ModelPolicy, Pi05Policy
from pi05_progress.robots.kinematics import fingertips
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import save_norm_stats
from training.datasets.reader import open_dataset
from training.loading.config import DataConfigError
from training.loading.norm_stats import compute

PROFILE = RobotProfile.load("teleavatar")
ARMS = np.r_[0:7, 8:15]
NEAR = {"vision": "points", "base_size": (16, 32), "base_crop": (0.25, 0.0, 0.75, 1.0), "hands": 2}
EVERYTHING = {(0, episode, frame) for episode, length in enumerate(LENGTHS) for frame in range(length)}


def raw_columns(root):
    return {episode.index: columns for episode, columns in open_dataset(root).frames(["observation.state", "action"])}


def every_picture(root, episode):
    """Pictures of an episode by camera, decoded from the file's start, one after the other."""
    spans = open_dataset(root).episodes[episode].videos
    found = {}
    for name, span in spans.items():
        with av.open(str(span.path)) as container:
            found[name.removeprefix("observation.images.")] = [
                f.to_ndarray(format="rgb24") for f in container.decode(video=0)
            ]
    return found


@pytest.mark.parametrize(("token", "more"), [(False, {}), (True, {}), (True, NEAR)])
def test_a_row_is_what_the_policy_observes_in_the_same_frame(data, token, more):
    sizes = {"action_dim": 32, "image_size": (28, 42), "max_token_len": 150, "discrete_state": not token}
    model = dataclasses.replace(SMALL, **sizes, state_token=token, **more)
    with loader(data, model=model) as batches:
        batch = next(batches)
    policy = Pi05Policy(Checkpoint(CheckpointInfo(model), random_model(model), batches.stats), PROFILE)
    check_observation(model, batch.observation)
    check_actions(model, "actions", batch.actions, 8)
    raw, tasks = raw_columns(data), open_dataset(data).tasks
    for row, (_, episode, frame) in enumerate(batch.origin):
        images = {camera: frames[frame] for camera, frames in every_picture(data, episode).items()}
        state = raw[episode]["observation.state"][frame]
        observed = policy.observe(RobotFrame(images, state), tasks[episode % 2])
        ours = batch.observation
        for key in IMAGE_KEYS:
            np.testing.assert_array_equal(ours.images[key][row], observed.images[key][0])
            assert ours.image_masks[key][row] and observed.image_masks[key][0]
        if more:  # the middle rows of the head camera's 32, as they are, and where hands are
            np.testing.assert_array_equal(ours.images[IMAGE_KEYS[0]][row], images["head_camera"][8:24])
            hands = fingertips(state[:16], PROFILE.layout, "grasp")
            np.testing.assert_allclose(ours.proprioception[row, 32:], hands.ravel(), atol=1e-6)
        np.testing.assert_array_equal(ours.state[row], observed.state[0])
        if token:
            of, positions = batches.stats["proprioception"], state[np.r_[0:7, 8:15, 7, 15]]  # arms, then grippers
            np.testing.assert_array_equal(ours.proprioception[row], observed.proprioception[0])
            np.testing.assert_allclose(
                (ours.proprioception[row, :16] + 1) / 2 * (of.q99 - of.q01 + 1e-6) + of.q01, positions, atol=1e-5
            )
        n = observed.tokenized_prompt.shape[1]
        np.testing.assert_array_equal(ours.tokenized_prompt[row, :n], observed.tokenized_prompt[0])
        np.testing.assert_array_equal(ours.tokenized_prompt_mask[row, :n], observed.tokenized_prompt_mask[0])
        assert ours.tokenized_prompt.shape[1] == model.max_token_len and not ours.tokenized_prompt_mask[row, n:].any()


def test_every_row_of_a_chunk_is_normalised_by_itself_and_the_policy_gives_it_back(data, load):
    """With what training gives in the place of the model's answer, the policy says the data's own actions."""
    options = {"delta_actions": True, "actions_per_row": True, "validation_fraction": 0}
    with load(**options) as batches:
        batch, stats = next(batches), batches.stats
    spread = stats["actions_per_row"].q99 - stats["actions_per_row"].q01
    assert spread.shape == (6, 16) and (spread[0, ARMS] < spread[5, ARMS]).any()
    width = np.abs(batch.actions[..., :16]).max()
    assert 0.9 < width < 40  # two rows of two episodes, none of which explodes
    info = CheckpointInfo(MODEL, delta_actions=True, actions_per_row=True)
    policy = ModelPolicy(info, stats, lambda: lambda *_: Sample(batch.actions[:1], None), PROFILE)
    _, episode, frame = batch.origin[0]
    raw = raw_columns(data)[int(episode)]
    images = {camera: np.zeros((28, 42, 3), np.uint8) for camera in PROFILE.cameras}
    answer = policy.infer(RobotFrame(images, raw["observation.state"][frame]), "stack").actions
    wanted = raw["action"][np.minimum(frame + np.arange(6), LENGTHS[episode] - 1)]
    np.testing.assert_allclose(answer[:, ARMS], wanted[:, ARMS], atol=1e-5)


@pytest.mark.parametrize("relative", [False, True])
def test_actions_are_the_next_rows_of_the_episode_and_repeat_its_last(data, load, relative):
    with load(delta_actions=relative, validation_fraction=0) as batches:
        stats, taken = batches.stats["actions"], take(batches, 8)
        assert batches.action_dt_s == 0.1
    raw = raw_columns(data)
    for batch in taken:
        for row, (_, episode, frame) in enumerate(batch.origin):
            wanted = frame + np.arange(6)
            assert batch.action_is_pad[row].tolist() == (wanted >= LENGTHS[episode]).tolist()
            raw_action = raw[episode]["action"][np.minimum(wanted, LENGTHS[episode] - 1)].astype(float)
            expected = np.empty((6, 16))
            expected[:, ARMS] = raw_action[:, ARMS]
            left, right = raw_action[:, 39], raw_action[:, 47]  # the gripper's command number of an effort
            expected[:, 7] = np.clip(np.where(left > 0, 0.5 - left / 7, 0.5 - left), 0, 1)
            expected[:, 15] = np.clip(np.where(right < 0, 0.5 + right / 7, 0.5 + right), 0, 1)
            if relative:
                expected[:, ARMS] -= raw[episode]["observation.state"][frame, ARMS]
            expected = (expected - stats.q01) / (stats.q99 - stats.q01 + 1e-6) * 2 - 1
            np.testing.assert_allclose(batch.actions[row, :, :16], expected, atol=2e-4)
            assert not batch.actions[row, :, 16:].any() and batch.action_weight[row] == (episode != 3)


def test_the_seed_decides_the_order_and_every_epoch_has_another(load):
    def order(seed):
        with load(seed=seed, validation_fraction=0) as batches:
            return origins(take(batches, 16))

    one = order(0)
    assert one == order(0) != order(1)
    for epoch in (one[:64], one[64:]):
        assert len(set(epoch)) == 64 and set(epoch) == EVERYTHING
    assert one[:64] != one[64:]


def test_processes_share_the_batches_of_one_and_read_episodes_of_their_own(load):
    with load(validation_fraction=0) as batches:
        alone = take(batches, 8)
    for count in (2, 4):
        shares = []
        for index in range(count):
            with load(validation_fraction=0, process=(index, count)) as batches:
                shares.append(take(batches, 8))
        for step, batch in enumerate(alone):
            parts = [arrays(share[step]) for share in shares]
            for name, array in arrays(batch).items():
                np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array, err_msg=name)
        seen = [set(origins(share)) for share in shares]
        assert set.union(*seen) == EVERYTHING and sum(map(len, seen)) == 64
        assert all(len(own) == 64 / count for own in seen)
        episodes = [{episode for _, episode, _ in own} for own in seen]
        for before, after in itertools.pairwise(episodes):
            assert len(before & after) <= 1  # the one that lies across


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_it_goes_on_exactly_where_it_was_with_any_number_of_workers(load, workers):
    with load(wrong_instruction=0.3) as batches:
        take(batches, 9)
        state = batches.state()
        following = take(batches, 5)
        batches.restore(state)  # back
        assert_same(next(batches), following[0])
    with load(wrong_instruction=0.3, workers=workers) as batches:
        batches.restore(state)
        assert batches.state() == state
        for expected in following:
            assert_same(next(batches), expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"batch_size": 4}, "batch_size was 8, is 4"), ({"seed": 1}, "seed was 0"), ({"seed_split": 3}, "held-out")],
)
def test_a_position_of_another_run_is_refused(load, change, said):
    with load() as batches, load(**change) as others:
        assert batches.fingerprint != others.fingerprint
        with pytest.raises(DataConfigError, match=said):
            others.restore(batches.state())
        with pytest.raises(DataConfigError, match="cannot be read"):
            batches.restore(b"nonsense")


def test_validation_is_every_frame_of_held_out_episodes_in_order_and_training_none(load):
    with load(validation_fraction=0.5, seed_split=1) as batches:
        (out,) = batches.held_out
        assert len(out) == 2
        trained = origins(take(batches, 12))
        validation = list(batches.validation_batches(8))
        every_third = origins(batches.validation_batches(4, stride=3))
    assert not {episode for _, episode, _ in trained} & set(out)
    expected = [(0, episode, frame) for episode in out for frame in range(LENGTHS[episode])]
    fill = -len(expected) % 8
    assert fill and origins(validation) == expected + fill * [(-1, -1, -1)]
    last = validation[-1]
    assert not last.action_weight[-fill:].any() and not last.observation.progress_mask[-fill:].any()
    assert (last.action_weight[:-fill] == (last.origin[:-fill, 1] != 3)).all() and len(last.actions) == 8
    assert [o for o in every_third if o[0] == 0] == [o for o in expected if o[2] % 3 == 0]


def test_validation_of_processes_is_that_of_one(load):
    with load(validation_fraction=0.5) as batches:
        alone = list(batches.validation_batches(8))
    shares = []
    for index in range(2):
        with load(validation_fraction=0.5, process=(index, 2)) as batches:
            shares.append(list(batches.validation_batches(8)))
    assert len(shares[0]) == len(shares[1]) == len(alone)
    for both, batch in zip(zip(*shares, strict=True), alone, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.origin for part in both]), batch.origin)
        np.testing.assert_array_equal(np.concatenate([part.actions for part in both]), batch.actions)


def test_the_statistics_of_the_data_set_are_used(load, tmp_path):
    root = lerobot_copy(tmp_path)
    save_norm_stats(root / "norm_stats.json", compute([open_dataset(root)], PROFILE, horizon=50, relative=False))
    with loader(root) as own, load(TWO_TASKS) as computed:
        assert any("norm_stats.json" in note for note in own.notes)
        assert any("computed" in note for note in computed.notes)
        np.testing.assert_allclose(own.stats["state"].q99, computed.stats["state"].q99, atol=1e-6)
        assert own.stats["actions"].mean[0] != computed.stats["actions"].mean[0]  # another horizon
        assert own.asset_id == "two_tasks"


def test_cameras_that_are_left_out_are_masked(load):
    with load(cameras=("head_camera",)) as batches, load() as all_cameras:
        batch, full = next(batches), next(all_cameras)
    np.testing.assert_array_equal(batch.observation.images["base_0_rgb"], full.observation.images["base_0_rgb"])
    for key, image in batch.observation.images.items():
        assert batch.observation.image_masks[key].tolist() == [key == "base_0_rgb"] * 8
        assert key == "base_0_rgb" or not image.any()
