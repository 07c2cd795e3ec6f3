"""The policy node, commanding, and robot and operator: when it holds still, and what its targets are."""

import math
import signal

import numpy as np
import pytest
from conftest import PATIENCE_S, keeps_promise
from fake_robot import HOME, PROFILE, Operator, start_node, to_s, with_fields
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import ParameterEvent
from std_msgs.msg import Float32
from undisturbed import undisturbed


def test_a_robot_that_goes_and_comes_back_is_not_commanded_meanwhile(moving):
    node, robot = moving
    robot.silent = {*robot.images, "left_arm", "right_arm", "fsm", "mode"}
    robot.relay(False)
    robot.until(robot.unknown, "UNKNOWN")
    robot.held(pose=False)
    robot.heal()
    robot.until(robot.good, "progress, which goes on by itself")
    robot.held(2.0, pose=False)
    robot.until(robot.moving, "motion, armed anew")
    assert "waiting for the robot to be READY, it is in PAUSE" in node.said()


def test_two_nodes_that_command_both_hold_still(moving, commanding):
    node, robot = moving
    second = start_node(commanding[2], "__node:=second", prompt="swing", publish_commands="true")
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
def test_a_pause_by_somebody_else_is_not_undone(moving, pause):
    node, robot = moving
    PAUSES[pause](robot)
    text = "the robot was paused by another while it was commanded"
    robot.until(lambda: text in node.said(), "the reason")
    robot.paused, robot.fsm_says = False, None
    robot.held(2.0)
    robot.set_parameter("publish_commands", True)
    robot.held()  # a parameter allows, and arms nothing
    robot.until(robot.moving, "motion, armed anew")


@undisturbed
def test_a_pause_by_somebody_else_disarms_what_has_no_goal_yet(moving):
    _, robot = moving
    robot.set_task("")
    robot.until(lambda: robot.state() == "ARMED", "the goal's end, by which nothing is disarmed")
    robot.enable_pub.publish(Float32(data=0.0))
    robot.until(lambda: robot.state() == "LOOKING", "disarmed")
    robot.set_task("swing")
    robot.until(robot.good, "progress")
    robot.held(2.0)


@undisturbed
def test_disarmed_by_the_operator_it_pauses_the_robot(moving):
    node, robot = moving
    robot.until(lambda: robot.operator.arm(False) and robot.operator.answer == "disarmed", "the answer")
    robot.held(2.0)
    assert "LOOKING: disarmed by ~/arm" in node.said()


@undisturbed
def test_a_blocked_arm_ends_commanding(moving):
    node, robot = moving
    robot.follows = False
    robot.set_task("go far")
    robot.until(lambda: "rad from its command, at most 0.5; is the arm blocked?" in node.said(), "the reason")
    robot.held()


@undisturbed
def test_a_pose_outside_the_ranges_is_not_commanded_from(moving):
    _, robot = moving
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
def test_it_holds_still_when_the_robot_cannot_be_commanded_and_after_that(moving, change, text):
    node, robot = moving
    change(robot)
    robot.until(lambda: text in node.said(), "the reason")
    robot.held()
    robot.heal()
    robot.held(1.5)  # what went away by itself does not come back by itself


def test_targets_stay_within_the_ranges_and_the_speed_and_grippers_get_command_numbers(moving):
    _, robot = moving
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


def test_switched_off_it_holds_within_a_fifth_of_a_second_and_lets_go_of_the_topics(moving):
    _, robot = moving
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
def test_reordered_joints_and_other_resolutions_are_no_fault(moving):
    node, robot = moving
    robot.change = lambda side, m: with_fields(m, name=list(m.name)[::-1], position=list(m.position)[::-1])
    robot.size = (200, 100)
    robot.forget()
    robot.until(lambda: sum(math.isfinite(m.progress_raw) for m in robot.progress) > 5, "progress")
    robot.until(robot.moving, "motion")  # at the turn of its swing it stands for a moment
    assert "progress unknown" not in node.said()


def test_deactivated_it_holds_and_active_again_it_is_armed_anew(moving):
    _, robot = moving
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


def test_told_to_end_it_pauses_the_robot_first(moving):  # the last test here: the node is gone after it
    node, robot = moving
    node.send_signal(signal.SIGHUP)
    robot.process = None
    robot.until(lambda: robot.last_enable == 0.0, "the pause")
    robot.held()
    assert node.wait(PATIENCE_S) == 0
