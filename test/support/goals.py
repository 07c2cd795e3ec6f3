"""A node that commands a made-up robot, for tests of goals and of the programs that give them."""

from contextlib import contextmanager

import pytest
from conftest import initialised_ros, processes
from fake_robot import HOME, LONG, FakeRobot, start_node

from pi05_progress_msgs.action import RunTask

# Of inputs: wider than the defaults, for a robot that is played on a busy machine.
AGES = {"image_timeout_s": 1.0, "joint_timeout_s": 1.0, "skew_limit_s": 0.5}


@contextmanager
def commanded_robot(folder):
    """A robot with its node, and what starts programs; the robot's ``begin`` heals it, ends its goal and arms it."""
    with initialised_ros() as ros, processes(folder) as start:
        robot = FakeRobot(ros)

        def begin():
            if robot.process is None:  # not started yet, or a test ended it
                robot.process = start_node(start, publish_commands="true", **AGES)
            robot.heal()
            robot.positions = dict(HOME)
            robot.until(lambda: robot.operator.arm(False), "the end of the goal before")
            robot.until(robot.operator.arm, "arming")

        robot.begin = begin
        yield robot, start


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One node and one robot for all tests of a file."""
    with commanded_robot(tmp_path_factory.mktemp("commanded")) as made:
        yield made


@pytest.fixture
def bench(shared):
    """The node and the robot without a fault and without a goal, armed."""
    robot, start = shared
    robot.begin()
    return robot.process, robot, start


class Goal:
    """One that was given: its feedback and its result."""

    def __init__(self, robot, task, **options):
        self.robot, self.feedback = robot, []
        request = RunTask.Goal(task=task, **{**LONG, **options})
        sent = robot.operator.run_task.send_goal_async(request, lambda m: self.feedback.append(m.feedback))
        robot.until(sent.done, "an answer to the goal")
        self.handle = sent.result()
        self.accepted = self.handle.accepted
        self.ending = self.handle.get_result_async() if self.accepted else None

    def runs(self):
        """Wait until the robot moves for it."""
        assert self.accepted
        self.robot.targets.clear()
        self.robot.until(lambda: self.state() == 2 and self.robot.moved(), "motion")
        return self

    def state(self):
        return self.feedback[-1].state if self.feedback else None

    def ends(self):
        """Its result."""
        self.robot.until(self.ending.done, "the result")
        return self.ending.result().result
