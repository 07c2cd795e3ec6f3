"""One simulated robot in free run, and what it does for clients that know only the robot's API, one after another."""

import numpy as np
import pytest
from conftest import PATIENCE_S, processes, wait_for
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from test_robot_node import MODULE, SIDES, ApiClient, call, moves_two_joints_and_back

from pi05_progress_msgs.msg import EpisodeEvent


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """The robot, and the poses of its arms when it began."""
    with processes(tmp_path_factory.mktemp("robot")) as start:
        options = ("images:=false", "arm_command:=position", "seed:=7")
        yield start(MODULE, "--ros-args", *(word for option in options for word in ("-p", option))), {}


@pytest.fixture
def client(ros, robot):
    """Somebody who has just come, to a robot in PAUSE at its home; ``said`` is what the robot has logged since."""
    process, home = robot
    client = ApiClient(ros)
    client.connect()
    if not home:
        home.update({side: client.position(side) for side in SIDES})
    client.until(lambda: client.states[-1] == 0, "PAUSE")
    assert call(ros, client.node, Trigger, "/sim/reset").success
    client.until(lambda: all(np.abs(client.position(side) - home[side]).max() < 0.01 for side in SIDES), "the home")
    client.targets = {side: client.position(side) for side in SIDES}
    client.states = client.states[-1:]
    before = len(process.log())
    client.said = lambda: process.log()[before:]
    return client


def test_a_client_that_knows_only_the_api_moves_two_joints_and_back(client):
    moves_two_joints_and_back(client)


def test_bad_commands_are_rejected_with_a_warning_and_move_nothing(client):
    client.enable_value = 1.0
    client.until(lambda: client.states[-1] == 2, "READY")
    targets, client.targets = client.targets, {}
    before = client.position("left")
    names = list(client.joints["left"].name)
    bad = {
        "needs 7 values, got 6": JointState(name=names[:6], position=[0.5] * 6),
        "not finite": JointState(name=names, position=[float("nan")] * 7),
        "l_joint7 are missing; it names l_joint1, l_joint2, l_joint3, l_joint4, l_joint5, l_joint6, wrist": JointState(
            name=[*names[:6], "wrist"], position=[0.5] * 7
        ),
        "l_joint1 named more than once": JointState(name=[*names[:6], "l_joint1"], position=[0.5] * 7),
    }
    for text, message in bad.items():

        def send(message=message):
            client.commands["left"].publish(message)
            client.spin()

        wait_for(lambda text=text: text in client.said(), send, f"the warning {text!r}")
    np.testing.assert_allclose(client.position("left"), before, atol=0.01)
    client.targets = {**targets, "left": targets["left"] + [0, 0, 0, 0, 0, 0, 2.0]}
    client.until(lambda: "clipped to the joint range: l_joint7" in client.said(), "the clipping warning")


def test_commands_in_pause_change_nothing_and_are_reported(client):
    before = client.position("left")
    client.targets["left"] = before + 0.1
    client.until(lambda: "ignored in PAUSE" in client.said(), "the warning")
    np.testing.assert_allclose(client.position("left"), before, atol=0.01)
    assert client.states == [0]


def test_a_silent_heartbeat_pauses_and_holds(client):
    client.enable_value = 1.0
    client.until(lambda: client.states[-1] == 2, "READY")
    client.enable_value = None
    client.until(lambda: client.states[-1] == 0, "PAUSE")
    held = client.position("right")
    for side in SIDES:
        client.targets[side] = client.targets[side] + 0.1
    for _ in range(20):
        client.spin()
    np.testing.assert_allclose(client.position("right"), held, atol=0.01)


def test_a_second_robot_in_the_same_domain_is_refused(client, start):
    second = start(MODULE, "--ros-args", "-p", "images:=false", "-p", "seed:=5")
    assert second.wait(PATIENCE_S) == 1
    assert "/left_arm/joint_states is already published by /simulated_robot in ROS domain" in second.log()


def test_stepping_a_free_running_simulation_is_refused(client):
    reply = call(client.ros, client.node, Trigger, "/sim/step")
    assert not reply.success
    assert "lockstep:=true" in reply.message


def test_reset_starts_a_new_episode_and_time_goes_on(client):
    events, stamps = [], []
    client.node.create_subscription(EpisodeEvent, "/sim/events", events.append, 10)
    client.node.create_subscription(Clock, "/clock", lambda m: stamps.append(m.clock), qos_profile_sensor_data)
    home = client.position("left")
    client.enable_value = 1.0
    client.until(lambda: client.states[-1] == 2, "READY")
    client.targets["left"] = home + [0, 0.2, 0, 0.2, 0, 0, 0]
    client.until(lambda: client.position("left")[1] > home[1] + 0.15, "the arm to move")
    client.enable_value, client.targets = None, {}
    assert call(client.ros, client.node, Trigger, "/sim/reset").message == "seed 7"
    client.until(lambda: abs(client.position("left")[1] - home[1]) < 0.02, "the arm back at home")
    client.until(lambda: client.states[-1] == 0, "PAUSE")
    client.until(lambda: [e.event for e in events][-2:] == [EpisodeEvent.STOP, EpisodeEvent.START], "the events")
    assert events[-2].outcome == EpisodeEvent.UNKNOWN
    assert events[-1].episode_id == "stack_cubes_000007"
    times = [s.sec + s.nanosec * 1e-9 for s in stamps]
    assert times == sorted(times)
