"""Tests of a robot at work, on a machine that may keep an input from the node at any time."""

import functools
import inspect
import time

from conftest import PATIENCE_S


class MissedError(AssertionError):
    """The node has missed what was sent to it, as on a busy machine it may at any time."""


def undisturbed(test):
    """Begin a test anew, for a while, if it failed and the node missed meanwhile what the robot sent.

    That ends a goal and disarms, as it must, and is not what the test is about. The robot's ``begin`` is what the
    fixture, the test's first argument, does before a test. After something was withheld nothing counts as missed: see
    ``FakeRobot.running``.
    """
    fixture = next(iter(inspect.signature(test).parameters))

    @functools.wraps(test)
    def tried(**fixtures):
        robot, until_s = fixtures[fixture][1], time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            robot.watched_from, robot.withheld = len(robot.process.log()), False
            try:
                return test(**fixtures)
            except AssertionError:
                if not robot.missed():
                    raise
            finally:
                robot.watched_from = None
            robot.begin()
        return test(**fixtures)

    return tried
