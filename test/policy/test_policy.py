"""The policy: a frame of the robot in, actions in the robot's units and a belief about progress out."""

import dataclasses
import itertools

import numpy as np
import pytest
from flax import nnx

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointError
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.errors import UserError
from pi05_progress.make_policy import make_policy
from pi05_progress.models.config import tiny
from pi05_progress.models.passes import Sample
from pi05_progress.models.pi05 import Pi05
from pi05_progress.observation import UNTRAINED, RobotFrame
from pi05_progress.policies.model_policy import ModelPolicy, Pi05Policy
from pi05_progress.policy import ZERO_NOISE, PolicyOptions
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import NormStats

PROFILE = RobotProfile.load("teleavatar")


def small(kind="scalar", **changes):
    config = tiny()
    one = {part: dataclasses.replace(getattr(config, part), depth=1) for part in ("siglip", "paligemma", "expert")}
    sizes = {"action_horizon": 4, "max_token_len": 120, "image_size": (28, 28)}
    return dataclasses.replace(config, **one, **sizes, **changes).with_progress(kind)


def stats(scale):
    low, high = np.full(16, -scale), np.full(16, scale)
    actions = NormStats(mean=low * 0, std=high, q01=low, q99=high)
    state = NormStats(mean=np.zeros(14), std=np.ones(14), q01=-np.ones(14), q99=np.ones(14))
    return {"state": state, "actions": actions}


def checkpoint(config, given=None, **info):
    return Checkpoint(CheckpointInfo(config, **info), Pi05(config, nnx.Rngs(0)), given or {})


def frame(seed=0):
    rng = np.random.default_rng(seed)
    images = {key: rng.integers(0, 256, (48, 64, 3), np.uint8) for key in PROFILE.cameras}
    return RobotFrame(images, rng.uniform(-0.5, 0.5, 48).astype(np.float32))


def policy(config, given=None, num_steps=2, noise="fresh", max_batch=1, **info):
    options = PolicyOptions(num_steps=num_steps, noise=noise, max_batch=max_batch)
    return Pi05Policy(checkpoint(config, given, **info), PROFILE, options)


@pytest.mark.parametrize(("kind", "bins"), [("none", None), ("scalar", None), ("categorical", 50)])
def test_progress_is_none_without_a_head_and_has_an_interval_only_with_bins(kind, bins):
    output = policy(small(kind)).infer(frame(), "stack")
    assert (output.actions.shape, output.actions.dtype) == ((4, 16), np.float32)
    assert np.isfinite(output.actions).all()
    assert output.timing.keys() == {"transforms", "model"}
    if kind == "none":
        assert output.progress is None
        return
    assert 0 <= output.progress <= 1
    assert type(output.progress) is float  # goes on the wire as it is
    if bins is None:
        assert output.progress_belief is None
        assert output.progress_interval is None
    else:
        assert output.progress_belief.shape == (bins,)
        assert output.progress_belief.sum() == pytest.approx(1, abs=1e-5)
        assert output.progress_interval[0] <= output.progress <= output.progress_interval[1]


def test_actions_are_unnormalised_and_gripper_numbers_become_efforts():
    config = small()
    plain, wide = (policy(config, stats(scale)).infer(frame(), "stack").actions for scale in (0.5, 1.0))
    arms = np.r_[0:7, 8:15]
    np.testing.assert_allclose(wide[:, arms], 2 * plain[:, arms], atol=1e-5)
    for side, column in (("left", 7), ("right", 15)):
        curve = PROFILE.layout.curves[side]
        command, wider = curve.command(plain[:, column]), curve.command(wide[:, column])
        np.testing.assert_allclose(wider, np.clip(2 * command, 0, 1), atol=1e-4)


def test_delta_actions_are_added_to_the_state():
    config, given = small(), stats(0.5)
    absolute = policy(config, given).infer(frame(), "stack").actions
    delta = policy(config, given, delta_actions=True).infer(frame(), "stack").actions
    state = frame().state
    np.testing.assert_allclose(delta[:, :7], absolute[:, :7] + state[:7], atol=1e-5)
    np.testing.assert_allclose(delta[:, 8:15], absolute[:, 8:15] + state[8:15], atol=1e-5)
    np.testing.assert_allclose(delta[:, [7, 15]], absolute[:, [7, 15]], atol=1e-5)


def test_the_instruction_and_the_state_and_the_pictures_matter():
    one = policy(small("categorical"))
    told = [one.infer(frame(seed), prompt).progress for seed, prompt in ((0, "stack"), (0, "unstack"), (1, "stack"))]
    assert len(set(told)) == 3


def test_noise_that_is_restarted_is_that_of_a_new_policy():
    one = policy(small())  # its seed is 0
    first, second = (one.infer(frame(), "stack").actions for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    one.restart(0)
    np.testing.assert_array_equal(one.infer(frame(), "stack").actions, first)
    one.restart(1)
    assert np.abs(one.infer(frame(), "stack").actions - first).max() > 1e-3


def test_noise_is_fresh_or_the_episodes_or_none():
    def actions(noise, restarts):
        one = policy(small(), noise=noise)
        for seed in restarts:
            one.restart(seed)
        return [one.infer(frame(), "stack").actions for _ in range(2)]

    ways = ("fresh", ()), ("episode", ()), ("episode", (1,)), ("zero", ())
    fresh, episode, another, zero = (actions(*way) for way in ways)
    for same in (episode, another, zero):
        np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(episode[0], fresh[0])  # the first noise of its seed
    np.testing.assert_array_equal(zero[0], actions("zero", (1,))[0])
    different = (fresh[1], episode[0], another[0], zero[0])
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(different, 2)) > 1e-3
    np.testing.assert_array_equal(actions("episode", (7, 0))[0], episode[0])


