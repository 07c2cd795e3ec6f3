"""The simulated robot over real DDS, seen by a client that knows only the robot's API."""

import os
import signal

import numpy as np
import pytest
from conftest import PATIENCE_S, wait_for
from geometry_msgs.msg import PoseArray
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import Float32, Int32
from std_srvs.srv import Trigger

from pi05_progress_msgs.msg import EpisodeEvent

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

    def error(self, side):
        """Largest distance of a joint from its target, rad."""
        return np.abs(self.position(side) - self.targets[side]).max()

    def spin(self):
        self.ros.spin_once(self.node, timeout_sec=0.05)

    def until(self, condition, what):
        wait_for(condition, self.spin, what)

    def connect(self):
        self.until(lambda: len(self.joints) == 2 and self.states, "joint states and /fsm_state")
        self.targets = {side: self.position(side) for side in SIDES}


def moves_two_joints_and_back(client):
    """Until it is in PAUSE again."""
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
        client.until(lambda: max(map(client.error, SIDES)) < 0.05, "arms at their targets")
        for side in SIDES:
            if goal:
                moved = np.abs(client.position(side) - home[side])
                assert (moved[[1, 3]] > 0.05).all()
    client.enable_value = 0.0
    client.until(lambda: client.states[-1] == 0, "PAUSE after disabling")
    assert client.states == [0, 1, 2, 0]


@pytest.mark.long  # by positions in test_free_running_robot.py
def test_a_client_that_knows_only_the_api_moves_two_joints_and_back_by_velocities(start, ros):
    start(MODULE, "--ros-args", "-p", "images:=false", "-p", "arm_command:=velocity")
    client = ApiClient(ros, velocity_style=True)
    client.connect()
    moves_two_joints_and_back(client)


def test_images_arrive_at_half_the_real_size(start, ros):
    start(MODULE)
    node, seen = ros.create_node("viewer"), {}
    from rclpy.qos import qos_profile_sensor_data

    for topic in ("/left/color/image_raw", "/right/color/image_raw", "/head/image_raw"):
        node.create_subscription(Image, topic, lambda m, t=topic: seen.__setitem__(t, m), qos_profile_sensor_data)
    wait_for(lambda: len(seen) == 3, lambda: ros.spin_once(node, timeout_sec=0.05), "images of three cameras")
    sizes = {topic: (m.width, m.height, m.encoding, len(m.data)) for topic, m in seen.items()}
    assert sizes["/left/color/image_raw"] == (424, 240, "rgb8", 424 * 240 * 3)
    assert sizes["/head/image_raw"] == (960, 540, "rgb8", 960 * 540 * 3)
    assert np.frombuffer(seen["/head/image_raw"].data, np.uint8).std() > 10


WRONG = [
    (["-p", "task:=juggle"], {}, "unknown task 'juggle'; known: stack_cubes"),
    (["-p", "arm_command:=force"], {}, "unknown arm_command 'force'; known: auto, position, velocity"),
    (["-p", "profile:=telavatar"], {}, "unknown robot profile 'telavatar'; known profiles: teleavatar, "),
    (["-p", "profile:=teleavatar_v2", "-p", "stream_port:=8890"], {}, "stream_port: 8890 is the real robot's: use"),
    (["-p", "expert:=true", "-p", "faults:=['tripped']"], {}, "unknown fault 'tripped'; known faults: dropped_"),
    (["-p", "image_scale:=7.0"], {}, "image_scale: 7.0 is refused, expected float between 0.05 and 1"),
    (["-p", "seed:=first"], {}, "seed: 'first' is refused, expected int"),
    (["-p", "tsak:=stack_cubes"], {}, "unknown parameter tsak; known: arm_command, "),
    ([], {"ROS_DOMAIN_ID": "29"}, "production robot's"),
]


def test_wrong_parameters_and_the_robots_domain_are_refused(start):
    common = ("--ros-args", "-p", "images:=false")
    robots = [(start(MODULE, *common, *arguments, **env), text) for arguments, env, text in WRONG]
    for robot, text in robots:
        assert robot.wait(PATIENCE_S) == 1
        assert text in robot.log()
        assert "Traceback" not in robot.log()


def test_it_ends_cleanly_on_signals_and_starts_again_after_a_kill(start, ros):
    first = start(MODULE, "--ros-args", "-p", "images:=false")
    client = ApiClient(ros)
    client.connect()
    first.send_signal(signal.SIGKILL)
    first.wait(PATIENCE_S)
    client.joints.clear()
    second = start(MODULE, "--ros-args", "-p", "image_scale:=0.1")
    client.until(lambda: len(client.joints) == 2, "joint states after the restart")
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE_S) == 0, second.log()
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

    wait_for(lambda: client.states[-1] == 2, operate, "READY by the operator's commands")
    wait_for(lambda: grippers["left"].position[0] < 0.002, operate, "the gripper closing on 3.5 N m")
    wait_for(lambda: client.error("left") < 0.1, operate, "the arm at the operator's command")


