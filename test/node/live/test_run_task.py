"""The action: a task is done, canceled, preempted, stopped, and the result says which."""

import math
import re
import signal
import time
from contextlib import ExitStack, closing, contextmanager

import pytest
import rclpy
from conftest import keeps_promise
from fake_robot import said_s, stamp_s
from goals import Goal
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from std_msgs.msg import Float32, Int32
from std_srvs.srv import Trigger
from undisturbed import undisturbed

from pi05_progress.robots.episode_notes import GOAL
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.action import RunTask
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_msgs.srv import StopEpisode
from pi05_progress_ros.commanding.state_machine import Reason
from pi05_progress_ros.ros_session import publisher_names
from pi05_progress_ros.sim.driving.live_episodes import LiveEpisodes

PROFILE = RobotProfile.load("teleavatar")

DO = "pi05_progress_ros.do"
R = RunTask.Result
R_NAMES = {reason.value: reason.name for reason in Reason}


@undisturbed
def test_a_task_is_done_with_feedback_and_an_armed_robot_at_rest(bench):
    _, robot, _ = bench
    Goal(robot, "stay", max_duration_s=0.1).ends()  # with another task its policy begins anew
    goal = Goal(robot, "rise")
    result = goal.ends()
    assert (result.outcome, result.termination_reason) == (R.SUCCESS, R.SUCCEEDED)
    assert result.final_progress > 0.9 and result.final_lower <= result.final_progress <= result.final_upper
    assert result.elapsed_s > 1 and result.interventions == 0
    own = [f.progress.progress for f in goal.feedback if f.progress.task == "rise"]  # at first it may be of "stay"
    told = [progress for progress in own if math.isfinite(progress)]
    assert len(told) > 10 and told[0] < 0.5 < told[-1]
    assert {1, 2} <= {f.state for f in goal.feedback}, "ARMED, RUNNING"
    robot.held()
    robot.until(lambda: robot.state() == "ARMED", "an armed node")
    again = Goal(robot, "rise").ends()  # the policy goes on counting: it believes this to be done
    assert (again.outcome, again.termination_reason) == (R.SUCCESS, R.ALREADY_DONE)


@undisturbed
def test_a_goal_is_an_episode_of_a_recording_and_the_operator_may_overrule_its_outcome(bench):
    _, robot, _ = bench
    events, create = [], robot.node.create_subscription
    heard = create(EpisodeEvent, "/episode_event", events.append, 50)
    judge = robot.node.create_client(StopEpisode, "/policy_node/judge")
    robot.until(lambda: judge.service_is_ready() and heard.get_publisher_count(), "the node's events")
    goal = Goal(robot, "stay", preempt=True, max_duration_s=1.0)
    goal.ends()
    asked = judge.call_async(StopEpisode.Request(outcome=EpisodeEvent.FAILURE, note="it fell"))
    robot.until(lambda: asked.done() and len(events) > 2, "the judgement")
    assert asked.result().accepted
    assert {event.episode_id for event in events} == {bytes(goal.handle.goal_id.uuid).hex()}
    assert [(e.event, e.outcome) for e in events[-3:]] == [(0, 0), (1, 0), (1, EpisodeEvent.FAILURE)]
    told = GOAL.fullmatch(events[-2].label)
    assert (told["model"], told["interventions"]) == ("scripted", "0")
    assert told["reason"] == R_NAMES[goal.ending.result().result.termination_reason]
    assert events[-1].label == "judged: it fell"
    refused = judge.call_async(StopEpisode.Request(outcome=7))
    robot.until(refused.done, "an answer")
    assert not refused.result().accepted and "none of UNKNOWN" in refused.result().message
    robot.node.destroy_subscription(heard)


@undisturbed
def test_a_goal_is_refused_with_the_reason_and_none_arms(bench):
    node, robot, _ = bench
    for wrong, text in (
        ({"task": " "}, "its task is empty"),
        ({"task": "swing", "success_threshold": 1.5}, "its success_threshold is 1.5, expected at most 1"),
        ({"task": "swing", "max_duration_s": math.nan}, "its max_duration_s is nan, expected 0 or more"),
    ):
        assert not Goal(robot, **wrong).accepted
        robot.until(lambda text=text: text in node.log(), "the reason")
    robot.until(lambda: robot.operator.arm(False), "disarming")
    assert not Goal(robot, "swing").accepted
    robot.until(lambda: "the node is LOOKING, not ARMED: call ~/arm" in node.log(), "the reason")
    watched = Goal(robot, "swing", look_only=True, max_duration_s=1.0)
    assert watched.ends().termination_reason == R.TIMED_OUT, "looking on needs no arming"
    assert robot.quiet()


