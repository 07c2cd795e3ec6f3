"""Fifty goals in a row before the simulated robot: whatever befalls them at random moments is the reason of the result.

What befell a goal the script knows, as it did it; whether a task was done the simulator knows. After every end it is
looked for commands, and whether the simulated arms rest. All times are stamps: of the sender of a message, or of this
process just before it does something.
"""

import functools
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from conftest import PATIENCE_S, wait_for
from expert_policies import SWITCH, WORDS
from fake_robot import LONG, Operator, parameters, stamp_s, start_node
from places import SUPPORT
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32
from std_srvs.srv import SetBool, Trigger
from test_commanding import RELAY, ROBOT, without_shared_memory

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.action import RunTask
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_ros.commanding.state_machine import PAUSE_S, Reason, State

PROFILE = RobotProfile.load("teleavatar")
GOALS, SEED = 50, 7
AGES = {"image_timeout_s": 1.0, "joint_timeout_s": 1.0, "skew_limit_s": 0.5, "stamp_past_limit_s": 5.0}
CAMERAS = [camera.topic for camera in PROFILE.cameras.values()]
LATEST_S = 5.0  # after a goal was accepted, or the arms were moved, something befalls it
ONE_TICK = 8  # messages: what was on its way when the goal ended, and the pose that is held
TRIES = 40  # of a goal that a busy machine ended: before anything was done to it an input or an answer was late, or ...
LATE = {Reason.INPUTS_LOST, Reason.ROBOT_LOST, Reason.POLICY_LOST, Reason.LIMIT}
STARVED = ("arm_relay/status: nothing for more than 0.3 s", "measured")  # ... the relay was, or arms caught up with it


class Command(NamedTuple):
    """Something that was sent to the robot, and when, s; for ``enable`` whether it keeps the robot enabled."""

    sent_s: float
    what: str
    enables: bool = False


class Goal:
    """One that was accepted."""

    def __init__(self, bench, client, task, preempt=False):
        self.bench, self.task, self.feedback = bench, task, []
        request = RunTask.Goal(task=task, preempt=preempt, **LONG)
        sent = client.send_goal_async(request, lambda message: self.feedback.append(message.feedback))
        bench.until(sent.done, "an answer to the goal")
        self.accepted = sent.result().accepted
        if self.accepted:
            self.handle, self.ending = sent.result(), sent.result().get_result_async()
            self.id = bytes(self.handle.goal_id.uuid).hex()

    def state(self):
        return self.feedback[-1].state if self.feedback else State.ARMED

    def reaches(self, *states):
        """Whether it is in one of the states once it is, or has ended."""
        self.bench.until(lambda: self.ending.done() or self.state() in states, f"one of {states}")
        return not self.ending.done()

    def stop_s(self):
        """When it ended, by the node's event of that."""
        self.bench.until(lambda: self.id in self.bench.stops, "the event of the end")
        return self.bench.stops[self.id]


