"""The simulated Teleavatar as ROS 2 sees it: the topics, rules and rates of profile ``teleavatar``.

Threads: the main one steps the physics at 200 Hz, publishes states and runs callbacks (``physics_loop.py``), another
renders and publishes images on snapshots (``camera_sender.py``).
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import TYPE_CHECKING

from rclpy.node import Node

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import Mode

from ..command_line import program
from ..parameters import QosOverrides, declare_all, read_all, warn_of_unused_overrides
from ..ros_session import UNNAMED, publisher_names, ros_session
from ..starting.simulation_choices import free_udp_port, parse_fault
from .physics.gl import require_backend
from .physics.laboratory import Laboratory
from .physics.world import World
from .robot.camera_sender import CameraSenders, ImagePublisher
from .robot.command_listener import CommandListener
from .robot.physics_loop import PhysicsLoop, PolicyEpisodes, Worker
from .robot.robot import Robot
from .robot.robot_parameters import RobotParameters

if TYPE_CHECKING:
    from .expert.operator import Operator

DISCOVERY_S, NAMES_S = 1.5, 2.0  # how long another robot in this domain is looked for, and then its name


def refuse_second_robot(node: Node, topic: str) -> None:
    """Raise a ``UserError`` if a robot publishes the topic already: two in one domain cannot be told apart."""
    until = time.monotonic() + DISCOVERY_S
    while not (names := publisher_names(node, topic)):
        if time.monotonic() > until:
            return
        time.sleep(0.05)
    until = time.monotonic() + NAMES_S
    while UNNAMED in names and time.monotonic() < until:
        time.sleep(0.05)
        names = publisher_names(node, topic) or names
    raise UserError(
        f"{node.resolve_topic_name(topic)} is already published by {', '.join(dict.fromkeys(names))} in ROS domain "
        f"{os.environ.get('ROS_DOMAIN_ID', '0')}: another robot or simulation is running. Stop it, or use another "
        "ROS_DOMAIN_ID."
    )


class RobotNode(QosOverrides, Node):
    """See the module's docstring; a ``UserError`` if it cannot run here, or not with these parameters."""

    def __init__(self) -> None:
        super().__init__("simulated_robot")
        declare_all(self, RobotParameters)
        parameters = read_all(self, RobotParameters)
        profile = parameters.checked_profile()
        laboratory = Laboratory(parameters.laboratory, parameters.shift)
        world = World(parameters.task, parameters.seed, parameters.arms_follow(profile), laboratory)
        self._robot = Robot(world)
        refuse_second_robot(self, next(iter(profile.arms.values())).state_topic)
        worker: Worker | None = PolicyEpisodes(self._robot) if parameters.episodes == "policy" else None
        if parameters.expert:
            worker = self._make_operator(parameters, profile)
        mode = Mode.TELEOPERATION if parameters.teleoperation or parameters.expert else Mode.API
        self.loop = PhysicsLoop(
            self,
            self._robot,
            profile,
            CommandListener(self, self._robot, profile, mode),
            step_s=parameters.lockstep_step_s if parameters.lockstep else None,
            episodes=(parameters.expert and parameters.expert_episodes) or math.inf,
            images=self._make_images(parameters, profile) if parameters.images else None,
            worker=worker,
        )
        warn_of_unused_overrides(self)

    def _make_operator(self, parameters: RobotParameters, profile: RobotProfile) -> Operator:
        from .expert.operator import Operator  # its solver takes seconds to import; only those who need it wait

        faults = [text for text in parameters.faults if text]
        for text in faults:
            parse_fault(text, parameters.task)
        return Operator(self, self._robot.world, profile, faults, parameters.fault_share)

    def _make_images(self, parameters: RobotParameters, profile: RobotProfile) -> ImagePublisher:
        require_backend()
        port = 0
        if profile.stream:
            port = parameters.stream_port or free_udp_port()
            self.get_logger().info(f"its video goes to UDP port {port} of this machine: stream_port of the policy node")
        senders = CameraSenders(self, profile, parameters.image_scale, port=port)
        return ImagePublisher(self._robot.world.model, profile, parameters.image_scale, senders)


@program("simulated_robot")
def main() -> int:
    """Entry point; returns the exit status."""
    with ros_session() as stop:
        RobotNode().loop.run(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
