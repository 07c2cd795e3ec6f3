"""The policy node, commanding, against every fault of sensors, policy and robot: what it says, that it holds still."""

import math
import signal
import time

import numpy as np
import pytest
from conftest import initialised_ros, processes
from fake_robot import PROFILE, FakeRobot, start_node, with_fields
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_msgs.msg import Float32

from pi05_progress.robots.profile import SIDES
from pi05_progress_msgs.msg import TaskProgress


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One node and one robot for all tests here."""
    with initialised_ros() as ros, processes(tmp_path_factory.mktemp("faults")) as start:
        node = start_node(start, prompt="swing", publish_commands="true")
        yield node, FakeRobot(ros, node), start


@pytest.fixture
def bench(shared):
    """The node and the robot, moving, without a fault; ``said`` is what the node has logged since."""
    node, robot, _ = shared
    robot.heal()
    if robot.progress and robot.progress[-1].task != "swing":
        robot.set_task("swing")
    robot.set_parameter("publish_commands", True)
    robot.until(lambda: robot.good() and robot.moved() and robot.statuses().get("commands") == "commanding", "motion")
    before = len(node.log())
    node.said = lambda: node.log()[before:]
    return node, robot


def held(robot, seconds=1.0, pose=True):
    """The robot was paused where it was measured (if that is known), and nothing is commanded after that."""
    robot.run(0.2)
    assert robot.last_enable == 0.0
    assert not pose or robot.last_is_measured == {"left": True, "right": True}
    robot.run(seconds)
    assert robot.targets == []
    assert robot.grippers == []
    assert [value for _, value in robot.enables if value > 0] == []


SENSOR_FAULTS = [
    ({"silent": {"head_camera"}}, "head_camera (/head/image_raw): nothing for more than 0.5 s"),
    ({"silent": {"left_arm"}}, "left_arm (/left_arm/joint_states): nothing for more than 0.2 s"),
    ({"frozen": {"left_color"}}, "left_color (/left/color/image_raw): frozen"),
    ({"encoding": "purple8"}, "cannot decode 'purple8'"),
    ({"size": (0, 0)}, "the image is empty"),
    ({"offset_s": 7.0}, "stamp lies 7.0 s in the future"),
    ({"offset_s": -7.0}, "s in the past; are the clocks in step"),
    ({"change": lambda side, m: with_fields(m, position=[math.nan] * 7)}, "l_joint1, l_joint2"),
    (
        {"change": lambda side, m: with_fields(m, name=m.name[:6], position=m.position[:6])},
        "joints l_joint7 are missing",
    ),
    ({"change": lambda side, m: with_fields(m, name=[f"j{i}" for i in range(7)])}, "joints l_joint1, l_joint2"),
]
NAMES = ["missing", "no joints", "frozen", "encoding", "empty", "future", "past", "nan", "few", "renamed"]


@pytest.mark.parametrize(("fault", "text"), SENSOR_FAULTS, ids=NAMES)
def test_sensor_faults_are_unknown_within_a_second_named_and_recovered_from(bench, fault, text):
    node, robot = bench
    limit_s = 0.5 if "silent" in fault or "frozen" in fault else 0.0
    for key, value in fault.items():
        setattr(robot, key, value)
    started = time.monotonic()
    robot.until(robot.unknown, "UNKNOWN", 5)
    assert time.monotonic() - started < limit_s + 1.0
    held(robot, 1.5, pose=not {"change", "offset_s"} & set(fault) and fault != {"silent": {"left_arm"}})
    assert 1 <= len(robot.progress) <= 2, "a heartbeat at 1 Hz"
    assert all(m.status == TaskProgress.UNKNOWN and math.isnan(m.progress) for m in robot.progress)
    assert text in node.said()
    assert any(text in status for status in robot.statuses().values())
    assert robot.statuses()["commands"].startswith("holding still: ")
    robot.heal()
    robot.until(lambda: robot.good() and robot.moved(), "recovery", 10)


POLICY_FAULTS = [
    ("raise", "the policy failed: RuntimeError('the device is gone')"),
    ("nan actions", "the policy's actions are not finite"),
    ("nan progress", "the policy's progress is nan, expected a number in [0, 1]"),
    ("progress of 1.5", "the policy's progress is 1.5, expected a number in [0, 1]"),
    ("short chunk", "the policy's actions are (3, 16), expected (30, 16)"),
]


@pytest.mark.parametrize(("task", "text"), POLICY_FAULTS)
def test_a_failing_policy_stops_the_robot_and_is_named(bench, task, text):
    node, robot = bench
    robot.set_task(task)
    robot.until(robot.unknown, "UNKNOWN", 5)
    held(robot, 1.5)
    assert robot.progress
    assert all(m.status == TaskProgress.UNKNOWN and math.isnan(m.progress_raw) for m in robot.progress)
    assert text in node.said()
    assert robot.statuses()["inference"] == text
    robot.set_task("swing")
    robot.until(lambda: robot.good() and robot.moved(), "recovery", 10)


def test_a_policy_that_takes_ten_seconds_holds_when_its_chunk_has_ended(bench):
    node, robot = bench
    robot.set_task("ten seconds")
    robot.until(lambda: "holding still: the chunk has ended: holding its last target" in node.said(), "the end", 5)
    robot.run(1.2)
    assert len({tuple(p) for _, side, p in robot.targets if side == "left"}) == 1
    assert robot.progress, "a heartbeat meanwhile"
    assert robot.unknown()
    assert "the policy has been busy for more than 1 s" in node.said()
    robot.until(lambda: "holding still: no new actions for 3 s" in node.said(), "the pause", 5)
    held(robot)
    robot.until(lambda: robot.good() and robot.moved() is False, "recovery", 15)


def test_a_policy_slower_than_its_chunks_says_so(bench):
    node, robot = bench
    robot.set_task("swing slowly")
    robot.until(lambda: "the policy is too slow: actions came after 1." in node.said(), "the reason", 15)
    held(robot, 2.0)
    assert any(math.isfinite(m.progress_raw) for m in robot.progress), "progress goes on"


def test_actions_of_a_task_that_is_over_are_not_carried_out(bench):
    _, robot = bench
    robot.set_task("swing slowly")  # is being computed when the next one is set
    robot.run(0.5)
    robot.set_task("go far")
    robot.run(2.0)
    assert all(m.task != "swing slowly" for m in robot.progress if math.isfinite(m.progress_raw))


def test_a_robot_that_goes_and_comes_back_is_not_commanded_meanwhile(bench):
    node, robot = bench
    robot.silent = {*robot.images, "left_arm", "right_arm", "fsm", "mode"}
    robot.relay(False)
    gone = time.monotonic()
    robot.until(robot.unknown, "UNKNOWN", 5)
    assert time.monotonic() - gone < 1.5
    held(robot, pose=False)
    robot.heal()
    robot.until(lambda: robot.good() and robot.moved(), "recovery", 10)
    assert "waiting for the robot to be READY, it is in PAUSE" in node.said()


def test_two_nodes_that_command_both_hold_still(bench, shared):
    node, robot = bench
    second = start_node(shared[2], "__node:=second", prompt="swing", publish_commands="true")
    text = "publishes /left_arm/model_joint_cmd, too: stop one of the two"
    try:
        robot.until(lambda: text in node.said() and text in second.log(), "both to notice")
        held(robot)
    finally:
        second.terminate()
    assert second.wait(20) == 0
    robot.until(robot.moved, "motion when one is gone", 10)


PAUSES = {
    "pause": lambda robot: setattr(robot, "paused", True),
    "slow start": lambda robot: setattr(robot, "fsm_says", 1),
    "enable 0": lambda robot: robot.enable_pub.publish(Float32(data=0.0)),
}


@pytest.mark.parametrize("pause", PAUSES)
def test_a_pause_by_somebody_else_is_not_undone(bench, pause):
    node, robot = bench
    PAUSES[pause](robot)
    text = "the robot was paused by another while it was commanded"
    robot.until(lambda: text in node.said(), "the reason", 5)
    robot.paused, robot.fsm_says = False, None
    held(robot, 2.0)
    robot.set_parameter("publish_commands", True)
    robot.until(robot.moved, "motion once it is asked for anew", 10)


def test_a_blocked_arm_ends_commanding(bench):
    node, robot = bench
    robot.follows = False
    robot.set_task("go far")
    robot.until(lambda: "rad from its command; is the arm blocked?" in node.said(), "the reason", 10)
    held(robot)


def test_a_pose_outside_the_ranges_is_not_commanded_from(bench):
    node, robot = bench
    robot.set_parameter("publish_commands", False)
    held(robot, 0.2)
    robot.positions["right"] = PROFILE.arms["right"].limits()[:, 1] + 0.2
    robot.set_parameter("publish_commands", True)
    robot.until(lambda: "rad outside its range: move the arm by hand" in node.said(), "the reason", 10)
    held(robot, pose=False)
    robot.positions["right"] = PROFILE.arms["right"].limits().mean(axis=1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda robot: setattr(robot, "meta_mode", 0), "the robot is in teleoperation mode and ignores commands"),
        (lambda robot: setattr(robot, "meta_mode", 2), "/api/current_mode: meta_mode 2 is not known"),
        (lambda robot: setattr(robot, "meta_mode", math.inf), "nothing valid on /api/current_mode yet"),
        (lambda robot: setattr(robot, "fsm_says", 7), "/fsm_state: state 7 is not known"),
        (lambda robot: setattr(robot, "silent", {"fsm"}), "/fsm_state: nothing for more than 1 s"),
        (lambda robot: setattr(robot, "silent", {"mode"}), "/api/current_mode: nothing for more than 3 s"),
        (lambda robot: robot.relay(False), "nothing publishes /api/left_arm/joint_cmd: start arm_relay_node"),
        (lambda robot: robot.set_task(""), "no task is set"),
    ],
    ids=["teleoperation", "other mode", "bad mode", "other state", "no fsm", "no mode", "no relay", "no task"],
)
def test_it_holds_still_when_the_robot_cannot_be_commanded(bench, change, text):
    node, robot = bench
    change(robot)
    robot.until(lambda: f"holding still: {text}" in node.said(), "the reason", 10)
    held(robot)
    assert node.poll() is None


def test_targets_stay_within_the_ranges_and_the_speed_and_grippers_get_command_numbers(bench):
    _, robot = bench
    robot.run(0.3)
    robot.set_task("go far")
    robot.until(lambda: len(robot.targets) > 350, "commands")
    for side in SIDES:
        targets = np.array([position for _, s, position in robot.targets if s == side])
        limits = PROFILE.arms[side].limits()
        assert (targets >= limits[:, 0] - 1e-9).all()
        assert (targets <= limits[:, 1] + 1e-9).all()
        assert np.isclose(targets[-1], limits[:, 1]).any(), "a limit was reached"
        assert np.abs(np.diff(targets, axis=0)).max() <= 1.0 / 100 + 1e-9, "1 rad/s at 100 Hz"
    assert {(side, round(value, 6)) for side, value in robot.grippers} == {("left", 0.8), ("right", 0.7)}


def test_switched_off_it_holds_at_once_and_lets_go_of_the_topics(bench):
    _, robot = bench
    assert robot.set_parameter("publish_commands", False)
    held(robot)
    topics = dict(robot.node.get_topic_names_and_types())
    assert "/task_progress" in topics
    robot.until(lambda: robot.node.count_publishers("/left_arm/model_joint_cmd") == 0, "no publisher", 5)
    assert robot.statuses()["commands"] == "off (publish_commands is false)"


def test_reordered_joints_and_other_resolutions_are_no_fault(bench):
    _, robot = bench
    robot.change = lambda side, m: with_fields(m, name=list(m.name)[::-1], position=list(m.position)[::-1])
    robot.size = (200, 100)
    robot.run(1.5)
    assert len(robot.progress) > 5
    assert all(math.isfinite(m.progress_raw) for m in robot.progress)
    robot.until(robot.moved, "motion", 10)  # at the turn of its swing it stands for a moment


def test_deactivated_it_holds_and_active_again_it_goes_on(bench):
    _, robot = bench
    client = robot.node.create_client(ChangeState, "/policy_node/change_state")
    robot.until(client.service_is_ready, "the lifecycle service")

    def change(transition):
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        robot.until(future.done, "the transition", 20)
        return future.result().success

    assert change(Transition.TRANSITION_DEACTIVATE)
    held(robot)
    assert robot.progress == []
    assert change(Transition.TRANSITION_CLEANUP)
    assert change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    robot.until(robot.moved, "motion", 15)
    robot.node.destroy_client(client)


def test_told_to_end_it_pauses_the_robot_first(bench):  # the last test here: the node is gone after it
    node, robot = bench
    node.send_signal(signal.SIGHUP)
    robot.process = None
    robot.until(lambda: robot.last_enable == 0.0, "the pause", 2)
    held(robot)
    assert node.wait(10) == 0