@pytest.mark.long
def test_the_expert_does_the_task_through_the_teleoperation_topics(start, ros):
    robot = start(MODULE, "--ros-args", "-p", "images:=false", "-p", "expert:=true", "-p", "seed:=1")
    node, progress, events, stops = ros.create_node("listener"), [], [], []
    node.create_subscription(Float32, "/sim/progress", lambda m: progress.append(m.data), 10)
    node.create_subscription(EpisodeEvent, "/sim/events", events.append, 50)
    node.create_subscription(Joy, "/xr/left_hand_inputs", lambda m: m.buttons[3] and stops.append(m), 10)
    wait_for(lambda: progress and progress[-1] == 1.0, lambda: ros.spin_once(node, timeout_sec=0.1), "success")
    assert progress[0] == 0.0
    assert {0.25, 0.5, 0.75} <= set(progress)
    wait_for(lambda: "episode 1 ended: success" in robot.log(), what="the report")
    wait_for(lambda: stops, lambda: ros.spin_once(node, timeout_sec=0.1), "the press of Y")
    kinds = [event.event for event in events]
    assert kinds == [EpisodeEvent.START] + [EpisodeEvent.MILESTONE] * 4 + [EpisodeEvent.STOP]
    assert [event.progress for event in events[1:]] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert events[-1].outcome == EpisodeEvent.SUCCESS


def test_without_a_library_for_rendering_it_says_what_to_install(start, tmp_path):
    for name in ("libEGL.so.1", "libOSMesa.so.8"):
        (tmp_path / name).write_text("not a library")
    path = f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    robot = start(MODULE, LD_LIBRARY_PATH=path, MUJOCO_GL="")
    assert robot.wait(PATIENCE_S) == 1
    assert "apt-get install -y --no-install-recommends libegl1" in robot.log()
    assert "Traceback" not in robot.log()


def call(ros, node, kind, name):
    client = node.create_client(kind, name)
    assert client.wait_for_service(PATIENCE_S)
    future = client.call_async(kind.Request())
    ros.spin_until_future_complete(node, future, timeout_sec=PATIENCE_S)
    return future.result()


def test_lockstep_steps_only_when_told_and_completely(start, ros):
    start(MODULE, "--ros-args", "-p", "lockstep:=true", "-p", "image_scale:=0.1", "-p", "lockstep_step_s:=0.1")
    node, stamps, images = ros.create_node("stepper"), [], []
    node.create_subscription(JointState, "/left_arm/joint_states", lambda m: stamps.append(m.header.stamp), 100)
    node.create_subscription(Image, "/head/image_raw", lambda m: images.append(m.header.stamp), qos_profile_sensor_data)
    for step in (1, 2, 3):
        reply = call(ros, node, Trigger, "/sim/step")
        assert reply.success
        assert float(reply.message) == pytest.approx(0.1 * step, abs=0.002)
    wait_for(lambda: len(stamps) == 60, lambda: ros.spin_once(node, timeout_sec=0.05), "60 states of 0.3 s")
    wait_for(lambda: len(images) == 9, lambda: ros.spin_once(node, timeout_sec=0.05), "9 images of 0.3 s")
    for _ in range(20):
        ros.spin_once(node, timeout_sec=0.02)
    assert (len(stamps), len(images)) == (60, 9)


def test_the_operator_marks_the_episode_with_x_and_tells_no_truth_elsewhere(start, ros):
    start(MODULE, "--ros-args", "-p", "images:=false", "-p", "expert:=true")
    node, presses, poses = ros.create_node("listener"), [], []
    node.create_subscription(Joy, "/xr/left_hand_inputs", lambda m: presses.append(m.buttons[2]), 10)
    node.create_subscription(PoseArray, "/sim/object_poses", poses.append, 10)
    wait_for(lambda: len(poses) > 20, lambda: ros.spin_once(node, timeout_sec=0.05), "poses")
    assert len(poses[0].poses) == 3
    assert poses[0].poses[0].position.z == pytest.approx(-0.45, abs=0.005)
    assert presses[-1] == 0
    # Those of other nodes may not have left the graph yet.
    topics = node.get_publisher_names_and_types_by_node("simulated_robot", "/")
    truth = {name for name, types in topics if "pi05_progress_msgs" in types[0]}
    assert truth == {"/sim/events"}
