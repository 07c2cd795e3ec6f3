"""The action chunk as paths of the fingertips, for people who look on: computed only while somebody subscribes.

Threads: the executor's makes and destroys it, ``publish`` is called by the inference thread.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from rclpy.node import Node

from pi05_progress.errors import UserError
from pi05_progress.robots.kinematics import ROOT_FRAME, fingertips, read_geometry
from pi05_progress.robots.profile import RobotProfile

from ..commanding.chunks import Chunk
from .results import to_time


class FingertipPaths:
    """See the module's docstring; without a geometry in the profile, which is said, there is nothing to publish."""

    def __init__(self, node: Node, profile: RobotProfile) -> None:
        self._node, self._publishers = node, []
        try:
            self._points = partial(fingertips, layout=profile.layout, of="grasp", table=read_geometry(profile))
            if self._points(np.zeros((1, profile.layout.action_size))) is None:
                raise UserError("geometry.file: an arm has no point `grasp`, which is between its fingers")
        except (OSError, LookupError, TypeError, ValueError) as error:
            node.get_logger().info(f"the chunk is not published as paths of the fingertips: {error}")
            return
        self._publishers = [node.create_publisher(Path, f"~/fingertip_path/{arm}", 1) for arm in profile.arms]

    def publish(self, chunk: Chunk) -> None:
        """Publish where a chunk leads, for each arm that somebody looks at."""
        wanted = [(arm, to) for arm, to in enumerate(self._publishers) if to.get_subscription_count()]
        points = self._points(chunk.values) if wanted else None
        for arm, publisher in wanted:
            path = Path(poses=[PoseStamped() for _ in points])
            for row, (pose, point) in enumerate(zip(path.poses, points[:, arm].tolist(), strict=True)):
                pose.header.frame_id = ROOT_FRAME
                pose.header.stamp = to_time(round((chunk.start_s + row * chunk.dt_s) * 1e9))
                pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = point
            path.header = path.poses[0].header
            publisher.publish(path)

    def destroy(self) -> None:
        """Let go of the publishers."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
