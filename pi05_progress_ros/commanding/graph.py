"""Who else publishes a topic: what is looked at before a robot is commanded."""

from __future__ import annotations

from rclpy.node import Node


def other_publishers(node: Node, topic: str) -> list[str]:
    """Names of publishers of a topic beside one of this node's own, sorted; two nodes may bear the same name."""
    infos = node.get_publishers_info_by_topic(topic)
    names = sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos)
    own = node.get_fully_qualified_name()
    if own in names:
        names.remove(own)
    return names
