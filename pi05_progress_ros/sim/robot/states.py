"""What the robot itself publishes: joint and gripper states, state machine and mode, at their rates."""

from __future__ import annotations

from typing import Any, Protocol

from builtin_interfaces.msg import Time
from sensor_msgs.msg import JointState
from std_msgs.msg import Int32, String

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import Mode, mode_text

from .robot import STATE_HZ, Robot

FSM_HZ = 20
IMAGE_HZ = 30


class Outlet(Protocol):
    """Where messages go: a ROS node, or a bag that looks like one."""

    def create_publisher(self, msg_type: type, topic: str, qos_profile: Any) -> Any:
        """An object with ``publish(message)``."""

    def get_logger(self) -> Any:
        """An object with ``info`` and ``warning``."""


def to_time(nanoseconds: int) -> Time:
    """A stamp from ns."""
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def is_image_tick(tick: int) -> bool:
    """Whether cameras take a picture in this tick of the 200 Hz clock."""
    return tick * IMAGE_HZ // STATE_HZ != (tick - 1) * IMAGE_HZ // STATE_HZ


class StatePublisher:
    """Publishes the robot's states."""

    def __init__(self, outlet: Outlet, robot: Robot, profile: RobotProfile) -> None:
        self._robot, self._profile = robot, profile
        self._fsm = outlet.create_publisher(Int32, profile.fsm_topic, 10)
        self._mode = outlet.create_publisher(String, profile.mode_topic, 10)
        self._arms = {s: outlet.create_publisher(JointState, arm.state_topic, 10) for s, arm in profile.arms.items()}
        self._grippers = {
            s: outlet.create_publisher(JointState, g.state_topic, 10) for s, g in profile.grippers.items()
        }

    def publish(self, tick: int, stamp: Time, mode: Mode) -> None:
        """What is due in this tick of the 200 Hz clock."""
        world = self._robot.world
        for side in self._profile.arms:
            message = JointState(name=list(self._profile.arms[side].joints))
            message.header.stamp = stamp
            message.position, message.velocity, message.effort = (v.tolist() for v in world.arm_state(side))
            self._arms[side].publish(message)
            message = JointState(name=[self._profile.grippers[side].joint])
            message.header.stamp = stamp
            message.position, message.velocity, message.effort = ([v] for v in world.gripper_state(side))
            self._grippers[side].publish(message)
        if tick % (STATE_HZ // FSM_HZ) == 0:
            self._fsm.publish(Int32(data=int(self._robot.machine.state)))
        if tick % STATE_HZ == 0:
            self._mode.publish(String(data=mode_text(mode)))
