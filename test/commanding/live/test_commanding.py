"""The policy node drives the simulated arms along a known trajectory, through the relay and directly."""

import functools
import math
import time

import numpy as np
import pytest
from conftest import keeps_promise, wait_for
from fake_robot import Operator, parameters, said_s, set_parameter, stamp_s, start_node, to_s
from node_policies import PERIOD_S, course
from rcl_interfaces.msg import ParameterEvent
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Int32

from pi05_progress.files.config_files import config_file
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.msg import TaskProgress
from pi05_progress_ros.starting.processes import TRANSPORT

ROBOT, RELAY = "pi05_progress_ros.sim.robot_node", "pi05_progress_ros.arm_relay_node"
READY = 2
DIRECT = "extends: {base}\nname: direct\narm_command: direct\nrelay: null\n"


class Watch:
    """Collects what the arms do, with the robot's stamps."""

    def __init__(self, ros, profile):
        self.ros, self.node, self.profile = ros, ros.create_node("watch"), profile
        self.fsm, self.poses, self.operator = 0, {side: [] for side in profile.arms}, Operator(self.node)
        qos = QoSProfile(depth=400)
        for side in profile.arms:
            topic = profile.arms[side].state_topic
            self.node.create_subscription(JointState, topic, lambda m, s=side: self.store(m, s), qos)
        self.node.create_subscription(Int32, profile.fsm_topic, lambda m: setattr(self, "fsm", m.data), 10)

    def store(self, message, side):
        self.poses[side].append((stamp_s(message), np.array(message.position)))

    def until_commanded(self, node, before=0):
        """Arm until the robot is READY and commanded."""

        def commanded():
            state = node.log()[before:].rpartition("]: RUNNING")[2]
            ended = "LOOKING" in state or "ARMED" in state
            if ended or "]: RUNNING" not in node.log()[before:]:
                self.operator.move("swing")
            return state.startswith("\n") and not ended and self.fsm == READY

        try:
            wait_for(commanded, self.spin, "a robot that is commanded")
        except AssertionError as error:
            raise AssertionError(f"{error}; the node's last words:\n{node.log()[-3000:]}") from None

    def spin(self):
        self.ros.spin_once(self.node, timeout_sec=0.01)

    def until(self, stamp):
        """Go on until both arms' states are later than a stamp, s."""
        wait_for(lambda: all(p and p[-1][0] > stamp for p in self.poses.values()), self.spin, "states of the robot")

    def run(self, seconds):
        """Go on for so long by the robot's stamps, and keep only what came meanwhile."""
        for poses in self.poses.values():
            poses.clear()
        wait_for(lambda: all(self.poses.values()), self.spin, "states of the robot")
        self.until(max(poses[0][0] for poses in self.poses.values()) + seconds)

    def pose(self):
        return np.concatenate([self.poses[side][-1][1] for side in self.profile.arms])

    def left(self, since, until=math.inf):
        """Poses of the left arm between two stamps, (n, 7)."""
        return np.array([pose for stamp, pose in self.poses["left"] if since < stamp <= until])

    def worst_error(self, home):
        """Largest distance of any joint from the known trajectory, rad."""
        worst = 0.0
        for side, columns in (("left", slice(0, 7)), ("right", slice(7, 14))):
            stamps, actual = (np.array(values) for values in zip(*self.poses[side], strict=True))
            worst = max(worst, np.abs(actual - course(home, stamps)[:, columns]).max())
        return worst


