"""The policy node over DDS, in front of a made-up robot that can be given any fault."""

import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_for
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32, String

from pi05_progress.robots.profile import SIDES, RobotProfile
from pi05_progress_msgs.msg import ActionChunk, TaskProgress

NODE = "pi05_progress_ros.policy_node"
PROFILE = RobotProfile.load("teleavatar")
HERE = str(Path(__file__).parent)


def parameters(**values):
    return ["--ros-args", *(a for key, value in values.items() for a in ("-p", f"{key}:={value}"))]


class FakeRobot:
    """Publishes whatever ``images`` and ``joints`` say; the node's answers are collected."""

    def __init__(self, ros):
        self.ros, self.node = ros, ros.create_node("fake_robot")
        self.size, self.encoding, self.offset_s, self.frozen = (64, 48), "rgb8", 0.0, set()
        self.silent = set()
        self.change = lambda side, message: message
        cameras = PROFILE.cameras
        create = self.node.create_publisher
        self.images = {k: create(Image, c.topic, qos_profile_sensor_data) for k, c in cameras.items()}
        self.arms = {s: create(JointState, PROFILE.arms[s].state_topic, 10) for s in SIDES}
        self.stamps = {}
        self.progress, self.chunks, self.commands, self.diagnostics, self.percent = [], [], [], [], []
        subscribe = self.node.create_subscription
        subscribe(TaskProgress, "/task_progress", self.progress.append, 50)
        subscribe(Float32, "/task_progress/percent", self.percent.append, 50)
        subscribe(ActionChunk, "/action_chunk", self.chunks.append, 50)
        subscribe(DiagnosticArray, "/diagnostics", self.diagnostics.append, 50)
        for side in SIDES:
            subscribe(JointState, PROFILE.arms[side].target_topic, self.commands.append, 50)
        subscribe(Float32, PROFILE.enable_topic, self.commands.append, 50)
        self.next_image = self.next_joint = 0.0
        self.process = None

    def spin(self, _=None):
        now = time.monotonic()
        if now >= self.next_joint:
            self.next_joint = now + 0.01
            for side in SIDES:
                if f"{side}_arm" not in self.silent:
                    middle = PROFILE.arms[side].limits().mean(axis=1)
                    message = JointState(name=list(PROFILE.arms[side].joints), position=middle.tolist())
                    message.header.stamp = self.stamp(f"{side}_arm")
                    message = self.change(side, message)
                    self.arms[side].publish(message)
        if now >= self.next_image:
            self.next_image = now + 1 / 30
            for key, publisher in self.images.items():
                if key not in self.silent:
                    width, height = self.size
                    message = Image(width=width, height=height, step=3 * width, encoding=self.encoding)
                    message.data = bytes(3 * width * height)
                    message.header.stamp = self.stamp(key)
                    publisher.publish(message)
        self.ros.spin_once(self.node, timeout_sec=0.003)

    def stamp(self, name):
        if name not in self.frozen or name not in self.stamps:
            nanoseconds = self.node.get_clock().now().nanoseconds + round(self.offset_s * 1e9)
            from rclpy.time import Time

            self.stamps[name] = Time(nanoseconds=nanoseconds).to_msg()
        return self.stamps[name]

    def run(self, seconds):
        """Go on for a while and forget what came before."""
        for collected in (self.progress, self.chunks, self.commands, self.diagnostics):
            collected.clear()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.spin()

    def until(self, condition, what, timeout_s=30.0):
        def met():
            assert self.process is None or self.process.poll() is None, self.process.log()
            return condition()

        wait_for(met, timeout_s, self.spin, what)

    def good(self):
        return bool(self.progress) and math.isfinite(self.progress[-1].progress_raw)

    def unknown(self):
        return bool(self.progress) and math.isnan(self.progress[-1].progress_raw) and self.progress[-1].status == 0


