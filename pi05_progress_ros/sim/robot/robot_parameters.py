"""The simulated robot's ROS parameters, and what they say together."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import RobotProfile

from ...parameters import parameter
from ...starting.processes import check_domain
from ...starting.simulation_choices import EPISODES, RANGES, check_simulable
from ..physics.laboratory import SHIFT_HELP
from ..physics.tasks import TASKS
from .states import IMAGE_HZ

ARM_COMMANDS = ("auto", "position", "velocity")


@dataclass(frozen=True)
class RobotParameters:
    """The values of all parameters, as they were when the node started; the defaults say what each means."""

    profile: str = parameter("teleavatar", "robot profile: a name, or the path of a YAML file")
    task: str = parameter("stack_cubes", f"task on the table, one of {', '.join(TASKS)}")
    seed: int = parameter(
        0,
        "decides where objects lie and which arm works; a new value counts from the next reset",
        between=RANGES["seed"],
        read_only=False,
    )
    arm_command: str = parameter(
        "auto", "what arms follow on /api: position (V2), velocity (V1) or auto (as the profile says)"
    )
    image_scale: float = parameter(
        0.5, "image size as a share of the real cameras' resolution", between=RANGES["image_scale"]
    )
    laboratory: str = parameter("plain", "where it stands: plain, or random, a laboratory of its own for every seed")
    shift: str = parameter("none", SHIFT_HELP)
    stream_port: int = parameter(
        0,
        "UDP port of this machine that a robot's video stream is sent to; 0: a free one, which is logged",
        between=(0, 65535),
    )
    images: bool = parameter(True, "render and publish camera images")
    teleoperation: bool = parameter(False, "start in teleoperation mode instead of API mode")
    expert: bool = parameter(
        False, "a scripted operator does the task through the teleoperation topics (starts in teleoperation mode)"
    )
    expert_episodes: int = parameter(
        1, "how many episodes the expert does, each with the next seed; 0 for no end", between=RANGES["expert_episodes"]
    )
    episodes: str = parameter(
        "reset",
        "when the next episode begins that no expert does: reset (only by /sim/reset) or policy (once physics has "
        "decided, or nobody commands any more, with the next seed; the arms go home by themselves)",
    )
    faults: Sequence[str] = parameter(
        ("",), "what goes wrong in the expert's episodes: KIND or KIND:PICK, e.g. missed_grasp:0"
    )
    fault_share: float = parameter(
        1.0, "share of the episodes in which each fault happens; which ones, the seed decides", between=(0.0, 1.0)
    )
    lockstep: bool = parameter(False, "step only when /sim/step is called")
    lockstep_step_s: float = parameter(
        1 / IMAGE_HZ, "simulated time of one lockstep step, s", between=RANGES["lockstep_step_s"]
    )
    force_domain: bool = parameter(False, "allow the production robot's ROS domain")

    def checked_profile(self) -> RobotProfile:
        """The robot, once it is known that it can be simulated here and with these values.

        Raises:
            UserError: one cannot be used, or the ROS domain is the production robot's.
        """
        check_domain(int(os.environ.get("ROS_DOMAIN_ID", "0") or 0), self.force_domain)
        try:
            profile = RobotProfile.load(self.profile)
            check_simulable(profile)
        except UserError as error:
            raise UserError(f"parameter profile: {error}") from error
        if profile.stream and self.stream_port == profile.stream.port:
            raise UserError(f"parameter stream_port: {self.stream_port} is the real robot's: use another, or 0")
        _check("task", self.task, TASKS)
        _check("arm_command", self.arm_command, ARM_COMMANDS)
        _check("episodes", self.episodes, EPISODES)
        if self.expert and self.episodes != EPISODES[0]:
            raise UserError(f"parameter episodes: it is {self.episodes}, but with expert the expert does the episodes")
        return profile

    def arms_follow(self, profile: RobotProfile) -> str:
        """What arms follow on /api, ``position`` or ``velocity``."""
        if self.arm_command != "auto":
            return self.arm_command
        return "velocity" if profile.arm_command == "relay" else "position"


def _check(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise UserError(f"parameter {name}: unknown {name} {value!r}; known: {', '.join(known)}")