@undisturbed
def test_with_every_goal_the_policy_begins_an_episode_of_the_next_seed(bench):
    node, robot, _ = bench

    def seeds():
        return [int(number) for number in re.findall(r"noise of seed (\d+)", node.log())]

    before = len(seeds())
    for number, task in enumerate(("stay", "rise", "rise"), start=before + 1):
        goal = Goal(robot, task, look_only=True, preempt=True)
        robot.until(lambda number=number: len(seeds()) >= number, "the policy's new episode")
    goal.handle.cancel_goal_async()
    goal.ends()
    assert seeds()[0] == 0, "the first has that of parameter seed"
    first, *others = seeds()[before:]
    assert others == [first + 1, first + 2]


@undisturbed
def test_canceled_the_arms_stop_at_once_and_it_stays_armed(bench):
    _, robot, _ = bench

    def stopped_after_s():
        goal = Goal(robot, "swing").runs()
        robot.targets.clear()
        asked_s = time.time()
        canceled = goal.handle.cancel_goal_async()
        result = goal.ends()
        assert canceled.done() and (result.outcome, result.termination_reason) == (R.UNKNOWN, R.CANCELED)
        robot.until(robot.quiet, "quiet")
        return max((t for t, _, _ in robot.targets), default=asked_s) - asked_s

    keeps_promise(0.2, stopped_after_s, lambda: None)
    robot.held()
    assert Goal(robot, "swing").accepted, "still armed"


@undisturbed
def test_another_goal_waits_its_turn_or_preempts(bench):
    node, robot, _ = bench
    first = Goal(robot, "swing").runs()
    assert not Goal(robot, "rise").accepted
    assert "another goal is there, 'swing': cancel it, or ask to preempt it" in node.log()
    assert not robot.set_parameter("prompt", "stay"), "what is carried out is what is looked at"
    second = Goal(robot, "rise", preempt=True, max_duration_s=5.0, success_threshold=0.3, success_hold_s=0.2)
    assert first.ends().termination_reason == R.PREEMPTED
    assert second.ends().termination_reason == R.SUCCEEDED


STOPS = {
    "camera": (lambda robot: setattr(robot, "silent", {"head_camera"}), R.INPUTS_LOST, "head_camera"),
    "relay": (lambda robot: robot.relay(False), R.ROBOT_LOST, "arm_relay/status"),
    "blocked": (lambda robot: setattr(robot, "follows", False), R.LIMIT, "is the arm blocked?"),
    "disarmed": (lambda robot: robot.until(lambda: robot.operator.arm(False), "it"), R.CANCELED, "disarmed by ~/arm"),
}


# All of them stop commanding in test_node_faults.py or test_node_holds.py, too.
@pytest.mark.parametrize(
    "stop", [pytest.param(s, marks=[pytest.mark.long] * (s in ("camera", "disarmed"))) for s in STOPS]
)
@undisturbed
def test_what_stops_a_goal_is_its_reason(bench, stop):
    _, robot, _ = bench
    cause, reason, text = STOPS[stop]
    goal = Goal(robot, "go far" if stop == "blocked" else "swing").runs()
    cause(robot)
    result = goal.ends()
    assert (result.outcome, result.termination_reason) == (R.UNKNOWN, reason) and text in result.message
    robot.held(pose=False)
    robot.until(lambda: robot.state() == "LOOKING", "disarmed")


@undisturbed
def test_a_pause_by_another_ends_the_goal_and_the_result_comes_within_50_ms_of_it(bench):
    node, robot, _ = bench

    def told_after_s():
        goal = Goal(robot, "swing").runs()
        before, paused_s = len(node.log()), time.time()
        robot.enable_pub.publish(Float32(data=0.0))
        result = goal.ends()
        assert (result.outcome, result.termination_reason) == (R.UNKNOWN, R.PAUSED), result.message
        assert "paused by another" in result.message
        return said_s(node.log()[before:], "goal 'swing' ended, PAUSED") - paused_s

    keeps_promise(0.05, told_after_s, robot.begin)
    robot.held(pose=False)
    robot.until(lambda: robot.state() == "LOOKING", "disarmed")


