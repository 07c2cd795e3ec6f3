"""The velocity relay: its rule, and its behaviour over DDS in front of the simulated robot."""

import time

import numpy as np
from conftest import PATIENCE_S, wait_for
from fake_robot import stamp_s
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32, Int32

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.commanding.relay import relay_velocity

ROBOT, RELAY = "pi05_progress_ros.sim.robot_node", "pi05_progress_ros.arm_relay_node"
PROFILE = RobotProfile.load("teleavatar")


def test_the_rule_is_proportional_up_to_a_share_of_the_largest_speed():
    small = relay_velocity(PROFILE.relay, np.full(7, 0.1), np.zeros(7), 1.0)
    np.testing.assert_allclose(small, np.array([7, 7, 10, 10, 10, 8, 8]) * 0.1)
    large = relay_velocity(PROFILE.relay, np.full(7, -9.0), np.zeros(7), 100.0)
    np.testing.assert_allclose(large, -0.3 * np.array([15, 15, 20, 20, 44, 33, 33]))
    np.testing.assert_allclose(relay_velocity(PROFILE.relay, np.full(7, 9.0), np.zeros(7), 0.4), 1.5 * 0.4)


class Bench:
    """Plays policy and robot around a relay."""

    def __init__(self, ros, target="/left_arm/model_joint_cmd"):
        self.ros, self.node = ros, ros.create_node("bench")
        self.commands = []
        self.node.create_subscription(JointState, "/api/left_arm/joint_cmd", self.commands.append, 10)
        self.target = self.node.create_publisher(JointState, target, 10)
        self.state = self.node.create_publisher(JointState, "/left_arm/joint_states", 10)
        self.names = list(PROFILE.arms["left"].joints)

    def send(self, target=True, state=True, seconds=0.3):
        """Publish at 50 Hz for a while; returns the commands that came meanwhile."""
        self.commands.clear()
        until = time.monotonic() + seconds
        middle = PROFILE.arms["left"].limits().mean(axis=1)
        while time.monotonic() < until:
            if state:
                self.state.publish(JointState(name=self.names, position=middle.tolist()))
            if target is True:
                self.target.publish(JointState(name=self.names[::-1], position=(middle + 0.05)[::-1].tolist()))
            elif target:
                self.target.publish(target)
            self.ros.spin_once(self.node, timeout_sec=0.02)
        return list(self.commands)


def test_it_is_silent_without_fresh_targets_and_states(start, ros):
    relay, bench = start(RELAY), Bench(ros)

    def silent(reason, **sent):
        wait_for(lambda: bench.send(**sent) == [] and reason in relay.log(), lambda: None, f"silence: {reason}")

    wait_for(lambda: bench.send(), lambda: None, "commands")
    command = bench.commands[-1]
    np.testing.assert_allclose(command.velocity, np.array(PROFILE.relay.kp) * 0.05, rtol=1e-5)
    assert list(command.effort) == [0.0] * 7
    assert command.name == bench.names
    silent("/left_arm/joint_states older than 0.2 s", state=False)
    wait_for(lambda: bench.send(), lambda: None, "commands again")
    silent("/left_arm/model_joint_cmd older than 0.5 s", target=False)
    wait_for(lambda: bench.send(), lambda: None, "commands again")
    far = JointState(name=bench.names, position=PROFILE.arms["left"].limits()[:, 0].tolist())
    wait_for(lambda: bench.send(target=far) and bench.commands[-1].velocity[0] < -1.0, lambda: None, "a far target")
    np.testing.assert_allclose(bench.commands[-1].velocity, -1.5, err_msg="an odd target lets no arm leap")
    bad = JointState(name=bench.names, position=[float("nan")] * 7)
    silent("not finite", target=bad)


def test_about_a_hundred_commands_a_second(start, ros):
    start(RELAY)
    bench = Bench(ros)

    def rate_hz():
        """By the stamps of the commands of a second."""
        stamps = [stamp_s(command) for command in bench.send(seconds=1.0)]
        return (len(stamps) - 1) / (stamps[-1] - stamps[0]) if len(stamps) > 50 else 0.0

    rates = []
    wait_for(lambda: rates and rates[-1] > 80, lambda: rates.append(rate_hz()), "a second with so many commands")
    assert max(rates) < 110


def test_two_publishers_of_the_robots_commands_silence_it(start, ros):
    target = "/left_arm/other_target"  # of a topic that is remapped
    relay = start(RELAY, "--ros-args", "-r", f"/left_arm/model_joint_cmd:={target}")
    bench = Bench(ros, target)
    wait_for(lambda: bench.send(), lambda: None, "commands")
    assert "left arm: silent, other publishers are looked for" in relay.log(), (
        "before it has looked, it commands nothing"
    )
    another = ros.create_node("another")  # by name before the relay, which once took itself for the intruder then
    other = another.create_publisher(JointState, "/api/left_arm/joint_cmd", 10)
    text = "another node publishes the robot's commands"
    wait_for(lambda: bench.send() == [] and text in relay.log(), lambda: None, "silence beside another publisher")
    assert "(besides this relay: /another)" in relay.log()
    another.destroy_publisher(other)
    wait_for(lambda: bench.send(), lambda: None, "commands once the other is gone")
    other = another.create_publisher(JointState, target, 10)
    text = "/another and /bench publish /left_arm/model_joint_cmd: only one may"
    wait_for(lambda: bench.send() == [] and text in relay.log(), lambda: None, "silence with two publishers of targets")


WRONG = [
    ("robot:=teleavatar_v2", "teleavatar_v2 follows joint positions directly and needs no relay"),
    ("robot:=nobody", "unknown robot profile 'nobody'"),
    ("rate:=3", "unknown parameter rate; known: max_joint_speed, robot"),
]


def test_wrong_parameters_are_refused(start):
    relays = [(start(RELAY, "--ros-args", "-p", parameter), text) for parameter, text in WRONG]
    for relay, text in relays:
        assert relay.wait(PATIENCE_S) == 1
        assert text in relay.log()


def test_a_policy_moves_the_simulated_arms_through_the_relay(start, ros):
    start(ROBOT, "--ros-args", "-p", "images:=false")  # follows velocities, as its profile says
    start(RELAY)
    node = ros.create_node("policy")
    joints, states = {}, []
    targets = {s: node.create_publisher(JointState, PROFILE.arms[s].target_topic, 10) for s in ("left", "right")}
    enable = node.create_publisher(Float32, PROFILE.enable_topic, 10)
    for side in targets:
        topic = PROFILE.arms[side].state_topic
        node.create_subscription(JointState, topic, lambda m, s=side: joints.__setitem__(s, np.array(m.position)), 10)
    node.create_subscription(Int32, "/fsm_state", lambda m: states.append(m.data), 10)
    wait_for(lambda: len(joints) == 2, lambda: ros.spin_once(node, timeout_sec=0.05), "joint states")
    goal = {side: position.copy() for side, position in joints.items()}

    def act():
        enable.publish(Float32(data=1.0))
        for side, target in goal.items():
            names = PROFILE.arms[side].joints
            targets[side].publish(JointState(name=list(names), position=target.tolist()))
        ros.spin_once(node, timeout_sec=0.01)
        time.sleep(0.01)

    wait_for(lambda: states and states[-1] == 2, act, "READY")
    for side, sign in (("left", 1), ("right", -1)):
        goal[side][[1, 3]] += 0.12 * sign

    def error():
        return max(np.abs(joints[side] - goal[side]).max() for side in goal)

    wait_for(lambda: error() < 0.02, act, "arms at the target")