@pytest.fixture
def launch(start, ros):
    """A node with a policy of test/node_policies.py, and the robot in front of it once it works."""

    def run(policy="still", wait=True, **values):
        given = {"policy": f"node_policies:{policy}", "prompt": "stack", **values}
        path = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])
        node = start(NODE, *parameters(**given), PYTHONPATH=path)
        robot = FakeRobot(ros)
        robot.process = node
        if wait:
            robot.until(robot.good, "progress")
        return node, robot

    return run


def test_the_tiny_model_publishes_raw_progress_marked_untrained(start, ros):
    start(NODE, *parameters(prompt="stack the cubes"))
    robot = FakeRobot(ros)
    robot.until(lambda: robot.good() and robot.chunks, "progress of the model", 120)
    message = robot.progress[-1]
    assert 0 <= message.progress_raw <= 1
    assert math.isnan(message.progress)
    assert (message.status, message.model_id, message.task) == (TaskProgress.UNKNOWN, "untrained", "stack the cubes")
    assert message.inference_ms > 0
    chunk = robot.chunks[-1]
    assert chunk.names == PROFILE.joint_names()
    assert (chunk.horizon, len(chunk.values), chunk.units[7]) == (30, 480, "N m")
    assert np.isfinite(chunk.values).all()


def test_progress_is_filtered_and_published_as_percent_too(launch):
    _, robot = launch("rising")
    robot.until(lambda: robot.progress[-1].status == TaskProgress.ADVANCING, "ADVANCING")
    message = robot.progress[-1]
    assert message.lower <= message.progress <= message.upper
    assert message.rate > 0
    assert message.time_remaining_valid
    robot.until(lambda: robot.percent, "percent")
    assert 0 <= robot.percent[-1].data <= 100
    robot.until(lambda: robot.progress[-1].status == TaskProgress.SUCCEEDED, "SUCCEEDED")


def test_stamps_are_those_of_the_newest_image_and_every_inference_is_new(launch):
    _, robot = launch()
    robot.run(2.0)
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in robot.progress]
    assert 10 <= len(stamps) <= 25
    assert (np.diff(stamps) > 0).all()
    assert all(m.observation_age_ms < 500 for m in robot.progress)
    ids = [c.chunk_id for c in robot.chunks]
    assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_the_task_can_be_changed_while_running(launch):
    _, robot = launch("rising")
    task = robot.node.create_publisher(String, "/policy_node/set_task", 10)
    wait_for(lambda: task.get_subscription_count(), 10, robot.spin, "the subscription")
    task.publish(String(data="unstack"))
    robot.until(lambda: robot.progress[-1].task == "unstack", "the new task")


def test_nothing_is_commanded_unless_asked_for(launch):
    _, robot = launch("swinging")
    robot.run(1.0)
    assert robot.commands == []


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"silent": {"head_camera"}}, "head_camera (/head/image_raw): nothing for more than 0.5 s"),
        ({"silent": {"left_arm"}}, "left_arm (/left_arm/joint_states): nothing for more than 0.2 s"),
        ({"frozen": {"left_color"}}, "left_color (/left/color/image_raw): frozen"),
        ({"encoding": "purple8"}, "cannot decode 'purple8'"),
        ({"size": (0, 0)}, "the image is empty"),
        ({"offset_s": 7.0}, "stamp lies 7.0 s in the future"),
        ({"offset_s": -7.0}, "stamp lies 7.0 s in the past"),
        ({"change": "nan"}, "position of l_joint1 is not finite"),
        ({"change": "few"}, "joints l_joint7 are missing"),
        ({"change": "renamed"}, "joints l_joint1, l_joint2"),
    ],
    ids=str,
)
def test_faults_are_unknown_within_a_second_named_uncommanded_and_recovered_from(launch, fault, text):
    node, robot = launch("swinging", publish_commands="true")
    robot.until(lambda: any(isinstance(m, JointState) for m in robot.commands), "commands")
    changes = {
        "nan": lambda side, m: _with(m, position=[math.nan] * 7),
        "few": lambda side, m: _with(m, name=m.name[:6], position=m.position[:6]),
        "renamed": lambda side, m: _with(m, name=[f"joint_{i}" for i in range(7)]),
    }
    healthy = {key: getattr(robot, key) for key in fault}
    for key, value in fault.items():
        setattr(robot, key, changes[value] if key == "change" else value)
    started = time.monotonic()
    robot.until(robot.unknown, "UNKNOWN", 5)
    assert time.monotonic() - started < 2.0
    robot.run(1.0)
    robot.run(1.5)
    assert 1 <= len(robot.progress) <= 3, "a heartbeat at 1 Hz"
    assert all(m.status == 0 and math.isnan(m.progress) for m in robot.progress)
    assert [m for m in robot.commands if isinstance(m, JointState)] == []
    assert [m.data for m in robot.commands if isinstance(m, Float32) and m.data > 0] == []
    assert text in node.log()
    assert any(text in s.message for array in robot.diagnostics for s in array.status)
    for key, value in healthy.items():
        setattr(robot, key, value)
    robot.until(robot.good, "recovery", 10)


