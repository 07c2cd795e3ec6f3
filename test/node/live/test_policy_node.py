"""The policy node over DDS: what it publishes, what it refuses, how it ends."""

import math
import signal
import time

import numpy as np
import pytest
from conftest import PATIENCE_S
from fake_robot import NODE, PROFILE, FakeRobot, parameters, stamp_s, start_node
from rosgraph_msgs.msg import Clock

from pi05_progress_msgs.msg import TaskProgress


@pytest.fixture
def launch(start, ros):
    """A node and the robot in front of it, once progress comes."""

    def run(prompt="swing", **values):
        node = start_node(start, prompt=prompt, **values)
        robot = FakeRobot(ros, node)
        robot.until(robot.good, "progress")
        return node, robot

    return run


def test_the_tiny_model_publishes_raw_progress_marked_untrained_and_commands_nothing(start, ros):
    node = start(NODE, *parameters(prompt="stack the cubes", publish_commands="true"))
    robot = FakeRobot(ros, node)
    robot.until(lambda: robot.good() and robot.chunks, "progress of the model")
    message = robot.progress[-1]
    assert 0 <= message.progress_raw <= 1
    assert math.isnan(message.progress)
    assert (message.status, message.model_id, message.task) == (TaskProgress.UNKNOWN, "untrained", "stack the cubes")
    assert message.inference_ms > 0
    chunk = robot.chunks[-1]
    assert chunk.names == list(PROFILE.layout.joints)
    assert (chunk.horizon, len(chunk.values), chunk.units[7]) == (30, 480, "N m")
    assert np.isfinite(chunk.values).all()
    robot.until(lambda: robot.refused("the model is untrained, its actions mean nothing"), "the reason")
    assert (robot.targets, robot.enables) == ([], [])


def test_progress_is_filtered_stamped_and_published_as_percent_and_the_task_can_change(launch):
    node, robot = launch("rise")
    robot.until(lambda: robot.progress[-1].time_remaining_valid, "progress that rises")
    message = robot.progress[-1]
    assert message.status == TaskProgress.ADVANCING
    assert message.lower <= message.progress <= message.upper
    assert message.rate > 0
    robot.forget()

    def estimates():
        return [m for m in robot.progress if math.isfinite(m.progress_raw)]

    robot.until(lambda: len(estimates()) >= 15, "estimates")
    stamps = [stamp_s(m) for m in estimates()]
    assert (np.diff(stamps) > 0).all()
    assert (len(stamps) - 1) / (stamps[-1] - stamps[0]) < 12, "10 Hz are asked for at most"
    assert all(0 < m.observation_age_ms < 1000 for m in estimates()), "of images of at most half a second"
    ids = [c.chunk_id for c in robot.chunks]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert all(0 <= m.data <= 100 for m in robot.percent)
    assert (robot.targets, robot.grippers, robot.enables) == ([], [], []), "not asked for"
    robot.until(lambda: robot.progress[-1].status == TaskProgress.SUCCEEDED, "SUCCEEDED")
    robot.set_task("swing")
    robot.until(lambda: robot.good() and robot.progress[-1].task == "swing", "the new task")
    assert robot.progress[-1].status != TaskProgress.SUCCEEDED
    assert robot.progress[-1].progress < 0.6, "nothing is kept of the task before"
    assert not robot.set_parameter("robot", "teleavatar_v2"), "read-only"
    node.send_signal(signal.SIGTERM)
    assert node.wait(PATIENCE_S) == 0


def test_without_a_task_progress_is_unknown_and_a_missing_camera_is_named(start, ros):
    node = start_node(start)
    robot = FakeRobot(ros, node)
    robot.silent = {"right_color"}
    robot.until(lambda: "right_color (/right/color/image_raw): no message yet" in node.log(), "the camera's name")
    robot.heal()
    robot.until(lambda: "progress unknown: no task is set: set the parameter prompt" in node.log(), "the reason")
    robot.until(robot.unknown, "UNKNOWN")


def test_a_clock_that_jumps_back_starts_anew(start, ros):
    node = start_node(start, prompt="rise", use_sim_time="true")
    robot = FakeRobot(ros, node)
    clock = robot.node.create_publisher(Clock, "/clock", 10)
    began, plain = time.time(), robot.spin

    def spin(_=None):
        message = Clock()
        seconds = time.time() + robot.offset_s
        message.clock.sec, message.clock.nanosec = int(seconds), int(seconds % 1 * 1e9)
        clock.publish(message)
        plain()

    robot.spin = spin
    robot.until(lambda: robot.good() and robot.progress[-1].progress > 0.2, "progress")
    robot.offset_s = -1000.0
    robot.until(lambda: "the clock jumped back: starting anew" in node.log(), "the message")
    robot.until(lambda: robot.good() and robot.progress[-1].header.stamp.sec < began - 900, "new progress")
    robot.until(lambda: robot.progress[-1].status == TaskProgress.ADVANCING, "an estimate made anew")


WRONG_PARAMETERS = [
    ({"checkpoint": "/nowhere"}, "/nowhere: no such folder; a checkpoint is a folder with config.json"),
    (
        {"policy": "websocket", "server_uri": "ws://127.0.0.1:9"},
        "cannot configure: no policy server at ws://127.0.0.1:9: Connection refused; is it running",
    ),
    ({"max_joint_speed": 99.0}, "max_joint_speed: 99.0 is refused, expected float between 0.01 and 3"),
    ({"promt": "stack"}, "unknown parameter promt; known: autostart, "),
]
WRONG_NAMES = [
    ({"robot": "nobody"}, "unknown robot profile 'nobody'"),
    ({"model": "huge"}, "unknown model configuration 'huge'; known: pi05, pi05_lora, tiny, mid"),
    ({"policy": "nothing"}, "policy 'nothing': expected pi05, websocket or module:function"),
    ({"policy": "websocket"}, "server_uri is empty; policy websocket needs it, such as ws://"),
]


@pytest.mark.parametrize(
    "wrong", [WRONG_PARAMETERS, pytest.param(WRONG_NAMES, marks=pytest.mark.long)], ids=["values", "names"]
)
def test_wrong_parameters_are_refused_with_the_reason(start, wrong):
    nodes = [(start(NODE, *parameters(**values)), text) for values, text in wrong]
    for node, text in nodes:
        assert node.wait(PATIENCE_S) == 1
        assert text in node.log()
