"""The robot in three dimensions, for programs that show it: ``/robot_description``, a URDF, and its frames on ``/tf``.

Both are made from the geometry that the profile names: its links, with capsules around them, and what stands about. On
a robot they come from robot_state_publisher.
"""

from __future__ import annotations

from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.spatial.transform import Rotation
from std_msgs.msg import String

from pi05_progress.robots.kinematics import ROOT_FRAME, link_capsules, read_geometry
from pi05_progress.robots.profile import RobotProfile
from tf2_msgs.msg import TFMessage

from ..physics.world import World

Point = tuple[float, ...] | list[float] | np.ndarray
ORIGIN, UNTURNED = (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)


class Link(NamedTuple):
    """A link, and the joint by which it hangs on another one."""

    name: str
    parent: str
    joint: str
    kind: str  # of the joint, as URDF calls it
    pos: Point = ORIGIN  # of its frame in the parent's, m, at 0
    quat: Point = UNTURNED  # w x y z
    axis: Point = ORIGIN  # of the joint, in its own frame
    limits: tuple[float, float] = (0.0, 0.0)  # rad or m
    follows: str = ""  # whose position the joint has: its own, or that of the one it is driven with; empty if fixed
    capsule: tuple[Point, Point, float] | None = None  # both ends and the radius, m


def links(profile: RobotProfile) -> list[Link]:
    """All links of a robot but its root; a ``UserError`` if the profile has no geometry of its arms."""
    table, found = read_geometry(profile), []
    for arm, about in profile.arms.items():
        parent = ROOT_FRAME
        for (link, end, radius), limits in zip(link_capsules(table, arm), about.ranges, strict=True):
            name, joint, axis = f"{link['joint']}_link", link["joint"], link["axis"] / np.linalg.norm(link["axis"])
            pose = (link["pos"], link["quat"], axis, limits)
            found.append(Link(name, parent, joint, "revolute", *pose, joint, (ORIGIN, end, radius)))
            parent = name
        gripper = profile.grippers[arm].joint if arm in profile.grippers else ""
        for at, finger in enumerate(table["capsules"][arm]["fingers"]):
            name, travel = f"{arm}_finger_{at}", float(np.linalg.norm(finger["opening"]))
            joint, kind = (gripper if at == 0 else f"{gripper}_{at}", "prismatic") if gripper else (name, "fixed")
            pose = (ORIGIN, UNTURNED, np.array(finger["opening"]) / travel, (0.0, travel))
            found.append(
                Link(name, parent, joint, kind, *pose, gripper, (finger["from"], finger["to"], finger["radius"]))
            )
        name, points = f"{arm}_fingertips", [entry["pos"] for entry in table[arm] if "grasp" in entry]
        found += [Link(name, parent, name, "fixed", point) for point in points]  # what the node's path is of
    return found


def urdf(profile: RobotProfile) -> str:
    """A robot's description; efforts and speeds of joints, which have to be in it, are 0: not known."""
    robot = Element("robot", name=profile.name)
    root = SubElement(robot, "link", name=ROOT_FRAME)
    for box in profile.geometry.boxes.values():
        _shape(root, box.centre, "box", size=_text(box.size))
    for link in links(profile):
        body = SubElement(robot, "link", name=link.name)
        if link.capsule:
            start, end, radius = *map(np.array, link.capsule[:2]), link.capsule[2]
            x, y, z = end - start
            turned = (0.0, np.arctan2(np.hypot(x, y), z), np.arctan2(y, x))  # from z to where it points
            length = str(np.linalg.norm(end - start))
            _shape(body, (start + end) / 2, "cylinder", turned, radius=str(radius), length=length)
            for point in (start, end):
                _shape(body, point, "sphere", radius=str(radius))
        joint = SubElement(robot, "joint", name=link.joint, type=link.kind)
        SubElement(joint, "parent", link=link.parent)
        SubElement(joint, "child", link=link.name)
        turned = Rotation.from_quat(link.quat, scalar_first=True).as_euler("xyz")
        SubElement(joint, "origin", xyz=_text(link.pos), rpy=_text(turned))
        if link.kind != "fixed":
            SubElement(joint, "axis", xyz=_text(link.axis))
            lower, upper = map(str, link.limits)
            SubElement(joint, "limit", lower=lower, upper=upper, effort="0", velocity="0")
            if link.follows != link.joint:
                SubElement(joint, "mimic", joint=link.follows)
    return tostring(robot, encoding="unicode")


def _text(numbers: Point) -> str:
    return " ".join(str(float(number)) for number in numbers)


def _shape(link: Element, centre: Point, kind: str, turned: Point = ORIGIN, **size: str) -> None:
    for use in ("visual", "collision"):
        shape = SubElement(link, use)
        SubElement(shape, "origin", xyz=_text(centre), rpy=_text(turned))
        SubElement(SubElement(shape, "geometry"), kind, size)


class Description:
    """Publishes both; frames only while somebody subscribes. Used by the physics thread only."""

    def __init__(self, node: Node, profile: RobotProfile) -> None:
        self._profile, self._links = profile, []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._robot = node.create_publisher(String, "/robot_description", latched)
        self._frames = node.create_publisher(TFMessage, "/tf", 100)
        try:
            self._links = links(profile)
            self._robot.publish(String(data=urdf(profile)))
        except (OSError, LookupError, TypeError, ValueError) as error:
            node.get_logger().warning(f"what the robot looks like is not published: {error}")

    def publish(self, stamp: Time, world: World) -> None:
        """Where all links are now."""
        if not self._links or not self._frames.get_subscription_count():
            return
        positions = {about.joint: world.gripper_state(arm).position for arm, about in self._profile.grippers.items()}
        for arm, about in self._profile.arms.items():
            positions |= zip(about.joints, world.arm_state(arm).position, strict=True)
        of = self._links
        moved = np.array([positions.get(link.follows, 0.0) for link in of])[:, None] * [link.axis for link in of]
        slides = np.array([[link.kind == "prismatic"] for link in of])
        fixed = Rotation.from_quat([link.quat for link in of], scalar_first=True)
        turned = (fixed * Rotation.from_rotvec(np.where(slides, 0.0, moved))).as_quat()
        places = np.array([link.pos for link in of]) + fixed.apply(np.where(slides, moved, 0.0))
        message = TFMessage(transforms=[TransformStamped(child_frame_id=link.name) for link in of])
        for link, frame, place, quat in zip(of, message.transforms, places.tolist(), turned.tolist(), strict=True):
            frame.header.stamp, frame.header.frame_id = stamp, link.parent
            at, turn = frame.transform.translation, frame.transform.rotation
            (at.x, at.y, at.z), (turn.x, turn.y, turn.z, turn.w) = place, quat
        self._frames.publish(message)