class Bench:
    """The simulated robot, its relay, its cameras' driver and the node; who arms, and everything that is commanded."""

    def __init__(self, ros, start, folder, rng):
        self.rng, self.folder = rng, folder
        self.policy, self.lost = folder / "policy", folder / "lost"
        self.policy.write_text("")
        self.lost.write_text("")
        path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
        self.run = functools.partial(start, **without_shared_memory(folder), PYTHONPATH=path)
        self.scene, self.next, self.then = "stack_cubes", None, ""
        self.start_robot()
        self.relay = self.run(RELAY)
        self.run("camera_driver", str(self.lost), *CAMERAS)
        environment = {**without_shared_memory(folder), SWITCH: str(self.policy)}
        given = {"policy": "expert_policies:experts", "use_sim_time": "true", "publish_commands": "true", **AGES}
        self.process = start_node(functools.partial(start, **environment), **given)

        self.node, self.other = ros.create_node("operator"), ros.create_node("other_client")
        self.executor = SingleThreadedExecutor()
        for node in (self.node, self.other):
            self.executor.add_node(node)
        self.operator = Operator(self.node)
        self.clients = (self.operator.run_task, ActionClient(self.other, RunTask, "/policy_node/run_task"))
        create, subscribe = self.node.create_client, self.node.create_subscription
        self.reset, self.teleoperation = create(Trigger, "/sim/reset"), create(SetBool, "/sim/set_teleoperation")
        self.commands, self.stops, self.truth = [], {}, [(0.0, 0.0)]
        for side, arm in PROFILE.arms.items():
            subscribe(JointState, arm.target_topic, lambda m, info: self.heard("target", info), 200)
            topic = PROFILE.grippers[side].command_topic
            subscribe(Float32, topic, lambda m, info: self.heard("gripper", info), 200)
        self.somebody = self.node.create_publisher(Float32, PROFILE.enable_topic, 10)
        subscribe(Float32, PROFILE.enable_topic, self.on_enable, 200)
        subscribe(EpisodeEvent, "/episode_event", self.on_event, 50)
        subscribe(Float32, "/sim/progress", lambda m, info: self.truth.append((sent_s(info), m.data)), 50)

    def start_robot(self):
        """The next one has the other task's scene."""
        self.scene = next(scene for scene in WORDS.values() if scene != self.scene)
        remaps = [word for topic in CAMERAS for word in ("-r", f"{topic}:=/driver{topic}")]
        self.robot = self.run(ROBOT, *parameters(image_scale=0.05, task=self.scene, seed=3), *remaps)

    def heard(self, what, info, enables=False):
        self.commands.append(Command(sent_s(info), what, enables))

    def on_enable(self, message, info):
        if message.data > 0 or math.copysign(1, message.data) < 0:  # else a pause of somebody else's
            self.heard("enable", info, message.data > 0)

    def on_event(self, message, info):
        if message.event == EpisodeEvent.STOP:
            self.stops[message.episode_id] = sent_s(info)

    def spin(self):
        assert self.process.poll() is None, self.process.log()[-3000:]
        self.executor.spin_once(timeout_sec=0.02)

    def until(self, condition, what):
        try:
            wait_for(condition, self.spin, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the node's last words:\n{self.process.log()[-3000:]}") from None

    def wait(self, seconds, unless=lambda: False):
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and not unless():
            self.spin()

    def ask(self, client, request):
        """An answer, of a server that may have been started just now."""

        def answered():
            asked = client.call_async(request)
            self.wait(3.0, asked.done)
            return asked.done() and asked.result().success

        self.until(lambda: client.service_is_ready() and answered(), f"an answer of {client.srv_name}")

    def poses(self, seconds):
        """Of all joints, rad (n, 14), from now on for so long by the robot's stamps."""
        found = {side: [] for side in PROFILE.arms}
        subscriptions = [
            self.node.create_subscription(JointState, arm.state_topic, found[side].append, 10)
            for side, arm in PROFILE.arms.items()
        ]
        enough = lambda of: of and stamp_s(of[-1]) - stamp_s(of[0]) >= seconds  # noqa: E731
        self.until(lambda: all(map(enough, found.values())), "states of the arms")
        for subscription in subscriptions:
            self.node.destroy_subscription(subscription)
        rows = min(map(len, found.values()))
        return np.concatenate([np.array([m.position for m in of[-rows:]]) for of in found.values()], axis=1)

    # --- what is looked for ---

    def commanded(self, since_s, until_s=math.inf):
        """What was commanded between two moments although the goal had ended, or the operator had taken over.

        What was on its way at the first of them, before the pause, does not count.
        """
        before = [c for c in self.commands if c.what == "enable" and c.sent_s <= since_s]
        from_s = since_s
        if before and max(before).enables:  # then a pause comes
            paused = lambda: [c.sent_s for c in self.commands if self.pauses(c) and c.sent_s > since_s]  # noqa: E731
            self.until(paused, "the pause")
            from_s = min(paused())
            on_its_way = [c for c in self.commands if since_s < c.sent_s < from_s]
            assert len(on_its_way) <= ONE_TICK, sorted(on_its_way)[:20]
        after = sorted(c for c in self.commands if c.sent_s > from_s and not self.pauses(c))
        return [c for c in after if c.sent_s <= until_s]

    @staticmethod
    def pauses(command):
        return command.what == "enable" and not command.enables

    def paused(self):
        """Whether the last that was said to the robot is a pause."""
        enables = [command for command in self.commands if command.what == "enable"]
        return not enables or not max(enables).enables

    def done(self, until_s):
        """Whether the simulator says that its task was done at a moment, and since when, s."""
        told = [(at_s, value) for at_s, value in self.truth if at_s <= until_s]
        began = next((i for i in range(len(told) - 1, -1, -1) if told[i][1] < 1.0), -1)
        return (True, told[began + 1][0]) if told[-1][1] == 1.0 else (False, math.nan)

    def last_state(self):
        said = [line.split("]: ", 1)[-1] for line in self.process.log().splitlines()]
        return next((s for s in (words.partition(":")[0] for words in reversed(said)) if s in State.__members__), "")

    # --- from goal to goal ---

    def goal(self, task):
        """Arm, begin anew in the simulation, and give a goal; patiently, as an operator would."""
        while True:
            self.until(self.operator.arm, "arming")
            self.ask(self.reset, Trigger.Request())
            self.wait(0.3)
            moved = [command for command in self.commands if command.what != "enable" or command.enables]
            assert not moved, f"commanded before there was a goal: {moved[:5]}"
            goal = Goal(self, self.clients[0], task)
            if goal.accepted:
                return goal

    def now(self, goal):
        """The time at which something befalls the goal, s; in which state it is then is kept."""
        self.then = State(goal.state()).name
        return time.time()

    def heal(self):
        """Everything as it should be, whatever was done."""
        self.policy.write_text("")
        self.lost.write_text("")
        self.robot.send_signal(signal.SIGCONT)
        if self.robot.poll() is not None:
            self.start_robot()
        if self.relay.poll() is not None:
            self.relay = self.run(RELAY)
        self.ask(self.teleoperation, SetBool.Request(data=False))


def sent_s(info):
    return info["source_timestamp"] * 1e-9


# --- what befalls goals: each does it, and returns when it was done, s; None if the goal had ended before ---


def nothing(bench, goal):
    """It is done in the end."""
    bench.until(goal.ending.done, "the end")
    return bench.done(goal.stop_s())[1]


def canceled(bench, goal):
    at_s = bench.now(goal)
    goal.handle.cancel_goal_async()
    return at_s


def preempted(bench, goal):
    at_s = bench.now(goal)
    goal = Goal(bench, bench.clients[1], str(bench.rng.choice(list(WORDS))), preempt=True)
    bench.next = goal if goal.accepted else None
    return at_s if goal.accepted else None


def camera_lost(bench, goal):
    at_s = bench.now(goal)
    bench.lost.write_text(bench.rng.choice(CAMERAS))
    return at_s


def policy(fault):
    def fails(bench, goal):
        at_s = bench.now(goal)
        bench.policy.write_text(fault)
        return at_s

    return fails


def paused(bench, goal):
    at_s = bench.now(goal)
    bench.somebody.publish(Float32(data=0.0))
    return at_s


def robot_killed(bench, goal):
    at_s = bench.now(goal)
    bench.robot.kill()
    bench.robot.wait()
    return at_s


def robot_frozen(bench, goal):
    at_s = bench.now(goal)
    bench.robot.send_signal(signal.SIGSTOP)
    return at_s


def relay_killed(bench, goal):
    at_s = bench.now(goal)
    bench.relay.kill()
    bench.relay.wait()
    return at_s


def while_held(then):
    """The node itself holds, as a camera is lost or the policy late, when something else happens."""

    def befalls(bench, goal):
        if not goal.reaches(State.RUNNING):
            return None
        bench.rng.choice([camera_lost, policy("hang")])(bench, goal)
        if not goal.reaches(State.HOLDING):
            return None
        bench.wait(bench.rng.uniform(0, 0.5))
        return None if goal.ending.done() else then(bench, goal)

    return befalls


def taken_over(then):
    """The operator takes over by teleoperation; ``then`` the arms are handed back, or it ends before that."""

    def befalls(bench, goal):
        if not goal.reaches(State.RUNNING):
            return None
        bench.ask(bench.teleoperation, SetBool.Request(data=True))
        if not goal.reaches(State.TAKEN_OVER):
            return None
        since_s = time.time()
        if then is not nothing:
            operate(bench)
        bench.wait(bench.rng.uniform(0, 2))
        if then is canceled:
            at_s = canceled(bench, goal)
        else:
            bench.ask(bench.teleoperation, SetBool.Request(data=False))
            bench.wait(bench.rng.uniform(0, 2))
            assert goal.state() == State.TAKEN_OVER and not bench.commanded(since_s), "until it is handed back"
            bench.until(lambda: bench.operator.arm(hand_back=True) or goal.ending.done(), "handing back")
            if not goal.reaches(State.RUNNING):
                return None
            bench.wait(bench.rng.uniform(0, 3), goal.ending.done)
            at_s = None if then is not nothing and goal.ending.done() else (then or canceled)(bench, goal)
        bench.until(goal.ending.done, "the result")
        assert goal.ending.result().result.interventions == 1
        return at_s

    return befalls


def operate(bench):
    """The operator turns the wrists; the simulated robot follows."""
    before, operators = bench.poses(0.05)[-1], []
    for side, arm in PROFILE.arms.items():
        operators.append((bench.node.create_publisher(JointState, arm.teleoperation_topic, 10), side))
    target = before + 0.1 * np.isin(np.arange(14), (6, 13)) * -np.sign(before)

    def turned():
        for publisher, side in operators:
            position = target[:7] if side == "left" else target[7:]
            publisher.publish(JointState(name=list(PROFILE.arms[side].joints), position=position.tolist()))
        return np.abs(bench.poses(0.05)[-1] - before)[[6, 13]].min() > 0.05

    bench.until(turned, "wrists that the operator turned")
    for publisher, _ in operators:
        bench.node.destroy_publisher(publisher)


class Event(NamedTuple):
    """What befalls a goal, for what reason it ends then, and the state of the node afterwards."""

    befalls: Callable[[Bench, Goal], float | None]
    reason: Reason
    after: State = State.LOOKING


EVENTS = {
    "canceled": Event(canceled, Reason.CANCELED, State.ARMED),
    "`enable` 0": Event(paused, Reason.PAUSED),
    "nothing, and the task is done": Event(nothing, Reason.SUCCEEDED, State.ARMED),
    "canceled while holding": Event(while_held(canceled), Reason.CANCELED, State.ARMED),
    "preempted by another client": Event(preempted, Reason.PREEMPTED, State.ARMED),
    "a camera falls silent": Event(camera_lost, Reason.INPUTS_LOST),
    "the robot is killed": Event(robot_killed, Reason.ROBOT_LOST),
    "the robot hangs": Event(robot_frozen, Reason.ROBOT_LOST),
    "the relay is killed": Event(relay_killed, Reason.ROBOT_LOST),
    "the policy raises": Event(policy("raise"), Reason.POLICY_LOST),
    "the policy's numbers are not finite": Event(policy("nan"), Reason.POLICY_LOST),
    "the policy hangs": Event(policy("hang"), Reason.POLICY_LOST),
    "`enable` 0 while holding": Event(while_held(paused), Reason.PAUSED),
    "taken over, handed back, done": Event(taken_over(nothing), Reason.SUCCEEDED, State.ARMED),
    "taken over, handed back, canceled": Event(taken_over(None), Reason.CANCELED, State.ARMED),
    "taken over, canceled": Event(taken_over(canceled), Reason.CANCELED),
}


def befall(bench, name):
    """One goal: from cause to result, s, the state before, the reason, and those for which it was given anew."""
    event, done, tasks = EVENTS[name], name.endswith("done"), {scene: words for words, scene in WORDS.items()}
    anew = []
    while len(anew) < TRIES:
        if done and bench.next:  # the task is to be done from its beginning on
            bench.next.handle.cancel_goal_async()
            bench.until(bench.next.ending.done, "the end of the goal that preempted")
            stop_s, bench.next = bench.next.stop_s(), None
            rests(bench, Reason.CANCELED, stop_s, EVENTS["canceled"])
        task = tasks[bench.scene] if done else str(bench.rng.choice(list(WORDS)))
        goal, bench.next = bench.next or bench.goal(task), None
        moment_s = bench.rng.uniform(0, LATEST_S)
        bench.wait(moment_s, goal.ending.done)
        bench.now(goal)
        cause_s = None if goal.ending.done() else event.befalls(bench, goal)
        bench.until(goal.ending.done, "the result")
        result, stop_s = goal.ending.result().result, goal.stop_s()
        reason, in_time = Reason(result.termination_reason), cause_s is not None and stop_s >= cause_s
        took_s = stop_s - cause_s if in_time else math.nan
        print(
            f"  {goal.task!r}, {moment_s:.1f} s on, {bench.then}: {name} -> {reason.name} after {took_s:.2f} s: "
            f"{result.message}",
            flush=True,
        )
        rests(bench, reason, stop_s, event)
        starved = reason != event.reason and any(text in result.message for text in STARVED)
        unsaid = reason == Reason.PAUSED and name.startswith("taken over")  # the robot's mode came later than 1 s
        if (starved and reason in LATE) or (not in_time and (unsaid or reason in LATE)):
            anew.append(reason)
            continue
        assert reason == event.reason, result.message
        assert (result.outcome == RunTask.Result.SUCCESS) == (reason == Reason.SUCCEEDED)
        assert bench.done(stop_s)[0] or reason != Reason.SUCCEEDED, "the simulator says that it is not done"
        return took_s, bench.then, reason, anew
    raise AssertionError(f"{name}: ended {TRIES} times before anything was done to it: {result.message}")


def rests(bench, reason, stop_s, event):
    """After the end: the state is the right one, nothing is commanded whatever comes back, and the arms rest."""
    if bench.next is not None:
        assert not bench.commanded(stop_s, stop_s + PAUSE_S), "within the pause between the two"
        return
    after = event.after if reason == event.reason else State.LOOKING
    bench.until(lambda: bench.last_state() == after.name, f"{after.name} after {reason.name}")
    bench.until(lambda: bench.paused(), "the pause")
    bench.heal()
    bench.wait(0.7)
    moved = np.ptp(bench.poses(0.3), axis=0).max()
    assert moved < 0.01, f"the arms moved by {moved:.3f} rad after the end"
    wrong = bench.commanded(stop_s)
    assert not wrong, f"commanded after the end: {wrong[:5]}"
    bench.commands.clear()


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_fifty_goals_end_for_their_reasons_and_move_nothing_afterwards(start, ros, tmp_path):
    rng = np.random.default_rng(SEED)
    names = [list(EVENTS)[i % len(EVENTS)] for i in range(GOALS)]
    rng.shuffle(names)
    bench, table = Bench(ros, start, tmp_path, rng), {name: [] for name in EVENTS}
    bench.until(lambda: bench.operator.run_task.server_is_ready(), "the action")
    for number, name in enumerate(names, 1):
        print(f"goal {number} of {GOALS}", flush=True)
        table[name].append(befall(bench, name))
    assert bench.process.poll() is None
    bench.process.send_signal(signal.SIGINT)
    assert bench.process.wait(PATIENCE_S) == 0, "the node that carried out all of them"
    print(f"\nseed {SEED}, two tasks, one node; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| what happened | goals | state then | reason | worst s from cause to result | given anew |\n|" + 6 * "---|")
    for name, rows in table.items():
        states = {state: [took_s for took_s, at, *_ in rows if at == state] for _, state, *_ in rows}
        told = ", ".join(f"{state} {len(took_s)}" for state, took_s in states.items())
        worst = ", ".join(f"{max(took_s):.2f} ({state})" for state, took_s in states.items())
        reasons = ", ".join({reason.name for _, _, reason, _ in rows})
        anew = Counter(reason.name for *_, again in rows for reason in again)
        again = ", ".join(f"{count} {reason}" for reason, count in anew.items())
        print(f"| {name} | {len(rows)} | {told} | {reasons} | {worst} | {again} |")
