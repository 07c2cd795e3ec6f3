"""Whether this is the only robot of its ROS domain: two that answer to the same topics cannot be told apart."""

from __future__ import annotations

import os
import time

from rclpy.node import Node

from pi05_progress.errors import UserError

DISCOVERY_S = 1.5  # how long another robot in this domain is looked for
NAME_S, UNKNOWN_NAME = 2.0, "_NODE_NAME_UNKNOWN_"


def check_alone(node: Node, topic: str) -> None:
    """Refuse to be a second robot.

    Raises:
        UserError: somebody already publishes the topic in this domain.
    """
    until = time.monotonic() + DISCOVERY_S
    while time.monotonic() < until:
        if node.count_publishers(topic):
            names, domain = ", ".join(_publisher_names(node, topic)), os.environ.get("ROS_DOMAIN_ID", "0")
            raise UserError(
                f"{topic} is already published by {names} in ROS domain {domain}: "
                "another robot or simulation is running. Stop it, or use another ROS_DOMAIN_ID."
            )
        time.sleep(0.05)


def _publisher_names(node: Node, topic: str) -> list[str]:
    """Names of the nodes that publish a topic; waits a little, since a name is known later than its publisher."""
    until = time.monotonic() + NAME_S
    while True:
        names = sorted({info.node_name for info in node.get_publishers_info_by_topic(topic)})
        if UNKNOWN_NAME not in names or time.monotonic() > until:
            return names
        time.sleep(0.05)
