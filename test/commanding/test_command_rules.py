"""What is commanded from tick to tick, by the rules that the node and the simulation's closed loop share."""

import numpy as np
import pytest

from pi05_progress.robots.joints import JointValues
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState
from pi05_progress_ros.commanding.command_rules import CommandRules, CommandSettings
from pi05_progress_ros.commanding.state_machine import Reason

PROFILE = RobotProfile.load("teleavatar")
PAUSE, SLOW_START, READY = FsmState
PERIOD = 0.01


def middle():
    """Both arms near the middle of their ranges, above the table, rad."""
    limits = {side: PROFILE.arms[side].limits() for side in PROFILE.arms}
    return {side: np.clip(of.mean(axis=1) + 0.3, *of.T) for side, of in limits.items()}


def target_at(positions):
    target = np.zeros(16)
    for side in PROFILE.arms:
        target[PROFILE.layout.arms[side]] = positions[side]
    return target


class Robot:
    """Arms that are where they were commanded, ticked by the rules."""

    def __init__(self, **settings):
        self.rules, self.positions, self.now_s = CommandRules(PROFILE, CommandSettings(**settings)), middle(), 0.0
        self.rules.limits.full_speed = True

    def tick(self, target, fsm=READY, follows=True):
        """The limit that is broken, or the step."""
        self.now_s += PERIOD
        arms = {side: JointValues(pose, np.zeros(7), np.zeros(7)) for side, pose in self.positions.items()}
        if limit := self.rules.limit(arms, self.now_s):
            self.rules.stop()
            return limit
        step = self.rules.step(fsm, target, self.positions, PERIOD)
        if follows:
            self.positions = step.arms
        return step


def test_the_pose_that_is_there_is_commanded_until_the_robot_is_ready():
    robot, before, far = Robot(), middle(), middle()
    far["left"] = far["left"] + 0.3
    for fsm, name in ((PAUSE, "PAUSE"), (SLOW_START, "SLOW_START")):
        step = robot.tick(target_at(far), fsm)
        assert step.waits_for == f"waiting for the robot to be READY, it is in {name}" and step.grippers == {}
        assert all((step.arms[side] == before[side]).all() for side in PROFILE.arms)
    step = robot.tick(target_at(far))
    assert step.waits_for == "" and set(step.grippers) == set(PROFILE.arms)
    np.testing.assert_allclose(step.arms["left"] - before["left"], 15.0 * PERIOD**2)  # rad/s^2


def test_without_a_target_the_pose_measured_then_is_held_and_gone_on_from():
    robot, far = Robot(), middle()
    far["left"] = far["left"] + 0.3
    robot.tick(target_at(far))
    robot.positions = {side: position - 0.02 for side, position in robot.positions.items()}  # arms sag
    there = robot.positions
    for _ in range(3):
        step = robot.tick(None, follows=False)
        assert all((step.arms[side] == there[side]).all() for side in PROFILE.arms) and step.grippers == {}
        robot.positions = {side: position - 0.01 for side, position in robot.positions.items()}
    np.testing.assert_allclose(robot.tick(target_at(far)).arms["left"] - there["left"], 15.0 * PERIOD**2)


def test_an_arm_that_does_not_follow_is_at_its_limit():
    robot = Robot(max_tracking_error=0.105)
    far = middle()
    far["right"] = far["right"] + 0.5
    answers = [robot.tick(target_at(far), follows=False) for _ in range(20)]
    broken = next(answer for answer in answers if hasattr(answer, "reason"))
    assert broken.reason == Reason.LIMIT and "is the arm blocked?" in broken.text
    assert answers.index(broken) == 14  # the first tick at which it is more than 0.105 rad away


@pytest.mark.parametrize("side", PROFILE.arms)
def test_arms_outside_their_range_are_named(side):
    rules, positions = CommandRules(PROFILE, CommandSettings()).limits, middle()
    assert rules.outside(positions) == ""
    positions[side] = positions[side].copy()
    positions[side][2] = PROFILE.arms[side].limits()[2, 1] + 0.2
    joint = PROFILE.arms[side].joints[2]
    most = "at most 0.05 rad are allowed"
    assert rules.outside(positions) == f"{joint} is 0.20 rad outside its range, {most}: move the arm by hand"


def test_arms_that_move_away_from_what_they_are_too_near_to_may_be_held_on_the_way():
    rules, measured = CommandRules(PROFILE, CommandSettings()), {s: pose - 0.19 for s, pose in middle().items()}
    for _ in range(25):  # a relay lags behind
        step = rules.step(READY, target_at(middle()), measured, PERIOD)
        measured = {s: pose + 0.07 * (step.arms[s] - pose) for s, pose in measured.items()}
    held = rules.step(READY, None, measured, PERIOD)
    assert all((held.arms[side] == measured[side]).all() for side in measured)
