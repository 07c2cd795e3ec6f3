"""The policy node, commanding, against every fault of sensors, policy and robot: what it says, that it holds still."""

import math
import signal
import time

import numpy as np
import pytest
from conftest import PATIENCE_S, TRIES, initialised_ros, keeps_promise, processes
from fake_robot import HOME, PROFILE, FakeRobot, Operator, said_s, start_node, to_s, with_fields
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_policies import SWING_UNLESS, WAIT_FOR
from rcl_interfaces.msg import ParameterEvent
from std_msgs.msg import Float32
from undisturbed import undisturbed

from pi05_progress_msgs.msg import TaskProgress

BUSY = "the policy has been busy for more than 1 s"
AGE_S, SKEW_S = 1.0, 0.5  # of inputs: wider than the defaults, for a robot that is played on a busy machine


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One node and one robot for all tests here."""
    with initialised_ros() as ros, processes(tmp_path_factory.mktemp("faults")) as start:
        ages = {"image_timeout_s": AGE_S, "joint_timeout_s": AGE_S, "skew_limit_s": SKEW_S}
        node = start_node(start, prompt="swing", publish_commands="true", **ages)
        yield node, FakeRobot(ros, node), start


@pytest.fixture
def bench(shared):
    """The node and the robot, moving, without a fault; ``said`` is what the node has logged since."""
    node, robot, _ = shared

    def begin():
        robot.heal()
        if robot.task != "swing":
            robot.set_task("swing")
        robot.set_parameter("publish_commands", True)
        home, at = HOME["left"], robot.positions
        robot.until(lambda: robot.moving() and np.abs(at["left"] - home).max() < 0.4, "motion about its home")
        before = len(node.log())
        node.said = lambda: node.log()[before:]

    robot.begin = begin
    begin()
    return node, robot


@pytest.fixture
def gate(tmp_path):
    """A file without which the policy does not answer where it is told to wait for it."""
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


@pytest.fixture
def blocked(tmp_path):
    """A file with which the policy does not answer where it is told so; gone at the end, also of a test that failed."""
    yield tmp_path / "blocked"
    (tmp_path / "blocked").unlink(missing_ok=True)


SENSOR_FAULTS = [
    ({"silent": {"head_camera"}}, "head_camera (/head/image_raw): nothing for more than 1 s"),
    ({"silent": {"left_arm"}}, "left_arm (/left_arm/joint_states): nothing for more than 1 s"),
    ({"frozen": {"left_color"}}, "left_color (/left/color/image_raw): frozen"),
    (
        {"hanging": {"left_color"}},
        "frozen, pictures stay the same while left_arm moves by 0.05 rad: restart the camera's",
    ),
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
NAMES = ["missing", "no joints", "frozen", "hanging", "encoding", "empty", "future", "past", "nan", "few", "renamed"]


# As another one, for ``make test``: hanging as frozen, empty as encoding, past as future, few and renamed as nan.
ALIKE = {"hanging", "empty", "past", "few", "renamed"}


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        pytest.param(*fault, id=name, marks=[pytest.mark.long] * (name in ALIKE))
        for name, fault in zip(NAMES, SENSOR_FAULTS, strict=True)
    ],
)
def test_sensor_faults_are_unknown_within_a_second_named_and_recovered_from(bench, fault, text):
    node, robot = bench
    limit_s = AGE_S if {"silent", "frozen", "hanging"} & fault.keys() else 0.0

    def told_after_s():
        began_s, known = time.time(), len(node.log())
        for key, value in fault.items():
            setattr(robot, key, value)
        robot.until(lambda: robot.unknown() and text in node.log()[known:], "UNKNOWN with its reason")
        return said_s(node.log()[known:], text) - began_s

    def recover():
        robot.heal()
        robot.until(robot.moving, "motion, armed anew")

    keeps_promise(limit_s + 1.0, told_after_s, recover)
    robot.held(pose=not {"change", "offset_s"} & set(fault) and fault != {"silent": {"left_arm"}})
    assert len(robot.progress) <= 3, "a heartbeat at 1 Hz"
    robot.until(lambda: robot.progress, "a heartbeat")
    assert all(m.status == TaskProgress.UNKNOWN and math.isnan(m.progress) for m in robot.progress)
    robot.until(lambda: any(text in status for status in robot.statuses().values()), "the reason in the diagnostics")
    robot.until(lambda: robot.state() == "LOOKING", "the end of what it was armed for")
    recover()


POLICY_FAULTS = [
    ("raise", "the policy failed: RuntimeError('the device is gone')"),
    pytest.param("nan actions", "the policy's actions are not finite", marks=pytest.mark.long),  # as of a short chunk
    ("short chunk", "the policy's actions are (3, 16), expected (30, 16)"),
]


@pytest.mark.parametrize(("task", "text"), POLICY_FAULTS)
def test_a_failing_policy_stops_the_robot_and_is_named(bench, task, text):
    node, robot = bench
    robot.set_task(task)
    robot.until(lambda: robot.unknown() and text in node.said(), "UNKNOWN with its reason")
    robot.held()
    robot.until(lambda: robot.progress, "a heartbeat")
    assert all(m.status == TaskProgress.UNKNOWN and math.isnan(m.progress_raw) for m in robot.progress)
    robot.until(lambda: robot.statuses().get("inference") == text, "the reason in the diagnostics")
    robot.set_task("swing")
    robot.until(robot.moving, "motion, armed anew")


@pytest.mark.parametrize(
    ("task", "reason", "found"),
    [
        ("nan progress", "the policy's progress is not finite", "progress nan"),
        pytest.param(
            "progress of 1.5", "the policy's progress is outside [0, 1]", "progress 1.5", marks=pytest.mark.long
        ),  # as not a number
    ],
)
def test_with_a_progress_that_makes_no_sense_actions_go_on_and_progress_is_unknown(bench, task, reason, found):
    node, robot = bench
    robot.set_task(task)
    robot.until(robot.unknown, "UNKNOWN")
    robot.forget()
    robot.until(lambda: robot.running() and len(robot.progress) > 5 and robot.moved(), "motion without progress")
    assert all(m.status == TaskProgress.UNKNOWN and math.isnan(m.progress_raw) for m in robot.progress)
    told = lambda: robot.statuses().get("inference") == f"running without progress: {reason}"  # noqa: E731
    robot.until(lambda: robot.running() and told(), "the reason in the diagnostics, while it moves")
    assert node.said().count(f"no progress (said once): {reason} ({found}, interval None)") == 1
    robot.set_task("swing")
    robot.until(robot.moving, "motion, armed anew")


def test_a_policy_that_does_not_answer_holds_the_pose_for_a_second_and_then_disarms(bench, blocked):
    node, robot = bench
    robot.set_task(f"{SWING_UNLESS}{blocked}")
    held, ended = "HOLDING: the next actions are late", "LOOKING: the next actions are late: call ~/arm to go on"

    def late():
        """Whether that has ended commanding: a busy machine may miss an input just then, which ends it, too."""
        blocked.unlink(missing_ok=True)
        robot.until(lambda: robot.running() and robot.moved(), "motion for this task")
        robot.forget()
        before = len(node.log())
        node.said = lambda: node.log()[before:]
        blocked.touch()
        robot.until(lambda: "LOOKING: " in node.said(), "the end")
        return held in node.said() and ended in node.said()

    assert any(late() for _ in range(TRIES))
    since_s, until_s = said_s(node.said(), held), said_s(node.said(), ended)
    assert until_s - since_s < 1.5, "for a second"
    *still, _ = [(t, p) for t, side, p in robot.targets if side == "left" and t >= since_s]  # then the measured pose
    assert len(still) > 10 and all(p == still[0][1] for _, p in still)
    robot.until(robot.unknown, "UNKNOWN meanwhile")
    robot.until(lambda: robot.statuses().get("inference") == BUSY, "why")
    robot.held()
    blocked.unlink()
    robot.until(robot.moving, "motion, armed anew")


def test_a_policy_slower_than_its_chunks_says_so(bench):
    _, robot = bench
    robot.set_task("swing slowly")
    robot.until(lambda: robot.refused("the policy is too slow: actions came after "), "the reason")
    robot.held(2.0)
    robot.until(robot.good, "progress, which goes on")


def test_actions_of_a_task_that_is_over_are_not_carried_out(bench, gate):
    node, robot = bench
    over = f"{WAIT_FOR}{gate}"
    robot.forget()
    robot.set_task(over)
    robot.until(lambda: robot.statuses().get("inference") == BUSY, "a policy at work")
    robot.set_task("stay")
    robot.until(lambda: "task: 'stay'" in node.said(), "the next task")
    gate.touch()
    robot.until(lambda: robot.good() and robot.progress[-1].task == "stay", "progress of the next task")
    assert all(m.task != over for m in robot.progress if math.isfinite(m.progress_raw))
    robot.until(lambda: robot.operator.move("stay") or robot.targets, "commands of the next task")
    assert max(np.abs(np.array(p) - HOME["left"]).max() for _, side, p in robot.targets if side == "left") < 0.5, (
        "not far"
    )


def test_a_robot_that_goes_and_comes_back_is_not_commanded_meanwhile(bench):
    node, robot = bench
    robot.silent = {*robot.images, "left_arm", "right_arm", "fsm", "mode"}
    robot.relay(False)
    robot.until(robot.unknown, "UNKNOWN")
    robot.held(pose=False)
    robot.heal()
    robot.until(robot.good, "progress, which goes on by itself")
    robot.held(2.0, pose=False)
    robot.until(robot.moving, "motion, armed anew")
    assert "waiting for the robot to be READY, it is in PAUSE" in node.said()


def test_two_nodes_that_command_both_hold_still(bench, shared):
    node, robot = bench
    second = start_node(shared[2], "__node:=second", prompt="swing", publish_commands="true")
    text = "publishes /left_arm/model_joint_cmd, too: stop one of the two"
    operator = Operator(robot.node, "second")
    try:
        robot.until(lambda: text in node.said() or robot.refused(text), "the first to notice")
        robot.until(lambda: not operator.arm() and text in operator.answer, "the second to notice")
        robot.held()
    finally:
        second.terminate()
    robot.until(lambda: second.poll() is not None, "the end of one")
    assert second.returncode == 0
    robot.held()
    robot.until(robot.moving, "motion, armed anew when one is gone")


PAUSES = {
    "pause": lambda robot: setattr(robot, "paused", True),
    "slow start": lambda robot: setattr(robot, "fsm_says", 1),
    "enable 0": lambda robot: robot.enable_pub.publish(Float32(data=0.0)),
}


# Short is one of them; a pause by the topic is one in test_run_task.py, too.
@pytest.mark.parametrize("pause", [pytest.param(p, marks=[pytest.mark.long] * (p != "pause")) for p in PAUSES])
@undisturbed
def test_a_pause_by_somebody_else_is_not_undone(bench, pause):
    node, robot = bench
    PAUSES[pause](robot)
    text = "the robot was paused by another while it was commanded"
    robot.until(lambda: text in node.said(), "the reason")
    robot.paused, robot.fsm_says = False, None
    robot.held(2.0)
    robot.set_parameter("publish_commands", True)
    robot.held()  # a parameter allows, and arms nothing
    robot.until(robot.moving, "motion, armed anew")


@undisturbed
def test_a_pause_by_somebody_else_disarms_what_has_no_goal_yet(bench):
    _, robot = bench
    robot.set_task("")
    robot.until(lambda: robot.state() == "ARMED", "the goal's end, by which nothing is disarmed")
    robot.enable_pub.publish(Float32(data=0.0))
    robot.until(lambda: robot.state() == "LOOKING", "disarmed")
    robot.set_task("swing")
    robot.until(robot.good, "progress")
    robot.held(2.0)


@undisturbed
def test_disarmed_by_the_operator_it_pauses_the_robot(bench):
    node, robot = bench
    robot.until(lambda: robot.operator.arm(False) and robot.operator.answer == "disarmed", "the answer")
    robot.held(2.0)
    assert "LOOKING: disarmed by ~/arm" in node.said()


@undisturbed
def test_a_blocked_arm_ends_commanding(bench):
    node, robot = bench
    robot.follows = False
    robot.set_task("go far")
    robot.until(lambda: "rad from its command, at most 0.5; is the arm blocked?" in node.said(), "the reason")
    robot.held()


@undisturbed
def test_a_pose_outside_the_ranges_is_not_commanded_from(bench):
    _, robot = bench
    robot.set_parameter("publish_commands", False)
    robot.held(0.2)
    robot.positions["right"] = PROFILE.arms["right"].limits()[:, 1] + 0.2
    robot.set_parameter("publish_commands", True)
    robot.until(lambda: robot.refused("rad outside its range, at most 0.05 rad are allowed: move"), "the reason")
    robot.held(pose=False)
    robot.positions["right"] = HOME["right"]


# As another one, for ``make test``: a mode that is no number as another mode, no mode as no state.
LONG_HELD = {"bad mode", "no mode"}
HELD = {
    "teleoperation": (
        lambda robot: setattr(robot, "meta_mode", 0),
        "TAKEN_OVER: the operator took over by teleoperation",
    ),
    "other mode": (
        lambda robot: setattr(robot, "meta_mode", 2),
        "LOOKING: /api/current_mode: meta_mode 2 is not known",
    ),
    "bad mode": (
        lambda robot: setattr(robot, "meta_mode", math.inf),
        "LOOKING: nothing valid on /api/current_mode yet",
    ),
    "other state": (lambda robot: setattr(robot, "fsm_says", 7), "LOOKING: /fsm_state: state 7 is not known"),
    "no fsm": (lambda robot: setattr(robot, "silent", {"fsm"}), "LOOKING: /fsm_state: nothing for more than 1 s"),
    "no mode": (
        lambda robot: setattr(robot, "silent", {"mode"}),
        "LOOKING: /api/current_mode: nothing for more than 3 s",
    ),
    "no relay": (lambda robot: robot.relay(False), "LOOKING: arm_relay/status: nothing for more than 0.3 s"),
    "canceled": (lambda robot: robot.set_task(""), "ARMED: the goal was canceled"),
}


@pytest.mark.parametrize(
    ("change", "text"),
    [pytest.param(*case, id=name, marks=[pytest.mark.long] * (name in LONG_HELD)) for name, case in HELD.items()],
)
@undisturbed
def test_it_holds_still_when_the_robot_cannot_be_commanded_and_after_that(bench, change, text):
    node, robot = bench
    change(robot)
    robot.until(lambda: text in node.said(), "the reason")
    robot.held()
    robot.heal()
    robot.held(1.5)  # what went away by itself does not come back by itself


def test_targets_stay_within_the_ranges_and_the_speed_and_grippers_get_command_numbers(bench):
    _, robot = bench
    highest = {side: PROFILE.arms[side].limits()[:, 1] for side in PROFILE.arms}

    def at_a_limit(side):
        last = next((p for _, s, p in reversed(robot.targets) if s == side), None)
        return last is not None and np.isclose(last, highest[side]).any()

    robot.forget()
    robot.set_task("go far")
    robot.until(lambda: robot.running() and at_a_limit("left") and at_a_limit("right"), "targets at a limit")
    for side in PROFILE.arms:
        stamps, targets = zip(*((t, p) for t, s, p in robot.targets if s == side), strict=True)
        stamps, targets = np.array(stamps), np.array(targets)
        assert (targets >= PROFILE.arms[side].limits()[:, 0] - 1e-9).all()
        assert (targets <= highest[side] + 1e-9).all()
        # 1 rad/s at 100 Hz: a tick may be late and the next one in time, hence two ticks more than lie between stamps.
        allowed = np.abs(stamps[:, None] - stamps) + 0.02
        # Where the node held, as it must when it gets no time to work, it goes on from where the arms are.
        stretch = np.searchsorted([t for t, s in robot.halts if s == side], stamps, side="right")
        allowed[stretch[:, None] != stretch] = np.inf
        assert (np.abs(targets[:, None] - targets).max(axis=-1) <= allowed).all()
    assert {(side, round(value, 6)) for side, value in robot.grippers} == {("left", 0.8), ("right", 0.7)}


def test_switched_off_it_holds_within_a_fifth_of_a_second_and_lets_go_of_the_topics(bench):
    _, robot = bench
    changes = []
    robot.node.create_subscription(ParameterEvent, "/parameter_events", changes.append, 10)
    robot.until(lambda: robot.node.count_publishers("/parameter_events") > 1, "the node's parameter events")

    def stopped_after_s():
        robot.forget()
        changes.clear()
        assert robot.set_parameter("publish_commands", False)
        robot.until(lambda: robot.last_enable == 0.0 and robot.quiet() and changes, "the pause")
        return max((t for t, _, _ in robot.targets), default=math.inf) - to_s(changes[-1].stamp)

    def go_on():
        assert robot.set_parameter("publish_commands", True)
        robot.until(robot.moving, "motion")

    keeps_promise(0.2, stopped_after_s, go_on)
    robot.held()
    topics = dict(robot.node.get_topic_names_and_types())
    assert "/task_progress" in topics
    robot.until(lambda: robot.node.count_publishers("/left_arm/model_joint_cmd") == 0, "no publisher")
    off = "off (publish_commands is false)"
    robot.until(lambda: robot.statuses().get("commands") == off, "the reason in the diagnostics")


@undisturbed
def test_reordered_joints_and_other_resolutions_are_no_fault(bench):
    node, robot = bench
    robot.change = lambda side, m: with_fields(m, name=list(m.name)[::-1], position=list(m.position)[::-1])
    robot.size = (200, 100)
    robot.forget()
    robot.until(lambda: sum(math.isfinite(m.progress_raw) for m in robot.progress) > 5, "progress")
    robot.until(robot.moving, "motion")  # at the turn of its swing it stands for a moment
    assert "progress unknown" not in node.said()


def test_deactivated_it_holds_and_active_again_it_is_armed_anew(bench):
    _, robot = bench
    client = robot.node.create_client(ChangeState, "/policy_node/change_state")
    robot.until(client.service_is_ready, "the lifecycle service")

    def change(transition):
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        robot.until(future.done, "the transition")
        return future.result().success

    assert change(Transition.TRANSITION_DEACTIVATE)
    robot.held()
    assert robot.progress == []
    assert change(Transition.TRANSITION_CLEANUP)
    assert change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    robot.until(robot.good, "progress")
    robot.held()
    robot.until(robot.moving, "motion, armed anew")
    robot.node.destroy_client(client)


def test_told_to_end_it_pauses_the_robot_first(bench):  # the last test here: the node is gone after it
    node, robot = bench
    node.send_signal(signal.SIGHUP)
    robot.process = None
    robot.until(lambda: robot.last_enable == 0.0, "the pause")
    robot.held()
    assert node.wait(PATIENCE_S) == 0
