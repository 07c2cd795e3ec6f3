"""The simulated robot over real DDS, seen by a client that knows only the robot's API."""

import signal

import numpy as np
import pytest
from conftest import wait_for
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32, Int32

MODULE = "pi05_progress_ros.sim.robot_node"
SIDES = ("left", "right")
KP = np.array([7, 7, 10, 10, 10, 8, 8])


class ApiClient:
    """Knows /api and the joint states, nothing else."""

    def __init__(self, ros, velocity_style=False):
        self.ros = ros
        self.node = ros.create_node("api_client")
        self.velocity_style = velocity_style
        self.joints, self.states, self.images = {}, [], {}
        self.enable_value, self.targets = None, {}
        for side in SIDES:
            topic = f"/{side}_arm/joint_states"
            self.node.create_subscription(JointState, topic, lambda m, s=side: self.joints.__setitem__(s, m), 10)
        self.node.create_subscription(Int32, "/fsm_state", self.on_state, 10)
        self.enable = self.node.create_publisher(Float32, "/api/fsm/enable", 10)
        self.commands = {s: self.node.create_publisher(JointState, f"/api/{s}_arm/joint_cmd", 10) for s in SIDES}
        self.node.create_timer(0.02, self.tick)

    def on_state(self, message):
        if not self.states or self.states[-1] != message.data:
            self.states.append(message.data)

    def tick(self):
        if self.enable_value is not None:
            self.enable.publish(Float32(data=self.enable_value))
        for side, target in self.targets.items() if len(self.joints) == 2 else ():
            names = self.joints[side].name[::-1]  # reversed order: the robot must go by names
            message = JointState(name=names, position=target[::-1].tolist(), effort=[0.0] * 7)
            speed = np.clip(KP * (target - self.position(side)), -0.8, 0.8) if self.velocity_style else np.zeros(7)
            message.velocity = speed[::-1].tolist()
            self.commands[side].publish(message)

    def position(self, side):
        return np.array(self.joints[side].position)

    def spin(self):
        self.ros.spin_once(self.node, timeout_sec=0.05)

    def until(self, condition, what, timeout_s=20.0):
        wait_for(condition, timeout_s, self.spin, what)

    def connect(self):
        self.until(lambda: len(self.joints) == 2 and self.states, "joint states and /fsm_state")
        self.targets = {side: self.position(side) for side in SIDES}


@pytest.mark.parametrize("style", ["position", "velocity"])
def test_a_client_that_knows_only_the_api_moves_two_joints_and_back(start, ros, style):
    start(MODULE, "--ros-args", "-p", "images:=false", "-p", f"arm_command:={style}")
    client = ApiClient(ros, velocity_style=style == "velocity")
    client.connect()
    home = {side: client.position(side) for side in SIDES}
    client.enable_value = 1.0
    client.until(lambda: client.states[-1] == 2, "READY")
    for goal in (0.12, 0.0):
        ramp = {side: client.targets[side].copy() for side in SIDES}
        for share in np.linspace(0, 1, 40):
            for side in SIDES:
                want = home[side].copy()
                want[[1, 3]] += goal * np.sign(home[side][[1, 3]])
                client.targets[side] = ramp[side] + share * (want - ramp[side])
            client.spin()
        for _ in range(60):
            client.spin()
        for side in SIDES:
            assert np.abs(client.position(side) - client.targets[side]).max() < 0.1
            if goal:
                moved = np.abs(client.position(side) - home[side])
                assert (moved[[1, 3]] > 0.05).all()
    client.enable_value = 0.0
    client.until(lambda: client.states[-1] == 0, "PAUSE after disabling")
    assert client.states == [0, 1, 2, 0]


def test_bad_commands_are_rejected_with_a_warning_and_move_nothing(start, ros):
    robot = start(MODULE, "--ros-args", "-p", "images:=false")
    client = ApiClient(ros)
    client.connect()
    client.enable_value = 1.0
    client.until(lambda: client.states[-1] == 2, "READY")
    targets, client.targets = client.targets, {}
    before = client.position("left")
    names = list(client.joints["left"].name)
    bad = {
        "needs 7 values, got 6": JointState(name=names[:6], position=[0.5] * 6),
        "not finite": JointState(name=names, position=[float("nan")] * 7),
        "unknown ['wrist']": JointState(name=[*names[:6], "wrist"], position=[0.5] * 7),
        "l_joint1 more than once": JointState(name=[*names[:6], "l_joint1"], position=[0.5] * 7),
    }
    for text, message in bad.items():

        def send(message=message):
            client.commands["left"].publish(message)
            client.spin()

        wait_for(lambda text=text: text in robot.log(), 10, send, f"the warning {text!r}")
    np.testing.assert_allclose(client.position("left"), before, atol=0.01)
    client.targets = {**targets, "left": targets["left"] + [0, 0, 0, 0, 0, 0, 2.0]}
    client.until(lambda: "clipped to the joint range: l_joint7" in robot.log(), "the clipping warning")


def test_commands_in_pause_change_nothing_and_are_reported(start, ros):
    robot = start(MODULE, "--ros-args", "-p", "images:=false")
    client = ApiClient(ros)
    client.connect()
    before = client.position("left")
    client.targets["left"] = before + 0.1
    client.until(lambda: "ignored in PAUSE" in robot.log(), "the warning")
    np.testing.assert_allclose(client.position("left"), before, atol=0.01)
    assert client.states == [0]


