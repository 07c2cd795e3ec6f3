"""A node that commands a made-up robot, which swings: what tests of faults begin with."""

import numpy as np
import pytest
from conftest import initialised_ros, processes
from fake_robot import HOME, FakeRobot, start_node
from goals import AGES


@pytest.fixture(scope="module")
def commanding(tmp_path_factory):
    """One node and one robot for all tests of a file."""
    with initialised_ros() as ros, processes(tmp_path_factory.mktemp("faults")) as start:
        node = start_node(start, prompt="swing", publish_commands="true", **AGES)
        yield node, FakeRobot(ros, node), start


@pytest.fixture
def moving(commanding):
    """The node and the robot, moving, without a fault; ``said`` is what the node has logged since."""
    node, robot, _ = commanding

    def begin():
        robot.heal()
        if robot.task != "swing":
            robot.set_task("swing")
        robot.set_parameter("publish_commands", True)
        home, at = HOME["left"], robot.positions
        robot.until(lambda: robot.moving() and np.abs(at["left"] - home).max() < 0.4, "motion about its home")
        before = len(node.log())
        node.said = lambda: node.log()[before:]

    robot.begin = begin
    begin()
    return node, robot