def _with(message, **fields):
    for key, value in fields.items():
        setattr(message, key, value)
    return message


def test_reordered_joints_and_other_resolutions_are_no_fault(launch):
    _, robot = launch()
    robot.change = lambda side, m: _with(m, name=list(m.name)[::-1], position=list(m.position)[::-1])
    robot.size = (200, 100)
    robot.run(1.5)
    assert len(robot.progress) > 5
    assert all(math.isfinite(m.progress_raw) for m in robot.progress)


def test_a_camera_that_was_never_there_is_named(launch):
    node, robot = launch(wait=False)
    robot.silent = {"right_color"}
    robot.until(robot.unknown, "UNKNOWN")
    assert "right_color (/right/color/image_raw): no message yet" in node.log()


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ("raising", "the policy failed: RuntimeError('the device is gone')"),
        ("nan_progress", "the policy's progress is nan"),
    ],
)
def test_a_failing_policy_is_unknown_and_named(launch, policy, text):
    node, robot = launch(policy, wait=False, publish_commands="true")
    robot.until(lambda: text in node.log(), "the message")
    robot.run(2.5)
    assert robot.progress
    assert all(m.status == 0 and math.isnan(m.progress_raw) for m in robot.progress)
    assert [m for m in robot.commands if isinstance(m, JointState)] == []
    assert node.poll() is None


def test_actions_that_are_not_finite_stop_the_robot(launch):
    node, robot = launch("nan_actions", publish_commands="true")
    robot.until(lambda: any(isinstance(m, JointState) for m in robot.commands), "commands")
    robot.until(lambda: "the policy's actions are not finite" in node.log(), "the message")
    robot.run(1.0)
    assert [m for m in robot.commands if isinstance(m, JointState)] == []


def test_a_policy_that_takes_ten_seconds_is_reported_meanwhile(launch):
    node, robot = launch("slow", wait=False)
    robot.until(lambda: "the policy has been busy for more than a second" in node.log(), "the message")
    robot.run(3.0)
    assert 2 <= len(robot.progress) <= 4
    assert all(m.status == 0 for m in robot.progress)
    robot.until(robot.good, "recovery", 15)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"robot": "nobody"}, "unknown robot profile 'nobody'"),
        ({"checkpoint": "/nowhere"}, "/nowhere: no such folder; a checkpoint is a folder with config.json"),
        ({"model": "huge"}, "unknown model configuration 'huge'; known: pi05, pi05_lora, tiny, mid"),
        ({"policy": "nothing"}, "policy 'nothing': expected pi05 or module:function"),
        ({"max_joint_speed": 99.0}, "max_joint_speed: 99.0 is refused, expected float between 0.01 and 3"),
        ({"promt": "stack"}, "unknown parameter promt; known: autostart, "),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused_with_the_reason(start, values, text):
    node = start(NODE, *parameters(**values))
    assert node.wait(30) == 1
    assert text in node.log()
