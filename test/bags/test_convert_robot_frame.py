"""One recording through the live node's path and through the converter: the same frames. And simulated episodes."""

import itertools
import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import PATIENCE_S, wait_for
from convert_recordings import IMAGE, PROFILE, START, TOPICS, joints, numbered, packets, pictures, serialised, write_bag
from convert_results import convert

from pi05_progress.observation import PolicyOutput
from pi05_progress.policy import Policy
from pi05_progress.robots.profile import PACKET_TYPE, RobotProfile
from pi05_progress.robots.states import Mode

SECONDS = 1.0


class Watching(Policy):
    """A policy that keeps the frames it is asked about."""

    model_id, horizon, action_dt_s = "watching", 1, 1 / 30

    def __init__(self):
        self.frames = []
        self.asked = threading.Condition()

    def infer(self, frame, prompt):
        with self.asked:
            self.frames.append(frame)
            self.asked.notify_all()
        return PolicyOutput(np.zeros((1, 16), np.float32), None)


@pytest.fixture(scope="module", params=["teleavatar", "teleavatar_v1", "teleavatar_v2"])
def robot(request):
    return RobotProfile.load(request.param)


@pytest.fixture(scope="module")
def messages(robot):
    """Joints at 150 Hz: every frame's time is also a joint message's, so both paths can be compared to the last bit."""
    made = joints(SECONDS, state_hz=150)
    if robot.stream:
        return made + [replace(m, topic=robot.stream.topic) for m in packets(SECONDS, size=(272, 128))]
    if robot.name == "teleavatar_v1":
        for key, camera in robot.cameras.items():
            sent = packets(SECONDS, camera=key, size=(64, 128) if camera.eye else (48, 64))
            made += [replace(message, topic=camera.topic) for message in sent]
        return made
    made += pictures(SECONDS, kind=IMAGE)
    rng = np.random.default_rng(0)
    for i, message in enumerate(m for m in made if m.type == IMAGE):
        picture = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        if i % 2:  # another encoding, with padded rows
            padded = np.zeros((48, 200), np.uint8)
            padded[:, :192] = picture[..., ::-1].reshape(48, 192)
            message.fields |= {"encoding": "bgr8", "step": 200, "data": padded.ravel()}
        else:
            message.fields |= {"data": picture.ravel()}
    return made


def live_frames(robot, messages):
    """What the node's own table of inputs and its inference thread make of the messages, one frame per picture."""
    rclpy = pytest.importorskip("rclpy")
    from rclpy.serialization import deserialize_message

    from pi05_progress_ros.cameras.message_class import message_class
    from pi05_progress_ros.cameras.packets import PacketStream
    from pi05_progress_ros.inputs import Inputs, Limits
    from pi05_progress_ros.node.inference import InferenceLoop

    assert rclpy
    inputs = Inputs(Limits(image_age_s=60, joint_age_s=60, skew_s=1, past_s=60, future_s=0))
    names = {camera.topic: key for key, camera in robot.cameras.items() if camera.topic}
    for side in PROFILE.arms:
        names[PROFILE.arms[side].state_topic] = f"{side}_arm"
        names[PROFILE.grippers[side].state_topic] = f"{side}_gripper"
    for name in (*names.values(), *(robot.cameras if robot.stream else ())):
        inputs.add(name, name, image=name in TOPICS, required=True)
    policy, clock = Watching(), SimpleNamespace(now=START)
    said = []
    logger = SimpleNamespace(error=said.append, warning=said.append, info=said.append, debug=said.append)
    streams = {
        key: PacketStream(key, camera.topic, inputs, lambda: None, logger)
        for key, camera in robot.cameras.items()
        if camera.type == PACKET_TYPE
    }
    if robot.stream:
        names[robot.stream.topic] = "stream"
        tiles = {key: robot.stream.tiles[camera.tile] for key, camera in robot.cameras.items()}
        streams["stream"] = PacketStream("stream", "", inputs, lambda: None, logger, tiles)
    loop = InferenceLoop(
        policy, robot, 1000.0, snapshot=lambda: inputs.snapshot(clock.now), task=lambda: "stack",
        generation=lambda: 0, episode=lambda: None,
        publish=lambda result: None, failed=said.append, logger=logger,
    )  # fmt: skip
    loop.start()
    pushed = Counter()
    try:
        known = sorted((m for m in messages if m.topic in names), key=lambda m: m.stamp)
        for count, (stamp, group) in enumerate(itertools.groupby(known, key=lambda m: m.stamp)):
            group = list(group)
            for m in group:
                name, message = names[m.topic], deserialize_message(bytes(serialised(m)), message_class(m.type))
                if m.type == PACKET_TYPE:
                    pushed.update(list(robot.cameras) if robot.stream else [name])
                    streams[name].push(message, stamp)
                else:
                    inputs.store(name, message, stamp)
            wait_for(lambda: {i.name: i.facts["pictures"] for i in inputs.state() if i.facts} == pushed)
            wanted, deadline = len(policy.frames) + 1, time.monotonic() + PATIENCE_S
            clock.now = stamp  # until then what has come lies in the future, and is not looked at by halves
            if any(m.type in (IMAGE, PACKET_TYPE) for m in group):
                while len(policy.frames) < wanted:  # the loop passes over what arrives while it paces itself
                    assert time.monotonic() < deadline, (count, said)
                    loop.frame_arrived()
                    with policy.asked:
                        policy.asked.wait_for(lambda n=wanted: len(policy.frames) >= n, 0.05)
    finally:
        loop.stop()
        for stream in streams.values():
            stream.close()
    return policy.frames


