"""The program ``do``: a task from the terminal, its progress there, and what became of it by its exit status."""

import os
import pty
import signal

import pytest
from undisturbed import undisturbed

DO = "pi05_progress_ros.do"


def _ended(robot, program):
    """What a program said, and its exit status."""
    robot.until(lambda: program.poll() is not None, "its end")
    return program.log(), program.returncode


def _do(robot, start, *words):
    return _ended(robot, start(DO, *words))


def _moving(robot, start):
    """``do`` at work."""
    robot.until(lambda: robot.operator.arm(False), "disarming")
    robot.forget()
    program = start(DO, "swing", "--yes")
    robot.until(lambda: robot.moved() and robot.state() == "RUNNING", "motion")
    return program


@undisturbed
def test_do_shows_progress_and_tells_success_by_its_exit_status(bench):
    _, robot, start = bench
    robot.until(lambda: robot.operator.arm(False), "disarming")
    said, status = _do(robot, start, "rise", "--yes")
    assert status == 0 and ("SUCCEEDED: done after" in said or "ALREADY_DONE: " in said), said
    robot.until(lambda: robot.state() == "LOOKING", "disarmed in the end")


@undisturbed
def test_do_tells_by_its_exit_status_that_time_was_up(bench):
    _, robot, start = bench
    robot.until(lambda: robot.operator.arm(False), "disarming")
    said, status = _do(robot, start, "swing", "--yes", "--max-duration", "2")
    assert status == 4 and "TIMED_OUT: not done within 2 s" in said


@undisturbed
def test_do_does_not_take_the_place_of_a_goal(bench):
    _, robot, start = bench
    program = _moving(robot, start)
    said, status = _do(robot, start, "rise", "--yes")
    assert status == 3 and "not armed: a goal is there already" in said and program.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.long)])
@undisturbed
def test_do_told_to_end_cancels_its_goal_and_disarms(bench, number):
    _, robot, start = bench
    program = _moving(robot, start)
    program.send_signal(number)
    said, status = _ended(robot, program)
    assert status == 130 and "CANCELED: the goal was canceled" in said
    robot.until(lambda: robot.state() == "LOOKING", "disarmed in the end")


@undisturbed
def test_do_says_why_nothing_moves(bench):
    _, robot, start = bench
    robot.until(lambda: robot.operator.arm(False), "disarming")
    said, status = _do(robot, start, "rise")
    assert status == 1 and "nobody can be asked here whether the robot may move: give --yes" in said
    robot.silent = {"head_camera"}
    robot.until(robot.unknown, "a camera that is missed")
    said, status = _do(robot, start, "swing", "--yes")
    assert status == 3 and "not armed: head_camera" in said


@undisturbed
def test_ctrl_c_at_the_question_of_do_is_obeyed_at_once(bench):
    node, robot, start = bench
    ours, theirs = pty.openpty()
    before = len(node.log())
    program = start(DO, "swing", before=lambda: os.dup2(theirs, 0))
    robot.until(lambda: "Arm it?" in program.log(), "the question")
    program.send_signal(signal.SIGINT)
    robot.until(lambda: program.poll() is not None, "its end, without an answer")
    assert program.returncode == 130 and "canceled before anything was armed" in program.log()
    assert "goal: 'swing'" not in node.log()[before:]
    os.close(ours)
    os.close(theirs)
