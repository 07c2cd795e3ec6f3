"""Turns joint targets into the velocity commands of robots that follow velocities, at 100 Hz.

Silent when the target or the joint state is stale, or when anybody else publishes targets or the robot's commands: on
these robots no command means no motion. It reports at 10 Hz that it lives. Everything runs in one thread, the
executor's: callbacks store, the timers read.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState

from pi05_progress.errors import UserError
from pi05_progress.robots.joints import MessageError, clipped, joint_values, ordered
from pi05_progress.robots.profile import ArmProfile, RobotProfile

from .command_line import program
from .commanding.publishers import other_publishers
from .commanding.relay import relay_velocity
from .commanding.robot_state import RELAY_HZ, RELAY_TOPIC
from .parameters import declare, refuse_unknown
from .ros_session import publisher_names, ros_session, spin

WATCH_PERIOD_S = 0.5  # how often other publishers of targets and of the robot's commands are looked for


class ArmRelay:
    """One arm: newest target, newest state, and the command that follows from them.

    The robot's ``relay`` must be there; ``max_speed`` is that of the targets, rad/s.
    """

    def __init__(self, node: Node, side: str, profile: RobotProfile, max_speed: float) -> None:
        self._node, self._side, self._relay, self._max_speed = node, side, profile.relay, max_speed
        self._arm: ArmProfile = profile.arms[side]
        self._target: tuple[float, np.ndarray] | None = None  # arrival (monotonic, s) and rad
        self._state: tuple[float, np.ndarray] | None = None
        self._silent = "no target yet"
        self._publisher = node.create_publisher(JointState, self._arm.command_topic, 10)
        node.create_subscription(JointState, self._arm.target_topic, self._on_target, 1)
        node.create_subscription(JointState, self._arm.state_topic, self._on_state, 1)

    def _on_target(self, message: JointState) -> None:
        try:
            target = ordered(message.name, message.position, self._arm.joints, self._arm.target_topic)
        except MessageError as error:
            # What was asked for before the bad target is no longer asked for, either.
            self._target = None
            self._node.get_logger().warning(f"rejected: {error}", throttle_duration_sec=1.0)
            return
        target, notes = clipped(target, self._arm.limits(), self._arm.joints)
        if notes:
            text = f"{self._arm.target_topic} clipped to the joint range: {'; '.join(notes)}"
            self._node.get_logger().warning(text, throttle_duration_sec=1.0)
        self._target = (time.monotonic(), target)

    def _on_state(self, message: JointState) -> None:
        try:
            values = joint_values(message, self._arm.joints, self._arm.state_topic)
        except MessageError as error:
            self._state = None
            self._node.get_logger().warning(f"rejected: {error}", throttle_duration_sec=1.0)
            return
        self._state = (time.monotonic(), values.position.astype(float))

    def tick(self, hold: str) -> None:
        """Publish a command, unless there is a reason not to; a change of reason is logged.

        ``hold`` is why nothing may be commanded at all; empty if nothing speaks against it.
        """
        silent = hold or self._stale()
        if silent != self._silent:
            text = f"{self._side} arm: silent, {silent}" if silent else f"{self._side} arm: commanding"
            self._node.get_logger().info(text)
            self._silent = silent
        if silent:
            return
        target, position = self._target[1], self._state[1]
        message = JointState(name=list(self._arm.joints), position=target.tolist(), effort=[0.0] * len(target))
        message.velocity = relay_velocity(self._relay, target, position, self._max_speed).tolist()
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _stale(self) -> str:
        now, relay = time.monotonic(), self._relay
        for what, stored, limit in (
            (self._arm.target_topic, self._target, relay.target_timeout_s),
            (self._arm.state_topic, self._state, relay.state_timeout_s),
        ):
            if stored is None:
                return f"nothing valid on {what}"
            if now - stored[0] > limit:
                return f"{what} older than {limit:g} s"
        return ""


class ArmRelayNode(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("arm_relay")
        declare(self, "robot", "teleavatar", "robot profile: a name, or the path of a YAML file")
        text = "largest speed of a joint of the targets, as the policy node's, rad/s; lagging arms are little faster"
        declare(self, "max_joint_speed", 1.0, text, between=(0.01, 3.0))
        refuse_unknown(self)
        self._profile = profile = RobotProfile.load(self.get_parameter("robot").value)
        if profile.arm_command != "relay":
            raise UserError(
                f"parameter robot: {profile.name} follows joint positions directly and needs no relay; "
                "a relay beside the policy would be a second publisher of its commands"
            )
        max_speed = self.get_parameter("max_joint_speed").value
        self._arms = [ArmRelay(self, side, profile, max_speed) for side in profile.arms]
        self._hold = "other publishers are looked for"  # first a period after the start: discovery takes time
        self.create_timer(1 / profile.relay.rate_hz, self._tick)
        self.create_timer(WATCH_PERIOD_S, self._watch)
        self._status = self.create_publisher(DiagnosticStatus, RELAY_TOPIC, 10)
        # Not the node's clock: a stopped /clock does not mean that the relay is gone.
        self.create_timer(1 / RELAY_HZ, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _tick(self) -> None:
        for arm in self._arms:
            arm.tick(self._hold)

    def _watch(self) -> None:
        topics = [arm.command_topic for arm in self._profile.arms.values()]
        others = sorted({name for topic in topics for name in other_publishers(self, topic)})
        hold = "another node publishes the robot's commands, too; stop one of the two" if others else ""
        if hold and hold != self._hold:
            self.get_logger().error(f"{hold} (besides this relay: {', '.join(others)})")
        for topic in (arm.target_topic for arm in self._profile.arms.values()):
            if len(names := publisher_names(self, topic)) > 1:
                hold = hold or f"{' and '.join(names)} publish {topic}: only one may"
        self._hold = hold

    def _report(self) -> None:
        level = DiagnosticStatus.ERROR if self._hold else DiagnosticStatus.OK
        self._status.publish(DiagnosticStatus(name=self.get_fully_qualified_name(), level=level, message=self._hold))


@program("arm_relay")
def main() -> int:
    """Entry point; returns the exit status."""
    with ros_session(commands=True) as stop:
        spin(ArmRelayNode(), stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
