"""What is sent to the robot, arm targets, gripper numbers and the heartbeat; and who else does, by ROS's graph."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32

from pi05_progress.robots.profile import RobotProfile

from ..ros_session import publisher_names
from .command_rules import ENABLE_PERIOD_S, Step
from .participants import NodeApart

ACKNOWLEDGED_S = 0.2  # how long the last commands may take to arrive, all together
OWN_PAUSE = -0.0  # to a robot 0 like any other; hearing it back, the node knows that nobody else has sent it


class CommandPublishers:
    """A node's publishers of everything that commands a robot; used by the commands' thread only."""

    def __init__(self, node: Node | NodeApart, profile: RobotProfile) -> None:
        self._node, self._profile, self._enabled_s = node, profile, 0.0
        # An executor waits for a publisher's events, and fails if another thread destroys them while it prepares to.
        no_events = PublisherEventCallbacks(use_default_callbacks=False)

        def publisher(kind: type, topic: str) -> Publisher:
            return node.create_publisher(kind, topic, QoSProfile(depth=10), event_callbacks=no_events)

        self._arms = {side: publisher(JointState, topic) for side, topic in profile.target_topics().items()}
        self._grippers = {side: publisher(Float32, g.command_topic) for side, g in profile.grippers.items()}
        self._enable = publisher(Float32, profile.enable_topic)

    def send(self, step: Step) -> None:
        """Command grippers and arms, and keep the robot enabled."""
        for side, command in step.grippers.items():
            self._grippers[side].publish(Float32(data=command))
        self.send_arms(step.arms)
        self.enable(True)

    def send_arms(self, positions: Mapping[str, np.ndarray]) -> None:
        """Command arm positions, per arm in rad."""
        stamp = self._node.get_clock().now().to_msg()
        for side, position in positions.items():
            message = JointState(name=list(self._profile.arms[side].joints), position=position.tolist())
            message.header.stamp = stamp
            self._arms[side].publish(message)

    def enable(self, enabled: bool, at_once: bool = False) -> None:
        """Keep the robot enabled or paused, by a heartbeat, or have it so at once."""
        now_s = time.monotonic()
        if at_once or now_s - self._enabled_s >= ENABLE_PERIOD_S:
            self._enabled_s = now_s
            self._enable.publish(Float32(data=1.0 if enabled else OWN_PAUSE))

    def unheard(self) -> str:
        """Whether no target would reach anybody, as while the robot has not been discovered yet; empty if one would."""
        heard = any(publisher.get_subscription_count() for publisher in self._arms.values())
        return "" if heard else f"nobody listens to {' and '.join(p.topic_name for p in self._arms.values())}"

    def destroy(self) -> None:
        """Let go of the publishers when what was sent has arrived."""
        until_s = time.monotonic() + ACKNOWLEDGED_S
        for publisher in (*self._arms.values(), *self._grippers.values(), self._enable):
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, until_s - time.monotonic())))
            self._node.destroy_publisher(publisher)


WATCH_PERIOD_S = 0.25  # how often other publishers of the robot's commands are looked for
DISCOVERY_S = 0.5  # how long they are looked for before the first command


def other_publishers(node: Node, topic: str) -> list[str]:
    """Names of publishers of a topic beside one of this node's own, sorted; two nodes may bear the same name."""
    names = publisher_names(node, topic)
    own = node.get_fully_qualified_name()
    if own in names:
        names.remove(own)
    return names


class OtherCommanders:
    """Watches for others that command the robot, from when this node's own publishers were made.

    The node has one on every topic of arm targets and gripper numbers.
    """

    def __init__(self, node: NodeApart, profile: RobotProfile) -> None:
        self._node, self._profile = node, profile
        self._made_s, self._looked_s, self._found = time.monotonic(), 0.0, ""

    def against(self) -> str:
        """What speaks against commanding; empty if nothing does."""
        now = time.monotonic()
        if now - self._looked_s > WATCH_PERIOD_S:
            self._looked_s, self._found = now, self._look()
        if not self._found and now - self._made_s < DISCOVERY_S:
            return "looking for other nodes that command the robot"
        return self._found

    def _look(self) -> str:
        grippers = [gripper.command_topic for gripper in self._profile.grippers.values()]
        for topic in (*self._profile.target_topics().values(), *grippers):
            if others := other_publishers(self._node.node, self._node.resolve_topic_name(topic)):
                return f"{', '.join(others)} publishes {topic}, too: stop one of the two"
        return ""
