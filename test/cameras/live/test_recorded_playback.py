"""A recording that is played back into the node gives the progress that its conversion gives, for the same policy."""

import itertools
import math
from collections import defaultdict

import pytest
from conftest import wait_for
from convert_results import convert
from diagnostic_msgs.msg import DiagnosticArray
from fake_robot import start_node
from node_policies import fingerprint
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from rosgraph_msgs.msg import Clock

from pi05_progress.estimate.estimator import ProgressEstimator
from pi05_progress.observation import RobotFrame
from pi05_progress.robots.message_store import message_store
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.msg import TaskProgress
from pi05_progress_ros.cameras.message_class import message_class
from pi05_progress_ros.sim.episodes.generation import EpisodeMaker, GenerationOptions
from training.bags import second_pass as conversion

PROFILE, RATE_HZ, ANSWERS, FRAME_S = RobotProfile.load("teleavatar_v1"), 20, 30, 5.0


@pytest.fixture
def recording(tmp_path):
    """The bag of a short episode, whose joint states and pictures are of the same times."""
    options = GenerationOptions(
        "lift_cube", tmp_path / "bags", image_scale=0.05, picture_rate=RATE_HZ, joint_rate=RATE_HZ,
        profile=PROFILE.name, fault=("gives_up:0",),
    )  # fmt: skip
    maker = EpisodeMaker(options)
    maker.make(0)
    maker.close()
    return options.bag(0)


def converted(bag, folder, monkeypatch):
    """By stamp what the policy says of the frames of a conversion, as they are before their video is coded anew."""
    pictures = defaultdict(list)

    class Kept(conversion.VideoFile):
        def write(self, image):
            pictures[self.path.stem].append(image.copy())
            super().write(image)

    monkeypatch.setattr(conversion, "VideoFile", Kept)
    run = convert(folder / "ds", bag, fps=RATE_HZ, robot=PROFILE.name, vector_size=48, task=None)
    (episode,) = run.report["episodes"]
    (part,) = episode["parts"]
    policy, states, found = fingerprint(PROFILE), run.column("observation.state"), {}
    for number, state in enumerate(states):
        frame = RobotFrame({key: pictures[key][number] for key in PROFILE.cameras}, state)
        found[part["start_ns"] + number * 10**9 // RATE_HZ] = policy.infer(frame, episode["task"])
    return found, episode["task"]


def played(bag):
    """Topics, classes and messages of the node's inputs, grouped by the time at which they were recorded."""
    joints = [part.state_topic for part in PROFILE.joint_parts().values()]
    order = {topic: n for n, topic in enumerate([*joints, *(camera.topic for camera in PROFILE.cameras.values())])}
    with AnyReader([bag], default_typestore=message_store()) as reader:
        for time_ns, group in itertools.groupby(
            reader.messages(c for c in reader.connections if c.topic in order), key=lambda item: item[1]
        ):
            sent = [(c.topic, deserialize_message(data, message_class(c.msgtype))) for c, _, data in group]
            sent.sort(key=lambda pair: order[pair[0]])
            yield time_ns, sent[: len(joints)], sent[len(joints) :]


def test_a_recorded_bag_of_v1_gives_the_progress_of_its_conversion(start, ros, recording, tmp_path, monkeypatch):
    expected, task = converted(recording, tmp_path, monkeypatch)
    player, heard, inputs, publishers = ros.create_node("player"), {}, {}, {}
    clock = player.create_publisher(Clock, "/clock", 10)

    def hear(message):
        if math.isfinite(message.progress_raw):
            heard[message.header.stamp.sec * 10**9 + message.header.stamp.nanosec] = message

    player.create_subscription(TaskProgress, "/task_progress", hear, 50)
    player.create_subscription(
        DiagnosticArray, "/diagnostics", lambda array: inputs.update({s.name: s for s in array.status}), 10
    )
    groups = list(played(recording))
    for topic, message in groups[0][1] + groups[0][2]:
        publishers[topic] = player.create_publisher(type(message), topic, 50)
    # Only what is of the same time is used together; how slow this machine is does not matter.
    node = start_node(
        start, policy="node_policies:fingerprint", prompt=task, robot=PROFILE.name, use_sim_time="true",
        skew_limit_s=0.01, image_timeout_s=10.0, joint_timeout_s=10.0, stamp_past_limit_s=60.0, inference_rate_hz=100.0,
    )  # fmt: skip

    def at(time_ns, joints=()):
        """One round in which the clock shows this time; joints go out again, as some may be lost."""
        assert node.poll() is None, node.log()
        now = Clock()
        now.clock.sec, now.clock.nanosec = divmod(time_ns, 10**9)
        clock.publish(now)
        for topic, message in joints:
            publishers[topic].publish(message)
        ros.spin_once(player, timeout_sec=0.02)

    def known():
        values = {name: {v.key: v.value for v in status.values} for name, status in inputs.items()}
        return all(
            int(values.get(f"policy_node: input {name}", {}).get("messages", 0)) > 0 for name in PROFILE.joint_parts()
        )

    begin, joints, _ = groups[0]
    matched = lambda: all(publisher.get_subscription_count() for publisher in publishers.values())  # noqa: E731
    wait_for(lambda: matched() and known(), lambda: at(begin, joints), "a node that hears everything")
    for time_ns, joints, pictures in groups:
        if len(heard) >= ANSWERS:
            break
        for _ in range(3):
            at(time_ns, joints)
        for topic, packet in pictures:
            publishers[topic].publish(packet)
        try:  # a node that had no time to look at a frame looks at the next one
            wait_for(lambda t=time_ns: t in heard, lambda t=time_ns: at(t), timeout_s=FRAME_S)
        except AssertionError:
            continue
    assert len(heard) >= ANSWERS // 2, node.log()
    estimator = ProgressEstimator()
    for stamp_ns, message in sorted(heard.items()):
        assert message.progress_raw == pytest.approx(expected[stamp_ns].progress, abs=1e-6), stamp_ns
        estimate = estimator.update(stamp_ns * 1e-9, expected[stamp_ns], task)
        assert message.progress == pytest.approx(estimate.progress, abs=1e-6), stamp_ns
