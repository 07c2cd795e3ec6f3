"""When a goal has ended, by progress and by time."""

import math

import pytest

from pi05_progress.estimate.status import Status
from pi05_progress_ros.commanding.goal import GoalJudge, GoalLimits
from pi05_progress_ros.commanding.state_machine import Reason

UNKNOWN, ADVANCING, STALLED, _, SUCCEEDED, FAILED = Status
COURSES = {  # limits, then (time, progress, status), then the reason and when it is given
    "done": ({}, [(0, 0.1, ADVANCING), (9, 0.97, ADVANCING), (10, 0.97, SUCCEEDED)], (Reason.SUCCEEDED, 10)),
    "found done": ({}, [(0, 0.97, UNKNOWN), (1, 0.97, SUCCEEDED)], (Reason.ALREADY_DONE, 1)),
    "a threshold for 2 s": (
        {"success_threshold": 0.8, "success_hold_s": 2.0},
        [(0, 0.1, ADVANCING), (5, 0.85, ADVANCING), (6, 0.75, ADVANCING), (7, 0.85, ADVANCING), (8, 0.9, STALLED)],
        (Reason.SUCCEEDED, 9),
    ),
    "no progress": ({"stall_timeout_s": 5.0}, [(0, 0.1, ADVANCING), (8, 0.2, STALLED)], (Reason.STALLED, 13)),
    "progress again": (
        {"stall_timeout_s": 5.0},
        [(0, 0.1, STALLED), (4, 0.3, ADVANCING), (6, 0.3, STALLED)],
        (Reason.STALLED, 11),
    ),
    "failed": ({"stop_on_failure": True}, [(3, 0.4, FAILED), (3.5, 0.4, FAILED)], (Reason.FAILED, 4)),
    "failed for a moment": ({"stop_on_failure": True}, [(3, 0.4, FAILED), (3.9, 0.4, STALLED)], (Reason.TIMED_OUT, 20)),
    "failed again": (
        {"stop_on_failure": True},
        [(3, 0.4, FAILED), (3.5, 0.4, ADVANCING), (3.7, 0.4, FAILED), (4.2, 0.4, FAILED)],
        (Reason.FAILED, 4.7),
    ),
    "failed and tried on": ({}, [(3, 0.4, FAILED)], (Reason.TIMED_OUT, 20)),
    "no estimate": ({}, [(0, math.nan, UNKNOWN)], (Reason.TIMED_OUT, 20)),
    "nearly done, then unlike the data": (
        {"success_threshold": 0.8, "success_hold_s": 2.0},
        [(0, 0.1, ADVANCING), (5, 0.9, ADVANCING), (6, math.nan, UNKNOWN)],
        (Reason.TIMED_OUT, 20),
    ),
    "unknown and then done": ({}, [(0, math.nan, UNKNOWN), (2, 0.99, SUCCEEDED)], (Reason.ALREADY_DONE, 2)),
}


@pytest.mark.parametrize("course", COURSES)
def test_a_goal_ends_for_its_reason_and_not_before(course):
    limits, heard, (reason, when) = COURSES[course]
    began_s = 1000.0
    judge = GoalJudge(GoalLimits(**{"max_duration_s": 20.0, "stall_timeout_s": 60.0, **limits}), began_s)
    for tick in range(210):
        now_s = began_s + tick / 10
        for time_s, progress, status in heard:
            if time_s == tick / 10:
                judge.hear(progress, status, now_s)
        if ending := judge.ending(now_s):
            break
    assert (ending.reason, tick / 10) == (reason, when)