@undisturbed
def test_a_takeover_ends_nothing_is_counted_and_only_the_operator_hands_back(bench):
    _, robot, start = bench
    E, events = EpisodeEvent, []
    heard = robot.node.create_subscription(EpisodeEvent, "/episode_event", events.append, 50)
    robot.until(heard.get_publisher_count, "the node's events")
    goal = Goal(robot, "swing").runs()

    def told():
        """Kinds of the goal's events."""
        return [e.event for e in events if e.episode_id == bytes(goal.handle.goal_id.uuid).hex()]

    robot.meta_mode = 0
    robot.until(lambda: goal.state() == 4 and told() == [E.START, E.TAKEN_OVER], "TAKEN_OVER, and its event")
    begun, taken = (stamp_s(event) for event in events[-2:])
    assert begun < taken < time.time()
    robot.held()
    robot.meta_mode = 1
    robot.until(lambda: told()[2:] == [E.INVALID], "the event that nobody commands")
    robot.held()
    robot.until(lambda: robot.refused("call ~/arm with hand_back"), "a refusal")
    program = start(DO, "rise", "--yes", "--preempt")
    robot.until(lambda: program.poll() is not None, "the refusal of do")
    assert program.returncode == 3 and "the operator took over" in program.log()
    robot.until(lambda: not Goal(robot, "rise", preempt=True).accepted, "that no other goal is accepted")
    assert goal.state() == 4 and robot.quiet()
    robot.until(lambda: robot.operator.arm(hand_back=True) or goal.state() == 2, "handing back")
    robot.until(lambda: told()[3:] == [E.HANDED_BACK, E.VALID], "the events of handing back")
    robot.targets.clear()
    robot.until(robot.moved, "motion")
    goal.handle.cancel_goal_async()
    assert goal.ends().interventions == 1
    robot.until(lambda: told()[5:] == [E.STOP], "the end of its episode")
    robot.node.destroy_subscription(heard)


class Episodes:
    """The simulation's episodes, made by hand, and who arms and gives a goal for each."""

    def __init__(self, robot):
        self.robot, self.said, self.ended = robot, [], []
        self.node = robot.ros.create_node("episodes")
        self.events = self.node.create_publisher(EpisodeEvent, "/sim/events", 50)
        self.node.create_service(Trigger, "/sim/reset", self.reset)
        robot.executor.add_node(self.node)
        self.live = LiveEpisodes(self.node, "/policy_node", PROFILE, self.said.append, self.ended.append)

    def reset(self, _, response):
        self.tell(EpisodeEvent.START, "swing")
        return response

    def tell(self, event, task, **more):
        self.events.publish(EpisodeEvent(event=event, task=task, episode_id=f"{task}_000007", **more))

    def close(self):
        self.live.close()
        self.robot.executor.remove_node(self.node)
        self.node.destroy_node()


@contextmanager
def another_robot(robot):
    """One in another process, as it seems."""
    elsewhere = rclpy.Context()
    rclpy.init(context=elsewhere)
    real = rclpy.create_node("real_robot", context=elsewhere)
    real.create_publisher(Int32, PROFILE.fsm_topic, 10)
    try:
        robot.until(lambda: "/real_robot" in publisher_names(robot.node, PROFILE.fsm_topic), "another robot")
        yield
    finally:
        real.destroy_node()
        elsewhere.shutdown()