def test_a_seed_of_noise_decides_about_its_frame_alone_also_in_a_batch():
    one = policy(small(), max_batch=4)
    sequence = [one.infer(frame(), "stack").actions for _ in range(2)]
    one.restart(0)
    asked = [one.prepare(frame(), "stack", seed) for seed in (None, 5, ZERO_NOISE, None)]
    answers = [output.actions for output in one.infer_prepared(asked)]
    for answer, expected in zip(answers[::3], sequence, strict=True):
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    np.testing.assert_allclose(answers[1], one.infer_prepared(asked[1:2])[0].actions, atol=1e-5)
    np.testing.assert_allclose(answers[2], policy(small(), noise="zero").infer(frame(), "stack").actions, atol=1e-5)


def test_noise_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="noise is 'much'; expected fresh, episode, zero"):
        make_policy(PROFILE, PolicyOptions(noise="much"))
    with pytest.raises(UserError, match="noise is 'zero', but policy a:b draws its own: leave it out"):
        make_policy(PROFILE, PolicyOptions(policy="a:b", noise="zero"))


def test_a_saved_checkpoint_answers_as_before_and_for_robots_of_the_same_numbers_only(tmp_path, caplog):
    saved = checkpoint(small("categorical"), stats(0.5), model_id="small", action_dt_s=0.05)
    save_checkpoint(tmp_path / "small", saved)
    loaded = make_policy(PROFILE, PolicyOptions(checkpoint=str(tmp_path / "small"), num_steps=2))
    assert (loaded.model_id, loaded.horizon, loaded.action_dt_s) == ("small", 4, 0.05)
    ours, theirs = (
        loaded.infer(frame(), "stack"),
        Pi05Policy(saved, PROFILE, PolicyOptions(num_steps=2)).infer(frame(), "stack"),
    )
    np.testing.assert_array_equal(ours.actions, theirs.actions)
    assert ours.progress == theirs.progress
    options = PolicyOptions(checkpoint=str(tmp_path / "small"))
    make_policy(RobotProfile.load("teleavatar_v1"), options)
    assert "made for robot teleavatar, the profile is teleavatar_v1" in caplog.text
    profile = RobotProfile.load("teleavatar_v1")
    columns = profile.model_columns.model_copy(update={"relative": ()})
    other = profile.model_copy(update={"model_columns": columns})
    with pytest.raises(CheckpointError, match="made for robot teleavatar, the profile is teleavatar_v1"):
        make_policy(other, options)


def test_without_a_checkpoint_it_says_that_it_is_untrained():
    assert make_policy(PROFILE, PolicyOptions(num_steps=1)).model_id == UNTRAINED


@pytest.mark.parametrize("name", ["teleavatar", "teleavatar_v2"])
def test_grippers_of_a_robot_that_counts_them_otherwise_open_as_far_as_the_model_meant(name):
    numbers, profile, config = np.array([0.0, 0.25, 0.5, 1.0], np.float32), RobotProfile.load(name), small()
    rows = np.repeat(numbers[None, :, None], config.action_dim, axis=2)
    info = CheckpointInfo(config, robot="teleavatar")
    policy = ModelPolicy(info, {}, lambda: lambda observation, noise: Sample(rows, None), profile)
    frame = RobotFrame({key: np.zeros((8, 8, 3), np.uint8) for key in PROFILE.cameras}, np.zeros(48, np.float32))
    answered = policy.infer(frame, "stack").actions
    for side, column in profile.layout.grippers.items():
        sent = profile.layout.curves[side].command(answered[:, column])
        np.testing.assert_allclose([profile.turned(n) for n in sent], [PROFILE.turned(n) for n in numbers], atol=1e-6)
    np.testing.assert_allclose(answered[:, 0], numbers, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "size", "width", "height", "taller"),
    [
        ("head_camera", (28, 56), 64, 36, 64),
        ("head_camera", (28, 56), 64, 36, 36),
        ("left_color", (126, 224), 256, 144, 160),  # the camera's own shape would be 145 rows, with an edge beside them
    ],
)
def test_of_pictures_taller_than_the_checkpoints_robot_has_the_model_sees_the_middle_at_the_scale_it_knows(
    key, size, width, height, taller
):
    info = CheckpointInfo(dataclasses.replace(small(), image_size=size), robot="teleavatar")
    other = RobotProfile.load("teleavatar_v2")
    rng, above = np.random.default_rng(0), (taller - height) // 2
    tall = rng.integers(0, 256, (taller, width, 3), np.uint8)
    middle = tall[above : above + height]
    images = {key: np.zeros((8, 8, 3), np.uint8) for key in PROFILE.cameras}
    saw = []
    for profile, picture in ((PROFILE, middle), (other, tall)):
        made = ModelPolicy(info, {}, lambda: None, profile)
        seen = made.observe(RobotFrame(images | {key: picture}, np.zeros(48, np.float32)), "stack")
        saw.append(seen.images[PROFILE.cameras[key].model_input])
    np.testing.assert_array_equal(*saw)
    assert made.image_size is None, "a client would scale a square picture down before its middle is cut out"
