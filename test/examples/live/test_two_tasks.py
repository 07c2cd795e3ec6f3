"""The example of a behaviour tree: with a policy node of the test's own, and in the simulation."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import PATIENCE_S, wait_for
from fake_robot import Operator
from places import ROOT, SUPPORT
from rclpy.action import ActionServer, CancelResponse
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Float32

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.action import RunTask

R = RunTask.Result
ENDINGS = {"done": (R.SUCCESS, R.SUCCEEDED), "failed": (R.FAILURE, R.FAILED), "paused": (R.UNKNOWN, R.PAUSED)}


SCRIPT = str(ROOT / "examples/two_tasks.py")
AT_ONCE = f"""
import os, runpy, signal
from rclpy.action import ActionClient
send = ActionClient.send_goal_async
ActionClient.send_goal_async = lambda *given: (send(*given), os.kill(os.getpid(), signal.SIGINT))[0]
runpy.run_path({SCRIPT!r}, run_name="__main__")
"""


class Example:
    """The script at work with a list of tasks; ``words`` run it otherwise than by its name."""

    def __init__(self, folder, *tasks, words=(SCRIPT,)):
        self.said = folder / "said"
        command = [sys.executable, *words, *tasks]
        with self.said.open("w") as out:
            self.popen = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def ended(self):
        return self.popen.poll() is not None

    def text(self):
        return self.said.read_text()


@pytest.fixture
def example(tmp_path):
    started = []

    def start(*tasks, **options):
        started.append(Example(tmp_path, *tasks, **options))
        return started[-1]

    yield start
    for of in started:
        of.popen.kill()
        of.popen.wait()


@pytest.fixture
def policy_node(ros):
    """One whose goals end as they are told to, in their order; without an ending they go on until they are canceled."""
    node, executor = ros.create_node("policy_node"), SingleThreadedExecutor()
    node.endings, node.goals, node.canceled = [], [], []
    executor.add_node(node)

    def accepted(goal):
        node.goals.append(goal.request)
        if node.endings:
            outcome, reason = ENDINGS[node.endings.pop(0)]
            result = R(outcome=outcome, termination_reason=reason, message=f"reason {reason}")
            goal.execute(lambda _: (goal.succeed() if outcome == R.SUCCESS else goal.abort()) or result)

    server = ActionServer(
        node, RunTask, "~/run_task", lambda _: R(), handle_accepted_callback=accepted,
        cancel_callback=lambda goal: node.canceled.append(goal) or CancelResponse.ACCEPT,
    )  # fmt: skip
    node.spin = lambda: executor.spin_once(timeout_sec=0.05)
    yield node
    server.destroy()
    executor.shutdown()


@pytest.mark.parametrize(
    ("endings", "tasks", "status"),
    [
        (["failed", "done", "done"], ["one", "one", "two"], 0),
        (["failed", "failed"], ["one", "one"], 1),
        (["paused"], ["one"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_failed_is_tried_again_and_what_was_stopped_is_not(policy_node, example, endings, tasks, status):
    policy_node.endings = list(endings)
    script = example("one", "two")
    wait_for(script.ended, policy_node.spin, "its end")
    assert script.popen.returncode == status, script.text()
    assert [goal.task for goal in policy_node.goals] == tasks and all(
        goal.stop_on_failure for goal in policy_node.goals
    )


@pytest.mark.parametrize("at_once", [False, True], ids=["once it is given", "while it is given"])
def test_ctrl_c_cancels_the_goal(policy_node, example, at_once):
    script = example("one", "two", **({"words": ("-c", AT_ONCE)} if at_once else {}))
    wait_for(lambda: policy_node.goals, policy_node.spin, "the goal")
    if not at_once:
        script.popen.send_signal(signal.SIGINT)
    wait_for(script.ended, policy_node.spin, "its end")
    assert script.popen.returncode == 1 and len(policy_node.canceled) == 1, script.text()
    assert [goal.task for goal in policy_node.goals] == ["one"]


@pytest.mark.long
def test_in_the_simulation_two_tasks_are_done_and_a_pause_by_the_operator_stops_the_tree(start, ros, example, tmp_path):
    ages = "image_timeout_s: 2.0, joint_timeout_s: 1.0, skew_limit_s: 1.0, stamp_past_limit_s: 5.0"
    file = tmp_path / "mine.yaml"
    file.write_text(f'/**:\n  ros__parameters: {{policy: "node_policies:by_task", {ages}}}\n')
    path = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    given = ["sim:=true", "sim_image_scale:=0.05", "publish_commands:=true", "prompt:=stay", f"params_file:={file}"]
    program = start("pi05_progress_ros.run", "bringup", *given, PYTHONPATH=path)
    node = ros.create_node("operator")
    operator, pause = Operator(node), node.create_publisher(Float32, RobotProfile.load("teleavatar").enable_topic, 10)

    def spin():
        assert program.poll() is None, program.log()
        ros.spin_once(node, timeout_sec=0.05)

    def until(said, *tasks, then=lambda log: False):
        """Give tasks until the script's end is as wanted: a busy machine may miss an input, which ends a goal, too."""
        patience_s = time.monotonic() + PATIENCE_S
        while True:
            wait_for(operator.arm, spin, "an armed node")
            script, before = example(*tasks), len(program.log())
            wait_for(lambda of=script, at=before: of.ended() or then(program.log()[at:]), spin, "what is then")
            wait_for(script.ended, spin, "its end")
            if re.fullmatch(said, script.text(), re.DOTALL):
                return script.popen.returncode
            assert time.monotonic() < patience_s, script.text() + program.log()

    def paused(log):
        if moves := "RUNNING" in log:
            pause.publish(Float32(data=0.0))
        return moves

    assert until("'rise': .*done.*\n'rise': .*done.*\n", "rise", "rise") == 0
    assert until("'swing': the robot was paused by another.*\n", "swing", "rise", then=paused) == 1
