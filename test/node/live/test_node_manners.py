"""How the policy node behaves towards people: it ends when told to, and says what it does under the names in use."""

import os
import signal
import time

import pytest
from conftest import PATIENCE_S, keeps_promise, wait_for
from fake_robot import NODE, PROFILE, FakeRobot, start_node
from node_policies import WAIT_FOR
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image

ENDS_WITHIN_S = 2.0
LATE_SIGNAL = """
import os, signal
from pi05_progress_ros.ros_session import ros_session

class Last:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT, write=os.write):
        write(1, b"Python ends")
        kill(process, number)

last = Last()
with ros_session():
    pass
"""


def seconds_to_end(process):
    began_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE_S)
    return time.monotonic() - began_s


def test_told_to_end_while_a_policy_is_loaded_it_ends_at_once(start):
    nodes = []

    def attempt():
        nodes.append(start_node(start, policy="node_policies:never_ready"))
        wait_for(lambda: "loading policy node_policies:never_ready" in nodes[-1].log(), what="the step")
        return seconds_to_end(nodes[-1])

    keeps_promise(ENDS_WITHIN_S, attempt, lambda: None)
    assert nodes[-1].returncode == 0
    assert "stopped while loading policy" in nodes[-1].log() and "Traceback" not in nodes[-1].log()


def test_a_second_signal_while_python_ends_is_no_death(start, tmp_path):
    """`ros2 launch` sends one after a terminal's Ctrl-C, and would report a process that has died."""
    (tmp_path / "late_signal.py").write_text(LATE_SIGNAL, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    program = start("late_signal", PYTHONPATH=path)
    assert (program.wait(PATIENCE_S), program.log()) == (0, "Python ends")


def test_told_to_end_while_it_is_imported_it_ends_without_a_traceback(start, tmp_path):
    (tmp_path / "pydantic.py").write_text("import time\nprint('importing\\n', end='', flush=True)\ntime.sleep(300)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    node = start(NODE, PYTHONPATH=path)
    wait_for(lambda: "importing" in node.log(), what="the import")
    node.send_signal(signal.SIGINT)
    assert node.wait(PATIENCE_S) != 0
    assert node.log().splitlines()[-1] == "stopped"


def test_told_to_end_while_the_policy_does_not_answer_it_ends_at_once(start, ros, tmp_path):
    def attempt():
        node = start_node(start, prompt=f"{WAIT_FOR}{tmp_path / 'never'}")
        robot = FakeRobot(ros, node)
        robot.until(lambda: "the policy has been busy for more than 1 s" in node.log(), "a policy at work")
        return seconds_to_end(node)

    keeps_promise(ENDS_WITHIN_S, attempt, lambda: None)


def test_topics_are_named_as_they_are_after_remapping_and_their_qos_is_as_asked(start, ros):
    head = PROFILE.cameras["head_camera"].topic
    overrides = {
        "qos_overrides./other/image.subscription.reliability": "reliable",
        "qos_overrides./action_chunk.publisher.durability": "transient_local",
        "qos_overrides./nowhere.publisher.depth": 5,
    }
    node = start_node(start, f"{head}:=/other/image", prompt="swing", **overrides)
    robot = FakeRobot(ros, node)
    robot.until(lambda: "head_camera (/other/image): no message yet" in node.log(), "the topic's own name")
    assert head not in node.log()
    assert "no effect have qos_overrides./nowhere.publisher.depth; known are /action_chunk.publisher, " in node.log()
    reader = robot.node.get_subscriptions_info_by_topic("/other/image")[0].qos_profile
    assert reader.reliability == ReliabilityPolicy.RELIABLE
    writer = robot.node.get_publishers_info_by_topic("/action_chunk")[0].qos_profile
    assert writer.durability == DurabilityPolicy.TRANSIENT_LOCAL
    wrong = (
        (CompressedImage, 1, "/fake_robot publishes sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image"),
        (Image, qos_profile_sensor_data, "/fake_robot: ERROR: Best effort publisher and reliable subscription"),
    )
    for kind, qos, told in wrong:
        publisher = robot.node.create_publisher(kind, "/other/image", qos)
        robot.until(lambda told=told: told in node.log(), told)
        robot.node.destroy_publisher(publisher)
    robot.images["head_camera"] = robot.node.create_publisher(Image, "/other/image", 1)
    robot.until(robot.good, "progress")
    robot.until(lambda: robot.diagnostics, "diagnostics")
    assert {status.hardware_id for status in robot.diagnostics[-1].status} == {PROFILE.name}


@pytest.mark.long
def test_a_wrong_qos_is_told_in_one_line(start):
    node = start_node(start, **{"qos_overrides./head/image_raw.subscription.reliability": "perhaps"})
    assert node.wait(PATIENCE_S) == 1
    assert "see its parameters qos_overrides./head/image_raw.*: Unexpected QoS override" in node.log()
    assert "Traceback" not in node.log()


def test_inputs_that_flicker_are_told_of_once(start, ros):
    node = start_node(start, prompt="swing")
    robot = FakeRobot(ros, node)
    robot.until(robot.good, "progress")
    for turn in range(16):
        robot.offset_s = 7.0 if turn % 2 == 0 else 0.0
        robot.forget()
        robot.until(robot.good if turn % 2 else robot.unknown, "a change")
    told = [line for line in node.log().splitlines() if "progress unknown" in line or "known again" in line]
    assert len(told) <= 8, told  # at most once for each of seven inputs, and of their skew
