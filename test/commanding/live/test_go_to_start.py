"""Tasks begin where training episodes did, and ~/go_to_start brings the arms there."""

import numpy as np
import pytest
from fake_robot import HOME, LONG, PROFILE, FakeRobot, start_node
from rclpy.action import ActionClient

from pi05_progress.checkpoints.starts import Starts, add_starts
from pi05_progress_msgs.action import RunTask

R = RunTask.Result
AWAY_RAD = 0.4  # from where the arms are, of two joints of each
START = np.concatenate(list(HOME.values())) + AWAY_RAD * np.isin(np.arange(14), (1, 4, 8, 11))
AGES = {"image_timeout_s": 1.0, "joint_timeout_s": 1.0, "skew_limit_s": 0.5}


@pytest.fixture
def bench(start, ros, tmp_path):
    states = np.zeros((2, 48), np.float32)
    states[:, PROFILE.layout.arm_columns] = START
    add_starts(tmp_path / "checkpoint", Starts.of(PROFILE, {}, states, ["swing"]))
    node = start_node(start, publish_commands="true", checkpoint=tmp_path / "checkpoint", **AGES)
    robot = FakeRobot(ros, node)
    return node, robot, ActionClient(robot.node, RunTask, "/policy_node/go_to_start")


def test_a_task_far_from_the_start_is_refused_and_the_arms_are_brought_there(bench):
    node, robot, go = bench

    def away():
        return np.abs(np.concatenate(list(robot.positions.values())) - START).max()

    def begin():
        """Arm as often as it takes, and send the arms to the start."""
        robot.until(robot.operator.arm, "arming")
        sent = go.send_goal_async(RunTask.Goal(max_duration_s=600.0))
        robot.until(sent.done, "an answer to the goal")
        assert sent.result().accepted, node.log()
        return sent.result()

    robot.until(lambda: robot.operator.arm(), "arming")
    refused = robot.operator.send("swing")
    robot.until(refused.done, "an answer to the goal")
    assert not refused.result().accepted
    robot.until(lambda: "0.40 rad from where training episodes begin (limit 0.10): call" in node.log(), "why")
    robot.until(lambda: robot.operator.arm(False), "disarming")

    goal = begin()
    robot.until(lambda: 0.02 < away() < AWAY_RAD - 0.02, "motion")
    ending = goal.get_result_async()
    goal.cancel_goal_async()
    robot.until(ending.done, "the result")
    assert ending.result().result.termination_reason in (R.CANCELED, R.INPUTS_LOST, R.ROBOT_LOST), "not arrived"
    robot.held()
    assert away() > 0.05

    for _ in range(20):  # on a busy machine an input may be missed: it goes on from where it is
        robot.until(lambda: robot.operator.arm(False), "disarming")
        ending = begin().get_result_async()
        robot.until(ending.done, "the result")
        if ending.result().result.termination_reason == R.SUCCEEDED:
            break
    assert ending.result().result.message == "the arms are where episodes of the training data begin"
    assert away() < 0.05
    assert robot.grippers == []

    accepted = robot.operator.send("swing", **LONG)
    robot.until(accepted.done, "an answer to the goal")
    assert accepted.result().accepted, node.log()
