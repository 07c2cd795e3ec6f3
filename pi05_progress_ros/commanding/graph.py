"""Who else commands the robot, by what ROS's graph says; looked at before and while a robot is commanded."""

from __future__ import annotations

import time

from rclpy.node import Node

from pi05_progress.robots.profile import RobotProfile

from ..ros_session import publisher_names
from .apart import NodeApart

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

    Args:
        node: who looks, and has a publisher of its own on every topic of arm targets and gripper numbers.
        profile: the robot's topics.
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
