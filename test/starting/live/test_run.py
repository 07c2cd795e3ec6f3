"""``python -m pi05_progress_ros.run`` for real: the policy commands the simulated robot through the relay."""

import os
import signal

import numpy as np
import psutil
import pytest
from conftest import PATIENCE_S, wait_for
from fake_robot import FakeRobot, Operator
from places import SUPPORT
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32, Int32

READY = 2


@pytest.mark.long
def test_bringup_with_commands_moves_the_simulated_arms_and_ends_in_order(start, ros, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text('/**:\n  ros__parameters: {policy: "node_policies:by_task"}\n')
    given = ["sim:=true", "sim_image_scale:=0.1", "publish_commands:=true", "prompt:=swing", f"params_file:={file}"]
    path = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    program = start("pi05_progress_ros.run", "bringup", *given, PYTHONPATH=path)
    node, states, positions = ros.create_node("listener"), [], []
    node.create_subscription(Int32, "/fsm_state", lambda m: states.append(m.data), 10)
    node.create_subscription(JointState, "/left_arm/joint_states", lambda m: positions.append(list(m.position)), 10)

    def spin():
        assert program.poll() is None, program.log()
        ros.spin_once(node, timeout_sec=0.05)

    operator = Operator(node)
    wait_for(lambda: operator.move("swing") or (states and states[-1] == READY), spin, "an armed robot")
    wait_for(lambda: states and states[-1] == READY, spin, "READY")
    positions.clear()
    wait_for(lambda: len(positions) > 10 and np.ptp(positions, axis=0).max() > 0.1, spin, "motion")
    assert {"arm_relay", "policy_node", "simulated_robot"} <= set(node.get_node_names())
    program.send_signal(signal.SIGINT)
    assert program.wait(PATIENCE_S) == 0
    assert "Traceback" not in program.log()


@pytest.mark.long
def test_a_node_that_is_started_again_comes_back_looking_and_moves_nothing(start, ros, tmp_path):
    file = tmp_path / "mine.yaml"
    ages = "image_timeout_s: 2.0, joint_timeout_s: 1.0, skew_limit_s: 1.0"
    file.write_text(f'/**:\n  ros__parameters: {{policy: "node_policies:by_task", {ages}}}\n')
    path = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    given = ["publish_commands:=true", "respawn:=true", "prompt:=stay", f"params_file:={file}"]
    robot = FakeRobot(ros, start("pi05_progress_ros.run", "bringup", *given, PYTHONPATH=path))
    robot.relay(False)  # there is a real one
    robot.until(robot.moving, "motion")
    (policy,) = (p for p in psutil.Process(robot.process.pid).children() if "policy_node" in " ".join(p.cmdline()))
    policy.kill()
    robot.until(lambda: "policy_node has ended with signal SIGKILL, and is started again" in robot.process.log(), "it")
    robot.forget()
    robot.until(lambda: robot.state() == "LOOKING", "another policy node")
    robot.until(robot.good, "its progress")
    assert robot.targets == [] and [value for value in robot.enables if value > 0] == []
    robot.process.send_signal(signal.SIGINT)
    assert robot.process.wait(PATIENCE_S) == 0


def test_what_is_wrong_is_said_in_one_line(start):
    program = start("pi05_progress_ros.run", "bringup", "sim:=true", ROS_DOMAIN_ID="29")
    assert program.wait(PATIENCE_S) == 1
    assert program.log().startswith("bringup: ROS_DOMAIN_ID=29 is the production robot's")
    assert len(program.log().splitlines()) == 1


@pytest.mark.long
def test_do_has_the_expert_stack_the_cubes_in_the_simulation(start, ros, tmp_path):
    """The goal ends as SUCCEEDED and the simulator's truth says the same."""
    ages = "image_timeout_s: 2.0, joint_timeout_s: 1.0, skew_limit_s: 1.0, stamp_past_limit_s: 5.0"
    file = tmp_path / "mine.yaml"
    file.write_text(f'/**:\n  ros__parameters: {{policy: "expert_policies:expert", {ages}}}\n')
    path = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    robot = start("pi05_progress_ros.sim.robot_node", "--ros-args", "-p", "seed:=3", "-p", "image_scale:=0.05")
    start("pi05_progress_ros.arm_relay_node", "--ros-args", "-p", "use_sim_time:=true")
    policy = start(
        "pi05_progress_ros.policy_node", "--ros-args", "--params-file", str(file), "-p", "publish_commands:=true",
        "-p", "use_sim_time:=true", PYTHONPATH=path,
    )  # fmt: skip
    node, truth = ros.create_node("listener"), []
    node.create_subscription(Float32, "/sim/progress", lambda m: truth.append(m.data), 10)

    def spin():
        assert robot.poll() is None and policy.poll() is None, robot.log() + policy.log()
        ros.spin_once(node, timeout_sec=0.05)

    wait_for(lambda: truth, spin, "the simulation")
    wait_for(lambda: "configured for" in policy.log(), spin, "the policy node")
    done = start("pi05_progress_ros.do", "stack the cubes", "--yes", "--max-duration", "110")
    wait_for(lambda: done.poll() is not None, spin, "the end of the goal")
    assert done.returncode == 0 and "SUCCEEDED: done after" in done.log(), done.log() + policy.log()
    assert truth[-1] == 1.0