@pytest.mark.parametrize("style", ["relay", pytest.param("direct", marks=pytest.mark.long)])
def test_the_arms_follow_within_a_twentieth_of_a_radian_and_stop_when_told(start, ros, tmp_path, style):
    robot = "teleavatar"
    if style == "direct":
        robot = str(tmp_path / "direct.yaml")
        (tmp_path / "direct.yaml").write_text(DIRECT.format(base=config_file("teleavatar.yaml")))
    profile = RobotProfile.load(robot)
    simulation = start(ROBOT, *parameters(image_scale=0.05, profile=robot))
    if style == "relay":
        start(RELAY)
    watch = Watch(ros, profile)
    wait_for(lambda: all(watch.poses.values()), watch.spin, f"states: {simulation.log()}")
    home = watch.pose()
    # A busy machine may be late with commands: ages are wide, and one of the next whole periods counts.
    ages = {"image_timeout_s": 2.0, "joint_timeout_s": 2.0, "skew_limit_s": 1.0}
    node = start_node(start, prompt="swing", robot=robot, use_sim_time="true", publish_commands="true", **ages)
    watch.until_commanded(node)
    watch.run(1.5)  # to where the trajectory is by now

    def follows():
        watch.until_commanded(node)
        watch.run(PERIOD_S)
        return np.ptp(watch.left(0.0)[:, 3]) > 0.1 and watch.worst_error(home) < 0.05

    wait_for(follows, what="a period of motion within 0.05 rad")

    # Off in the middle of a motion: 0.2 s later the arms are still but for what the servos settle; going on would have
    # taken them 0.09 rad further.
    changes = []
    watch.node.create_subscription(ParameterEvent, "/parameter_events", changes.append, 10)
    wait_for(lambda: watch.node.count_publishers("/parameter_events") > 1, watch.spin, "the node's parameter events")

    def still_after_s():
        """Time of the last motion after it is switched off in the middle of one, s."""
        quarter = watch.poses["left"][-1][0] % PERIOD_S
        watch.run((PERIOD_S / 4 - quarter) % PERIOD_S + 0.1)
        changes.clear()
        assert set_parameter(ros, watch.node, "publish_commands", False, watch.spin)
        wait_for(lambda: changes, watch.spin, "the event of the change")
        off = to_s(changes[-1].stamp)
        watch.until(off + 1.2)
        if np.ptp(watch.left(off - 0.1, off), axis=0).max() < 0.004:
            return math.inf  # not fast enough to tell
        times, poses = zip(*((stamp, pose) for stamp, pose in watch.poses["left"] if stamp > off), strict=True)
        away = np.abs(np.array(poses) - poses[-1]).max(axis=1)
        return max((stamp - off for stamp, far in zip(times, away, strict=True) if far > 0.01), default=0.0)

    def go_on():
        assert set_parameter(ros, watch.node, "publish_commands", True, watch.spin)
        watch.until_commanded(node)
        watch.run(1.5)

    keeps_promise(0.2, still_after_s, go_on)


def without_shared_memory(folder):
    """The environment in which a killed process does not keep FastDDS's locks: see docs/troubleshooting.md."""
    text, line = config_file("fastdds.xml").read_text(), f"{10 * ' '}<transport_id>shared_memory</transport_id>\n"
    assert text.count(line) == 1
    (folder / "udp.xml").write_text(text.replace(line, ""))
    return {TRANSPORT: str(folder / "udp.xml")}


@pytest.mark.parametrize("shared_memory", [False, pytest.param(True, marks=pytest.mark.long)], ids=["UDP", "default"])
def test_a_robot_that_is_killed_and_started_again_is_followed_without_a_restart_of_the_node(
    start, ros, tmp_path, shared_memory
):
    start = functools.partial(start, **({} if shared_memory else without_shared_memory(tmp_path)))
    simulation = start(ROBOT, *parameters(image_scale=0.05))
    relay = start(RELAY)
    watch = Watch(ros, RobotProfile.load("teleavatar"))
    progress = []
    watch.node.create_subscription(TaskProgress, "/task_progress", progress.append, 10)
    node = start_node(start, prompt="swing", use_sim_time="true", publish_commands="true")
    watch.until_commanded(node)
    relayed = len(relay.log())
    simulation.kill()
    wait_for(lambda: progress and math.isnan(progress[-1].progress_raw), watch.spin, "UNKNOWN")
    assert progress[-1].status == TaskProgress.UNKNOWN
    wait_for(lambda: relay.log()[relayed:].count("arm: silent") >= 2, watch.spin, "a silent relay")
    if shared_memory:
        return  # whether the new robot is heard is not in the node's hands
    before = len(node.log())
    start(ROBOT, *parameters(image_scale=0.05))
    wait_for(lambda: math.isfinite(progress[-1].progress_raw), watch.spin, "progress again")
    assert "RUNNING" not in node.log()[before:], "nobody armed it since"
    watch.until_commanded(node, before)
    assert "waiting for the robot to be READY, it is in PAUSE" in node.log()[before:]


def test_a_relay_that_is_killed_is_noticed_within_half_a_second_and_one_that_is_back_moves_nothing(start, ros):
    start(ROBOT, *parameters(image_scale=0.05))
    relay = start(RELAY)
    watch = Watch(ros, RobotProfile.load("teleavatar"))
    ages = {"image_timeout_s": 2.0, "joint_timeout_s": 2.0, "skew_limit_s": 1.0}
    node = start_node(start, prompt="swing", use_sim_time="true", publish_commands="true", **ages)
    text = "LOOKING: arm_relay/status: nothing for more than 0.3 s"

    def noticed_after_s():
        watch.until_commanded(node, len(node.log()) if text in node.log() else 0)
        before, killed_s = len(node.log()), time.time()
        relay.kill()
        wait_for(lambda: text in node.log()[before:], watch.spin, "the reason")
        return said_s(node.log()[before:], text) - killed_s

    def again():
        nonlocal relay
        relay = start(RELAY)

    keeps_promise(0.5, noticed_after_s, again)
    before = len(node.log())
    again()
    wait_for(lambda: "commanding" in relay.log() or watch.fsm == 0, watch.spin, "a robot that pauses")
    watch.run(1.0)
    assert watch.fsm == 0 and "RUNNING" not in node.log()[before:]
