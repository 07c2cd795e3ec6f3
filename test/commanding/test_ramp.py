"""The slow way to the start: from rest to rest, within its bounds, and only as far as the arms follow."""

import numpy as np
import pytest

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.commanding.ramp import ACCELERATION, SPEED, Ramp
from pi05_progress_ros.commanding.state_machine import Reason

PROFILE = RobotProfile.load("teleavatar")
START = {side: arm.limits().mean(axis=1) for side, arm in PROFILE.arms.items()}
GOAL = np.concatenate(list(START.values())) + np.linspace(-0.4, 0.4, 14)
PERIOD_S = 0.01


def pose(row):
    return row[PROFILE.layout.arm_columns]


def by_arm(values):
    return dict(zip(PROFILE.arms, np.split(values, 2), strict=True))


@pytest.mark.parametrize("most", [1.0, 0.05])
def test_it_goes_to_the_goal_no_faster_than_it_may(most):
    ramp, way = Ramp(START, GOAL, PROFILE, most), []
    while ramp.ending(by_arm(pose(ramp.target()))) is None:
        way.append(pose(ramp.target()))
        ramp.advance(PERIOD_S)
    way = np.array(way)
    speed = np.diff(way, axis=0) / PERIOD_S
    assert np.abs(speed).max() <= min(SPEED, most) + 1e-6
    assert np.abs(np.diff(speed, axis=0)).max() / PERIOD_S <= ACCELERATION + 1e-3
    np.testing.assert_allclose(way[0], np.concatenate(list(START.values())))
    np.testing.assert_allclose(way[-1], GOAL, atol=1e-3)
    assert ramp.ending(by_arm(way[-1])).reason == Reason.SUCCEEDED


def test_without_time_in_which_the_arms_follow_it_stays():
    ramp = Ramp(START, GOAL, PROFILE, 1.0)
    before = ramp.target()
    ramp.advance(0.0)
    np.testing.assert_array_equal(ramp.target(), before)


def test_arms_that_do_not_arrive_end_it_with_the_joint():
    ramp = Ramp(START, GOAL, PROFILE, 1.0)
    short = GOAL - 0.2 * (np.arange(14) == 8)
    for _ in range(2000):
        ramp.advance(PERIOD_S)
    ending = ramp.ending(by_arm(short))
    assert ending.reason == Reason.STALLED
    assert ending.text == "r_joint2 stays 0.20 rad from where it should be"
    assert ramp.ending({"left": short[:7]}) is None, "where an arm is not known it is not judged"


def test_arms_that_were_moved_meanwhile_go_on_slowly_from_where_they_are():
    ramp, moved = Ramp(START, GOAL, PROFILE, 1.0), GOAL - 0.7
    for _ in range(200):
        ramp.advance(PERIOD_S)
    ramp.restart(by_arm(moved))
    way = [pose(ramp.target())]
    while len(way) < 5000 and np.abs(way[-1] - GOAL).max() > 1e-6:
        ramp.advance(PERIOD_S)
        way.append(pose(ramp.target()))
    np.testing.assert_allclose(way[0], moved)
    np.testing.assert_allclose(way[-1], GOAL, atol=1e-6)
    assert np.abs(np.diff(way, axis=0)).max() / PERIOD_S <= SPEED + 1e-6