def test_a_silent_heartbeat_pauses_and_holds(start, ros):
    start(MODULE, "--ros-args", "-p", "images:=false")
    client = ApiClient(ros)
    client.connect()
    client.enable_value = 1.0
    client.until(lambda: client.states[-1] == 2, "READY")
    client.enable_value = None
    client.until(lambda: client.states[-1] == 0, "PAUSE", 3.0)
    held = client.position("right")
    for side in SIDES:
        client.targets[side] = client.targets[side] + 0.1
    for _ in range(20):
        client.spin()
    np.testing.assert_allclose(client.position("right"), held, atol=0.01)


def test_images_arrive_at_half_the_real_size(start, ros):
    start(MODULE)
    node, seen = ros.create_node("viewer"), {}
    from rclpy.qos import qos_profile_sensor_data

    for topic in ("/left/color/image_raw", "/right/color/image_raw", "/head/image_raw"):
        node.create_subscription(Image, topic, lambda m, t=topic: seen.__setitem__(t, m), qos_profile_sensor_data)
    wait_for(lambda: len(seen) == 3, 30, lambda: ros.spin_once(node, timeout_sec=0.05), "images of three cameras")
    sizes = {topic: (m.width, m.height, m.encoding, len(m.data)) for topic, m in seen.items()}
    assert sizes["/left/color/image_raw"] == (424, 240, "rgb8", 424 * 240 * 3)
    assert sizes["/head/image_raw"] == (960, 540, "rgb8", 960 * 540 * 3)
    assert np.frombuffer(seen["/head/image_raw"].data, np.uint8).std() > 10


@pytest.mark.parametrize(
    ("arguments", "env", "text"),
    [
        (["-p", "task:=juggle"], {}, "unknown task 'juggle'; known tasks: stack_cubes"),
        (["-p", "arm_command:=force"], {}, "neither 'position' nor 'velocity'"),
        (["-p", "image_scale:=7.0"], {}, "image_scale"),
        ([], {"ROS_DOMAIN_ID": "29"}, "production robot's"),
    ],
)
def test_wrong_parameters_and_the_robots_domain_are_refused(start, arguments, env, text):
    robot = start(MODULE, "--ros-args", "-p", "images:=false", *arguments, **env)
    assert robot.wait(20) == 1
    assert text in robot.log()


def test_it_ends_cleanly_on_signals_and_starts_again_after_a_kill(start, ros):
    first = start(MODULE, "--ros-args", "-p", "images:=false")
    client = ApiClient(ros)
    client.connect()
    first.send_signal(signal.SIGKILL)
    first.wait(5)
    client.joints.clear()
    second = start(MODULE, "--ros-args", "-p", "image_scale:=0.1")
    client.until(lambda: len(client.joints) == 2, "joint states after the restart")
    second.send_signal(signal.SIGTERM)
    assert second.wait(10) == 0, second.log()
    assert "Traceback" not in second.log()


def test_teleoperation_follows_the_operator_and_ignores_the_api(start, ros):
    start(MODULE, "--ros-args", "-p", "images:=false", "-p", "teleoperation:=true")
    client = ApiClient(ros)
    grippers = {}
    client.node.create_subscription(JointState, "/left_gripper/joint_states", lambda m: grippers.update(left=m), 10)
    client.connect()
    before = client.position("left")
    client.targets = {side: client.targets[side] + 0.1 for side in SIDES}  # on /api
    client.enable_value = 1.0
    for _ in range(40):
        client.spin()
    assert client.states == [0]
    np.testing.assert_allclose(client.position("left"), before, atol=0.01)

    operator = {side: client.node.create_publisher(JointState, f"/{side}_arm/joint_cmd", 10) for side in SIDES}
    hand = client.node.create_publisher(JointState, "/left_gripper/joint_cmd", 10)

    def operate():
        for side in SIDES:
            operator[side].publish(JointState(position=client.targets[side].tolist()))
        hand.publish(JointState(name=["l_joint8"], effort=[3.5]))
        client.spin()

    wait_for(lambda: client.states[-1] == 2, 20, operate, "READY by the operator's commands")
    wait_for(lambda: grippers["left"].position[0] < 0.002, 10, operate, "the gripper closing on 3.5 N m")
    assert np.abs(client.position("left") - client.targets["left"]).max() < 0.1


@pytest.mark.long
def test_the_expert_does_the_task_through_the_teleoperation_topics(start, ros):
    robot = start(MODULE, "--ros-args", "-p", "images:=false", "-p", "expert:=true", "-p", "seed:=1")
    node, progress = ros.create_node("listener"), []
    node.create_subscription(Float32, "/sim/progress", lambda m: progress.append(m.data), 10)
    wait_for(lambda: progress and progress[-1] == 1.0, 60, lambda: ros.spin_once(node, timeout_sec=0.1), "success")
    assert progress[0] == 0.0
    assert {0.25, 0.5, 0.75} <= set(progress)
    wait_for(lambda: "episode 1 ended: success" in robot.log(), 20, what="the report")
