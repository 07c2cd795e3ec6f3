"""What is commanded from tick to tick, by the rules that the node and the simulation's closed loop share."""

import numpy as np
import pytest

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState
from pi05_progress_ros.commanding.command_rules import HOLD_S, PAUSE_S, PAUSED, CommandRules, CommandSettings

PROFILE = RobotProfile.load("teleavatar")
PAUSE, SLOW_START, READY = FsmState
PERIOD = 0.01


def middle():
    """Both arms in the middle of their ranges, rad."""
    return {side: PROFILE.arms[side].limits().mean(axis=1) for side in PROFILE.arms}


def target_at(positions):
    target = np.zeros(16)
    for side in PROFILE.arms:
        target[PROFILE.layout.arms[side]] = positions[side]
    return target


class Robot:
    """Arms that are where they were commanded, ticked by the rules."""

    def __init__(self, **settings):
        self.rules, self.positions, self.now = CommandRules(PROFILE, CommandSettings(**settings)), middle(), 100.0

    def tick(self, target, fsm=READY, follows=True):
        """What speaks against it, or the step; it is halted as the callers do."""
        self.now += PERIOD
        objection = self.rules.objection(fsm, target, self.positions, self.now)
        if objection.reason:
            if self.rules.commanding:
                self.rules.stop(self.now)
            return objection
        step = self.rules.step(fsm, target, self.positions, PERIOD)
        if follows:
            self.positions = step.arms
        return step


def test_nothing_is_commanded_before_a_chunk_and_then_the_pose_that_is_there():
    robot = Robot()
    assert robot.tick(None, PAUSE).reason == "no chunk yet" and not robot.rules.commanding
    before, far = robot.positions, middle()
    far["left"] = far["left"] + 0.3
    for fsm, name in ((PAUSE, "PAUSE"), (SLOW_START, "SLOW_START")):
        step = robot.tick(target_at(far), fsm)
        assert step.waits_for == f"waiting for the robot to be READY, it is in {name}" and step.grippers == {}
        assert all((step.arms[side] == before[side]).all() for side in PROFILE.arms)
    step = robot.tick(target_at(far))
    assert step.waits_for == "" and set(step.grippers) == set(PROFILE.arms)
    np.testing.assert_allclose(step.arms["left"] - before["left"], 1.0 * PERIOD)  # rad/s


def test_the_end_of_a_chunk_is_held_then_it_stops_pauses_and_goes_on_with_the_next():
    robot = Robot()
    here = target_at(middle())
    robot.tick(here)
    held = [robot.tick(None) for _ in range(round(HOLD_S / PERIOD) - 1)]
    assert {step.waits_for for step in held} == {"the chunk has ended: holding its last target"}
    ended = [robot.tick(None) for _ in range(3)]
    assert f"no new actions for {HOLD_S:g} s" in [e.reason for e in ended if hasattr(e, "reason")]
    assert not robot.rules.commanding
    pausing = [robot.tick(here) for _ in range(round(PAUSE_S / PERIOD) - 3)]
    assert {p.reason for p in pausing} == {"pausing after a stop"} and not any(p.for_good for p in pausing)
    for _ in range(5):
        step = robot.tick(here)
    assert step.waits_for == "" and robot.rules.commanding


def test_a_robot_that_falls_back_was_paused_by_somebody_and_that_is_for_good():
    robot = Robot()
    here = target_at(middle())
    assert robot.tick(here, READY).waits_for == ""
    for fsm in (SLOW_START, PAUSE, None):
        assert robot.rules.objection(fsm, here, robot.positions, robot.now) == (PAUSED, True)


def test_an_arm_that_does_not_follow_ends_it_for_good():
    robot = Robot(max_tracking_error=0.105)
    far = middle()
    far["right"] = far["right"] + 0.5
    answers = [robot.tick(target_at(far), follows=False) for _ in range(15)]
    blocked = next(answer for answer in answers if hasattr(answer, "for_good"))
    assert "is the arm blocked?" in blocked.reason and blocked.for_good
    assert answers.index(blocked) == 11  # the first tick at which it is more than 0.105 rad away


@pytest.mark.parametrize("side", PROFILE.arms)
def test_arms_outside_their_range_are_not_commanded(side):
    robot = Robot()
    robot.positions[side] = robot.positions[side].copy()
    robot.positions[side][2] = PROFILE.arms[side].limits()[2, 1] + 0.2
    objection = robot.tick(target_at(middle()))
    assert objection.reason == f"{PROFILE.arms[side].joints[2]} is 0.20 rad outside its range: move the arm by hand"
    assert not objection.for_good
