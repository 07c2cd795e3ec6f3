"""Fifty goals in a row before the simulated robot: whatever befalls them at random moments is the reason of the result.

What befell a goal the script knows, as it did it; whether a task was done the simulator knows. After every end it is
looked for commands, and whether the simulated arms rest. All times are stamps: of the sender of a message, or of this
process just before it does something.
"""

import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from conftest import PATIENCE_S
from expert_policies import WORDS
from goal_bench import CAMERAS, PROFILE, Bench, Goal
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32
from std_srvs.srv import SetBool

from pi05_progress_msgs.action import RunTask
from pi05_progress_ros.commanding.state_machine import PAUSE_S, Reason, State

GOALS, SEED = 50, 7
LATEST_S = 5.0  # after a goal was accepted, or the arms were moved, something befalls it
TRIES = 40  # of a goal that a busy machine ended: before anything was done to it an input or an answer was late, or ...
LATE = {Reason.INPUTS_LOST, Reason.ROBOT_LOST, Reason.POLICY_LOST, Reason.LIMIT}
STARVED = ("arm_relay/status: nothing for more than 0.3 s", "measured")  # ... the relay was, or arms caught up with it


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


def killed(which):
    """The robot or its relay."""

    def befalls(bench, goal):
        at_s, process = bench.now(goal), getattr(bench, which)
        process.kill()
        process.wait()
        return at_s

    return befalls


def robot_frozen(bench, goal):
    at_s = bench.now(goal)
    bench.robot.send_signal(signal.SIGSTOP)
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
    "the robot is killed": Event(killed("robot"), Reason.ROBOT_LOST),
    "the robot hangs": Event(robot_frozen, Reason.ROBOT_LOST),
    "the relay is killed": Event(killed("relay"), Reason.ROBOT_LOST),
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
