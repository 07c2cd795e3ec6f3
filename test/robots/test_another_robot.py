"""Another robot comes by its profile alone: one arm of six joints, a gripper moved by position, one camera."""

import dataclasses

import numpy as np
import pytest
from convert_recordings import IMAGE, JOINTS, START, Message, header, make, numbered, times, write_bag
from convert_results import convert
from flax import nnx
from small_loading import labelled, loader

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointError, CheckpointInfo
from pi05_progress.models.config import tiny
from pi05_progress.models.pi05 import Pi05
from pi05_progress.policies.model_policy import Pi05Policy
from pi05_progress.policy import PolicyOptions
from pi05_progress.robots.messages import robot_frame
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.teleavatar import make_request
from pi05_progress.serving.wire import RequestError
from pi05_progress.units.normalize import NormStats
from pi05_progress.units.transforms import actions_from_model, actions_to_model
from pi05_progress_ros.commanding.command_rules import CommandRules, CommandSettings
from pi05_progress_ros.node.results import chunk_message
from training.compute_norm_stats import StatisticsOptions, compute_norm_stats
from training.datasets.reader import open_dataset
from training.inspect_dataset import known_layout

PROFILE_TEXT = """
name: one_arm
description: one arm of six joints with a gripper, one camera
production_domain: null
vector_size: 21
cameras:
  eye:
    {model_input: base_0_rgb, topic: /eye/image, type: sensor_msgs/msg/Image, size: [64, 48], rate_hz: 30,
     turned: false, eye: null, tile: null}
stream: null
arms:
  main:
    joints: [a1, a2, a3, a4, a5, a6]
    ranges: [[-3, 3], [-2, 2], [-2, 2], [-3, 3], [-2, 2], [-0.1, 0.1]]
    state_topic: /arm/state
    target_topic: /arm/target
    command_topic: /arm/command
    teleoperation_topic: /arm/operator
    state_pose_topic: /arm/pose
    target_pose_topic: /arm/target_pose
grippers:
  main: {joint: claw, state_topic: /claw/state, command_topic: /claw/command, teleoperation_topic: /claw/operator}
gripper_curve: claw
gripper_curves: {claw: {main: [[0, 0], [0.08, 1]]}}
gripper_closed: 0
model_columns:
  state: {arms: position, grippers: position}
  action: {arms: position, grippers: position}
  relative: [arms]
action_units: {arms: rad, grippers: m}
arm_command: direct
relay: null
enable_topic: /enable
enable_timeout_s: 1.0
fsm_topic: /fsm
mode_topic: /mode
marks: {topic: /buttons, start_button: 0, stop_button: 1}
"""
SECONDS, FPS, HORIZON = 2.0, 30, 4
ARM, CLAW = [f"a{i}" for i in range(1, 7)], 6


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("robot") / "one_arm.yaml"
    path.write_text(PROFILE_TEXT)
    return path


@pytest.fixture(scope="module")
def profile(file):
    return RobotProfile.load(file)


def joint_state(names, position):
    zeros = np.zeros(len(names))
    return make(
        JOINTS, header=header(START), name=names, position=np.array(position), velocity=zeros + 1, effort=zeros + 2
    )


@pytest.fixture(scope="module")
def frame(profile):
    joints = {
        "main_arm": joint_state(ARM[::-1], np.arange(6.0)[::-1] / 10),
        "main_gripper": joint_state(["claw"], [0.02]),
    }
    return robot_frame(profile, {"eye": np.full((48, 64, 3), 90, np.uint8)}, joints)


@pytest.fixture(scope="module")
def policy(profile):
    config = tiny()
    one = {part: dataclasses.replace(getattr(config, part), depth=1) for part in ("siglip", "paligemma", "expert")}
    sizes = {"action_horizon": HORIZON, "max_token_len": 120, "image_size": (28, 28)}
    config = dataclasses.replace(config, **one, **sizes).with_progress("scalar")
    unit = NormStats(np.zeros(7), np.ones(7), -np.ones(7), np.ones(7))
    info, stats = CheckpointInfo(config, robot=profile.name, delta_actions=True), {"state": unit, "actions": unit}
    return Pi05Policy(Checkpoint(info, Pi05(config, nnx.Rngs(0)), stats), profile, PolicyOptions(num_steps=2))


def test_a_state_token_is_made_of_this_robots_positions(policy, profile, frame):
    config = dataclasses.replace(policy.info.model, state_token=True)
    stats = policy._stats | {"proprioception": policy._stats["state"]}
    own = Pi05Policy(Checkpoint(CheckpointInfo(config, robot="one_arm"), Pi05(config, nnx.Rngs(0)), stats), profile)
    assert profile.layout.proprioception_names == (*ARM, "claw")
    np.testing.assert_allclose(own.observe(frame, "stack").proprioception[0, :8], [*frame.state[:7], 0], atol=1e-5)


def test_messages_become_a_frame_in_the_order_of_the_profile(profile, frame):
    assert profile.layout.vector_sizes == (21, 28)
    np.testing.assert_allclose(frame.state[:7], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.02], atol=1e-7)
    np.testing.assert_array_equal(frame.state[7:], [1] * 7 + [2] * 7)
    assert list(frame.images) == ["eye"] and list(frame.stamps_ns) == ["main_arm", "main_gripper"] and not frame.absent


def test_the_gripper_is_a_number_in_0_1_for_the_model_and_metres_for_the_robot(profile, frame):
    row = actions_to_model(frame.state, profile.layout)
    assert row.shape == (7,) and row[CLAW] == pytest.approx(0.25)
    np.testing.assert_allclose(actions_from_model(row, profile.layout), frame.state[:7], atol=1e-7)


