"""What the simulated robot is told over ROS: arm targets, gripper numbers, the enabling heartbeat, and by whom.

Commands of the policy (API mode) and of a person (teleoperation mode) come on topics of their own; those of the other
mode are not heard. Callbacks validate and store, in the thread that steps the physics.
"""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32
from std_srvs.srv import SetBool

from pi05_progress.robots.joints import MessageError, clipped, ordered
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState, Mode

from .robot import Robot


class CommandListener:
    """See the module's docstring."""

    def __init__(self, node: Node, robot: Robot, profile: RobotProfile, mode: Mode) -> None:
        self._node, self._robot, self._profile, self._mode = node, robot, profile, mode
        queue = QoSProfile(depth=10)
        for side in profile.arms:
            arm, gripper = profile.arms[side], profile.grippers[side]
            for topic, source in ((arm.command_topic, Mode.API), (arm.teleoperation_topic, Mode.TELEOPERATION)):
                told = node.resolve_topic_name(topic)

                def follow(message: JointState, side: str = side, source: Mode = source, told: str = told) -> None:
                    self._on_arm(message, side, source, told)

                node.create_subscription(JointState, topic, follow, queue)
            node.create_subscription(Float32, gripper.command_topic, lambda m, s=side: self._on_gripper(m, s), queue)
            node.create_subscription(
                JointState, gripper.teleoperation_topic, lambda m, s=side: self._on_operator_gripper(m, s), queue
            )
        self._enable = node.create_subscription(Float32, profile.enable_topic, self._on_enable, queue)
        node.create_service(SetBool, "/sim/set_teleoperation", self._set_teleoperation)

    @property
    def mode(self) -> Mode:
        """Whose commands are followed."""
        return self._mode

    def _warn(self, text: str) -> None:
        self._node.get_logger().warning(text, throttle_duration_sec=1.0)

    def _on_arm(self, message: JointState, side: str, source: Mode, topic: str) -> None:
        if source != self._mode:
            return
        names = self._profile.arms[side].joints
        velocity_style = source == Mode.API and self._robot.world.arm_command == "velocity"
        try:
            target = ordered(message.name, message.position, names, f"{topic} position")
            velocity = ordered(message.name, message.velocity, names, f"{topic} velocity") if velocity_style else None
        except MessageError as error:
            self._warn(f"rejected: {error}")
            return
        target, notes = clipped(target, self._profile.arms[side].limits(), names)
        if notes:
            self._warn(f"{topic} clipped to the joint range: {'; '.join(notes)}")
        machine, now = self._robot.machine, self._robot.now_s
        if machine.state == FsmState.PAUSE and source == Mode.API and not machine.enabled(now):
            self._warn(f"{topic} ignored in PAUSE: publish {self._enable.topic_name} (1.0, repeated) first")
        self._robot.command_arm(side, target, velocity)
        if source == Mode.TELEOPERATION:  # the operator's hand on both arms is what enables
            machine.enable(1.0, now)

    def _on_gripper(self, message: Float32, side: str) -> None:
        if self._mode != Mode.API:
            return
        topic = self._node.resolve_topic_name(self._profile.grippers[side].command_topic)
        if not np.isfinite(message.data):
            self._warn(f"rejected: {topic} is {message.data}")
            return
        value = float(np.clip(message.data, 0.0, 1.0))
        if value != message.data:
            self._warn(f"{topic} {message.data:.3f} clipped to {value:.0f}")
        self._robot.command_gripper(side, self._profile.turned(value))

    def _on_operator_gripper(self, message: JointState, side: str) -> None:
        if self._mode != Mode.TELEOPERATION:
            return
        gripper = self._profile.grippers[side]
        topic = self._node.resolve_topic_name(gripper.teleoperation_topic)
        try:
            effort = ordered(message.name, message.effort, [gripper.joint], f"{topic} effort")
        except MessageError as error:
            self._warn(f"rejected: {error}")
            return
        command = float(self._profile.layout.curves[side].command(effort[0]))
        self._robot.command_gripper(side, self._profile.turned(command))

    def _on_enable(self, message: Float32) -> None:
        if self._mode == Mode.API:
            value = message.data if np.isfinite(message.data) else 0.0
            self._robot.machine.enable(value, self._robot.now_s)

    def _set_teleoperation(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._mode = Mode.TELEOPERATION if request.data else Mode.API
        self._robot.machine.forget()
        response.success, response.message = True, "teleoperation" if request.data else "api"
        return response