def test_the_live_nodes_path_and_the_converter_make_the_same_frames(tmp_path, robot, messages, monkeypatch):
    from training.bags import second_pass as conversion

    encoded = {}

    class Kept(conversion.VideoFile):
        def write(self, image):
            encoded.setdefault(self.path.stem, []).append(image.copy())
            super().write(image)

    monkeypatch.setattr(conversion, "VideoFile", Kept)
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages), robot=robot.name, vector_size=48)
    assert run.status == 0, run.text
    live = live_frames(robot, messages)
    assert len(live) == len(run.column("index")) == 30
    assert np.array_equal(np.stack([frame.state for frame in live]), run.column("observation.state"))
    for camera in TOPICS:
        assert all(np.array_equal(a.images[camera], b) for a, b in zip(live, encoded[camera], strict=True)), camera
        stamps = [frame.stamps_ns[camera] for frame in live]
        assert stamps == [START + round(i * 1e9 / 30) for i in range(30)]
    assert set(PROFILE.joint_parts()) <= set(live[0].stamps_ns)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """An episode of the simulated expert as the generator records it, with numbered pictures; and the log."""
    pytest.importorskip("mujoco")
    pytest.importorskip("rclpy")
    from sensor_msgs.msg import CompressedImage

    from pi05_progress.robots.message_store import message_store
    from pi05_progress_ros.sim.episodes.generation import EpisodeBag, follow
    from pi05_progress_ros.sim.expert.operator import Operator
    from pi05_progress_ros.sim.physics.world import World
    from pi05_progress_ros.sim.robot.robot import Robot
    from pi05_progress_ros.sim.robot.states import IMAGE_HZ, StatePublisher, Truth, is_due, to_time

    world = World("place_in_basket", 0)
    world.reset(0)
    robot = Robot(world)
    path = tmp_path_factory.mktemp("simulated") / "bag"
    log = {"time": [], "state": [], "command_time": [], "command": [], "image_time": []}
    with EpisodeBag(path, message_store()) as bag:
        states, truth = StatePublisher(bag, robot, PROFILE), Truth(bag, robot, "/episode_event", START)
        operator = Operator(bag, world, PROFILE)
        cameras = {key: bag.create_publisher(CompressedImage, c.compressed_topic) for key, c in PROFILE.cameras.items()}
        tick, over = 0, False
        while not over:
            robot.advance()
            bag.time_ns = START + robot.stamp_ns(world.time_s)
            states.publish(tick, to_time(bag.time_ns), Mode.TELEOPERATION)
            log["time"].append(bag.time_ns)
            log["state"].append(np.concatenate([world.arm_state(side).position for side in PROFILE.arms]))
            if is_due(tick, IMAGE_HZ):
                truth.publish()
                message = CompressedImage(format="rgb8; png compressed bgr8")
                message.header.stamp = to_time(bag.time_ns)
                message.data = _png(numbered(len(log["image_time"])))
                for publisher in cameras.values():
                    publisher.publish(message)
                log["image_time"].append(bag.time_ns)
            if tick % 2 == 0:
                over = operator.publish(to_time(bag.time_ns))
                log["command_time"].append(bag.time_ns)
                log["command"].append(np.concatenate([getattr(operator.command, side) for side in PROFILE.arms]))
                follow(robot, operator)
            tick += 1
        truth.end_episode()
        milestones = [(m.name, START + robot.stamp_ns(m.time_s)) for m in world.task_status().milestones]
    return path, {key: np.array(value) for key, value in log.items()}, milestones


def _png(image):
    import cv2

    return cv2.imencode(".png", image)[1].tobytes()


def test_simulated_episodes_match_the_simulators_log(tmp_path, simulated):
    bag, log, milestones = simulated
    run = convert(tmp_path / "ds", bag, task=None)
    assert run.status == 0, run.text
    (episode,) = run.report["episodes"]
    start = episode["parts"][0]["start_ns"]
    frames = start + np.round(run.column("frame_index") * 1e9 / 30)
    assert abs(start - START) < 50e6 and len(frames) > 200
    arms = np.r_[0:7, 8:15]
    expected = np.stack([np.interp(frames, log["time"], column) for column in log["state"].T], axis=1)
    assert np.abs(run.column("observation.state")[:, arms] - expected).max() < 1e-4
    nearest = np.abs(frames[:, None] - log["image_time"][None]).argmin(1)
    for camera in TOPICS:
        assert run.numbers(camera) == nearest.tolist()
    in_force = np.searchsorted(log["command_time"], frames, side="right") - 1
    assert np.array_equal(run.column("action")[:, arms], log["command"][in_force].astype(np.float32))
    made = [(m["label"], m["frame"]) for m in run.progress["episodes"][0]["milestones"]]
    assert [name for name, _ in made] == [name for name, _ in milestones]
    for (_, frame), (_, stamp) in zip(made, milestones, strict=True):
        assert frames[frame] >= stamp and (frame == 0 or frames[frame - 1] < stamp)
    assert run.progress["episodes"][0]["outcome"] == "SUCCESS"