def test_a_policy_answers_with_rows_of_this_robot_relative_to_its_arm(policy, profile, frame):
    actions = policy.infer(frame, "stack").actions
    assert actions.shape == (HORIZON, 7) and np.isfinite(actions).all()
    moved = frame.state + 10 * np.eye(21, dtype=np.float32)[0]
    there = policy.infer(dataclasses.replace(frame, state=moved), "stack").actions
    np.testing.assert_allclose((there - actions)[:, :CLAW].mean(axis=0), [10, 0, 0, 0, 0, 0], atol=3)  # noise differs
    assert ((actions[:, CLAW] >= 0) & (actions[:, CLAW] <= 0.08)).all()


def test_its_checkpoint_is_refused_for_another_robot():
    with pytest.raises(CheckpointError, match="was made for robot one_arm, the profile is teleavatar"):
        Pi05Policy(Checkpoint(CheckpointInfo(tiny(), robot="one_arm"), None, {}), RobotProfile.load("teleavatar"))


def test_the_server_takes_and_answers_this_robots_numbers(policy, profile, frame):
    responder = PolicyResponder(policy, profile)
    request = make_request(frame, "stack", None)
    reply = responder.answer([responder.prepare(request)])[0]
    assert reply["actions"].shape == (HORIZON, 7) and 0 <= reply["progress"] <= 1
    with pytest.raises(RequestError, match="expected 21 or 28 numbers"):
        responder.prepare(request | {"observation/state": np.zeros(48, np.float32)})


def test_chunks_and_commands_are_of_this_robot(policy, profile, frame):
    output = policy.infer(frame, "stack")
    message = chunk_message(output, profile, chunk_id=1, stamp_ns=0, now_ns=0, dt_s=0.1, model_ms=1.0)
    assert (
        message.names == [*ARM, "claw"] and message.units == ["rad"] * 6 + ["m"] and len(message.values) == 7 * HORIZON
    )
    rules = CommandRules(profile, CommandSettings(max_joint_speed=2.0, max_joint_acceleration=100.0))
    for _ in range(2):  # the first one begins at rest
        step = rules.step(FsmState.READY, np.array([1.0] * 6 + [0.04]), {"main": np.zeros(6)}, 0.5)
    np.testing.assert_allclose(step.arms["main"], [1, 1, 1, 1, 1, 0.1])
    assert step.grippers == {"main": pytest.approx(0.5)}
    assert "the profile one_arm has no geometry" in rules.limits.unwatched[0]


def recording(turn):
    made = []
    for index, stamp in enumerate(times(100, SECONDS)):
        wave = 0.3 * np.sin(turn + index / 50 + np.arange(6))
        for topic, names, position in (
            ("/arm/state", ARM, wave), ("/arm/operator", ARM, wave + 0.01),
            ("/claw/state", ["claw"], [0.03]), ("/claw/operator", ["claw"], [0.08 * (index % 100) / 100]),
        ):  # fmt: skip
            zeros = np.zeros(len(names))
            fields = {"name": names, "position": np.array(position), "velocity": zeros, "effort": zeros}
            made.append(Message(topic, JOINTS, stamp, stamp, fields))
    for index, stamp in enumerate(times(30, SECONDS)):
        image = numbered(index)
        fields = {"height": 48, "width": 64, "encoding": "rgb8", "is_bigendian": 0, "step": 192, "data": image.ravel()}
        made.append(Message("/eye/image", IMAGE, stamp, stamp, fields))
    return made


@pytest.fixture(scope="module")
def dataset(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    bags = [write_bag(folder / f"bag{i}", recording(i)) for i in range(2)]
    run = convert(folder / "one_arm", *bags, robot=file)
    assert run.status == 0, run.text
    return run


def test_recordings_become_a_data_set_of_this_robot(dataset, profile):
    feature = dataset.info["features"]["observation.state"]
    assert feature["shape"] == [21] and feature["names"] == profile.layout.vector_names(21)
    assert feature["names"][:8] == [*(f"{joint}.position" for joint in [*ARM, "claw"]), "a1.velocity"]
    assert [name for name in dataset.info["features"] if "images" in name] == ["observation.images.eye"]
    assert dataset.info["robot_type"] == "one_arm"
    actions = dataset.column("action")
    assert actions.shape[1] == 21 and 0 <= actions[:, CLAW].min() < 0.01 and 0.07 < actions[:, CLAW].max() <= 0.08
    assert known_layout(open_dataset(dataset.root), profile) is profile.layout
    assert profile.layout.limits[5].tolist() == [-0.1, 0.1]


def test_the_data_set_is_labelled_by_its_joints_motion_and_trained_on(dataset, file, tmp_path):
    root = labelled(tmp_path / "labelled", dataset.root, method="activity")
    _, stats, _ = compute_norm_stats(StatisticsOptions((root,), robot=str(file), horizon=6, delta_actions=True))
    assert len(stats["state"].mean) == len(stats["actions"].mean) == 7
    batches = loader(root, batch_size=4, robot=str(file), delta_actions=True, validation_fraction=0.5)
    batch = next(batches)
    assert batches.action_size == 7 and (batch.actions[..., 7:] == 0).all() and (batch.actions[..., :7] != 0).any()
    assert batch.observation.image_masks["base_0_rgb"].all()
    assert not batch.observation.image_masks["left_wrist_0_rgb"].any()
