"""The simulated robot's ROS parameters: declared with description and range, read and checked into one frozen value."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from rclpy.node import Node

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import IMAGE_TYPE, RobotProfile
from pi05_progress.robots.yaml_lines import ConfigError

from ...parameters import declare, refuse_unknown
from ...starting.domains import check_domain
from ..physics.scene import strange_arms
from ..physics.tasks import TASKS
from .robot import STATE_HZ
from .states import IMAGE_HZ

ARM_COMMANDS = ("auto", "position", "velocity")
COUNT = (0, 2**31 - 1)


@dataclass(frozen=True)
class RobotParameters:
    """The values of all parameters, as they were when the node started.

    Attributes:
        arm_command: what arms follow on /api, ``position`` or ``velocity``.
        faults: what goes wrong in the expert's episodes, each as KIND or KIND:PICK.
        lockstep_step_s: simulated time of one lockstep step, s; None where the simulation runs by itself.
    """

    profile: RobotProfile
    task: str
    seed: int
    arm_command: str
    image_scale: float
    images: bool
    teleoperation: bool
    expert: bool
    expert_episodes: int
    faults: tuple[str, ...]
    fault_share: float
    lockstep_step_s: float | None


def declare_parameters(node: Node) -> None:
    """Declare everything.

    Raises:
        UserError: one is unknown, of another type or out of range.
    """
    declare(node, "profile", "teleavatar", "robot profile: a name, or the path of a YAML file")
    declare(node, "task", "stack_cubes", f"task on the table, one of {', '.join(TASKS)}")
    text = "decides where objects lie and which arm works; a new value counts from the next reset"
    declare(node, "seed", 0, text, between=COUNT, read_only=False)
    text = "what arms follow on /api: position (V2), velocity (V1) or auto (as the profile says)"
    declare(node, "arm_command", "auto", text)
    text = "image size as a share of the real cameras' resolution"
    declare(node, "image_scale", 0.5, text, between=(0.05, 1.0))
    declare(node, "images", True, "render and publish camera images")
    declare(node, "teleoperation", False, "start in teleoperation mode instead of API mode")
    text = "a scripted operator does the task through the teleoperation topics (starts in teleoperation mode)"
    declare(node, "expert", False, text)
    text = "how many episodes the expert does, each with the next seed; 0 for no end"
    declare(node, "expert_episodes", 1, text, between=COUNT)
    text = "what goes wrong in the expert's episodes: KIND or KIND:PICK, e.g. missed_grasp:0"
    declare(node, "faults", [""], text)
    text = "share of the episodes in which each fault happens; which ones, the seed decides"
    declare(node, "fault_share", 1.0, text, between=(0.0, 1.0))
    declare(node, "lockstep", False, "step only when /sim/step is called")
    text = "simulated time of one lockstep step, s"
    declare(node, "lockstep_step_s", 1 / IMAGE_HZ, text, between=(1 / STATE_HZ, 10.0))
    declare(node, "force_domain", False, "allow the production robot's ROS domain")
    refuse_unknown(node)


def read_parameters(node: Node) -> RobotParameters:
    """The present values.

    Raises:
        UserError: one cannot be used, or the ROS domain is the production robot's.
    """

    def get(name: str) -> object:
        return node.get_parameter(name).value

    check_domain(int(os.environ.get("ROS_DOMAIN_ID", "0") or 0), get("force_domain"))
    profile = _load_profile(get("profile"))
    task = _checked("task", get("task"), TASKS)
    arm_command = _checked("arm_command", get("arm_command"), ARM_COMMANDS)
    if arm_command == "auto":
        arm_command = "velocity" if profile.arm_command == "relay" else "position"
    same = ("seed", "image_scale", "images", "teleoperation", "expert", "expert_episodes", "fault_share")
    return RobotParameters(
        profile=profile,
        task=task,
        arm_command=arm_command,
        faults=tuple(text for text in get("faults") if text),
        lockstep_step_s=get("lockstep_step_s") if get("lockstep") else None,
        **{name: get(name) for name in same},
    )


def _checked(name: str, value: str, known: Collection[str]) -> str:
    if value not in known:
        raise UserError(f"parameter {name}: unknown {name} {value!r}; known: {', '.join(known)}")
    return value


def _load_profile(name: str) -> RobotProfile:
    try:
        profile = RobotProfile.load(name)
    except ConfigError as error:
        raise UserError(f"parameter profile: {error}") from error
    if kinds := profile.unusual_cameras():
        raise UserError(
            f"parameter profile: cameras of {profile.name} arrive as {kinds}; "
            f"the simulated robot publishes {IMAGE_TYPE} only: use profile teleavatar"
        )
    if text := strange_arms(profile):
        raise UserError(f"parameter profile: {text}: use profile teleavatar")
    return profile