@undisturbed
def test_every_episode_of_a_simulation_gets_its_goal_armed_without_asking(bench):
    _, robot, _ = bench
    robot.until(lambda: robot.operator.arm(False), "disarming")
    robot.until(lambda: robot.state() == "LOOKING", "a node that is not armed")
    robot.forget()
    with ExitStack() as until_the_end:
        with another_robot(robot):
            episodes = until_the_end.enter_context(closing(Episodes(robot)))
            robot.until(lambda: episodes.said, "a refusal")
            refused = r"not armed: \S+ is published by .*/real_robot, and must be by the .*"
            assert re.fullmatch(refused, episodes.said[0])
            robot.until(lambda: robot.state() == "LOOKING", "a node that is still not armed")
        robot.until(lambda: episodes.said[-1:] == ["swing_000007: goal 'swing'"], "the goal")
        robot.until(robot.moved, "motion")
        before = len(episodes.said)
        robot.enable_pub.publish(Float32(data=0.0))  # what stops a goal and may pass: armed anew, in the same episode
        robot.until(lambda: "goal 'swing'" in "".join(episodes.said[before + 1 :]), "the reason, and the goal again")
        robot.forget()
        robot.until(robot.moved, "motion again")
        assert episodes.ended == []
        episodes.tell(EpisodeEvent.STOP, "swing", outcome=EpisodeEvent.FAILURE, label="not done within 60 s")
        robot.until(lambda: episodes.ended, "the end of the episode")
        robot.held()
        assert str(episodes.ended[0]).startswith("swing_000007: failure (not done within 60 s); goal ")
        episodes.tell(EpisodeEvent.START, "rise")
        robot.until(lambda: episodes.said[-1] == "rise_000007: goal 'rise'", "the next goal")
        robot.until(lambda: robot.state() == "ARMED", "its success, by the policy's account")
        episodes.tell(EpisodeEvent.STOP, "rise", outcome=EpisodeEvent.SUCCESS)
        robot.until(lambda: len(episodes.ended) == 2, "the end of the episode")
        assert str(episodes.ended[1]).startswith("rise_000007: success; goal ")
        episodes.tell(EpisodeEvent.START, "go far")
        robot.until(lambda: episodes.said[-1] == "go far_000007: goal 'go far'", "the third goal")
        robot.forget()
        robot.until(robot.moved, "motion")
        robot.follows = False
        robot.until(lambda: episodes.said[-1].startswith("go far_000007: LIMIT, "), "the limit, told")
        until_s = time.monotonic() + 1.0
        robot.until(lambda: time.monotonic() > until_s, "time for another goal")
        assert episodes.said[-1].startswith("go far_000007: LIMIT, ") and robot.state() == "LOOKING"
        episodes.tell(EpisodeEvent.STOP, "go far", outcome=EpisodeEvent.FAILURE, label="left")
        robot.until(lambda: len(episodes.ended) == 3, "the end of the episode")
        assert re.match(r"go far_000007: failure \(left\); goal .*LIMIT, .*blocked", str(episodes.ended[2]))


@undisturbed
def test_a_goal_whose_client_has_gone_ends_and_disarms(bench):
    node, robot, _ = bench
    Goal(robot, "swing").runs()
    robot.operator.run_task.destroy()
    robot.operator.run_task = None
    try:
        robot.until(lambda: "LOOKING: the goal's client has gone" in node.log(), "the reason")
        robot.held()
    finally:
        robot.operator.run_task = ActionClient(robot.node, RunTask, "/policy_node/run_task")
    robot.until(robot.operator.run_task.server_is_ready, "the action")


@undisturbed
def test_deactivated_a_goal_that_only_looks_on_does_not_end_by_how_another_ended(bench):
    _, robot, _ = bench
    done = Goal(robot, "rise", max_duration_s=5.0, success_threshold=0.3, success_hold_s=0.2).ends()
    assert done.outcome == R.SUCCESS
    watched = Goal(robot, "stay", look_only=True)
    client = robot.node.create_client(ChangeState, "/policy_node/change_state")
    robot.until(client.service_is_ready, "the lifecycle service")
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        robot.until(future.done, "the transition")
        assert future.result().success
    result = watched.ends()
    assert (result.outcome, result.termination_reason) == (R.UNKNOWN, R.DEACTIVATED)
    robot.node.destroy_client(client)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
@undisturbed
def test_told_to_end_the_node_stops_the_arms_at_once_sends_the_result_and_ends(bench, number):
    _, robot, _ = bench
    stopped_after_s = []

    def ends_after_s():
        goal = Goal(robot, "swing").runs()
        robot.targets.clear()
        process, robot.process, told_s = robot.process, None, time.time()
        process.send_signal(number)
        robot.until(lambda: process.poll() is not None, "the end of the process")
        took_s = time.time() - told_s
        reason = goal.ends().termination_reason
        if reason in (R.ROBOT_LOST, R.INPUTS_LOST, R.POLICY_LOST):  # on a busy machine an input may be missed just then
            return math.inf
        assert reason == R.DEACTIVATED and process.returncode == 0
        robot.until(robot.quiet, "quiet")
        stopped_after_s.append(max((t for t, _, _ in robot.targets), default=told_s) - told_s)
        robot.held()
        return took_s

    keeps_promise(2.0, ends_after_s, robot.begin)
    assert min(stopped_after_s) < 0.2
