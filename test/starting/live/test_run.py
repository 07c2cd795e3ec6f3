"""``python -m pi05_progress_ros.run`` for real: the policy commands the simulated robot through the relay."""

import os
import signal

import numpy as np
import pytest
from conftest import PATIENCE_S, wait_for
from fake_robot import Operator
from places import SUPPORT
from sensor_msgs.msg import JointState
from std_msgs.msg import Int32

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


def test_what_is_wrong_is_said_in_one_line(start):
    program = start("pi05_progress_ros.run", "bringup", "sim:=true", ROS_DOMAIN_ID="29")
    assert program.wait(PATIENCE_S) == 1
    assert program.log().startswith("bringup: ROS_DOMAIN_ID=29 is the production robot's")
    assert len(program.log().splitlines()) == 1
