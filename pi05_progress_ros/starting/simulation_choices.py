"""What may be asked of a simulation: robots, tasks, ranges, and what goes wrong when the expert works. Needs none."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from pi05_progress.errors import UserError

if TYPE_CHECKING:
    from pi05_progress.robots.profile import RobotProfile

TaskName = Literal["stack_cubes", "place_in_basket", "lift_cube"]
SIM_TASKS: tuple[TaskName, ...] = get_args(TaskName)
EPISODES = ("reset", "policy")  # what begins the next episode: /sim/reset alone, or the end of the policy's
LaboratoryName = Literal["plain", "random"]  # random: every seed has a laboratory of its own
LABORATORIES: tuple[LaboratoryName, ...] = get_args(LaboratoryName)
FaultKind = Literal[
    "dropped_object",  # lets go on the way up, and takes it again
    "missed_grasp",  # closes above the object, and tries again
    "long_pause",  # stands still before the pick
    "undone_step",  # takes away again what it has placed, then does it anew
    "gives_up",  # does nothing from this pick on
    "leaves_object",  # lets go on the way up, and does nothing more
    "freezes_holding",  # holds it on the way up, and does nothing more
    "wrong_object",  # carries another one to its place, or holds up one that is in place, and does nothing more
    "out_of_reach",  # pushes it outwards until the arm does not get to it, and does nothing more
    "empty_gripper",  # closes above it, and goes on to the end as if it held it
    "dropped_behind",  # lets it fall off the table's near edge, and does nothing more
]
FAULTS: tuple[FaultKind, ...] = get_args(FaultKind)

# Least and most of the simulated robot's parameters.
RANGES = {
    "image_scale": (0.05, 1.0),
    "seed": (0, 2**31 - 1),
    "expert_episodes": (0, 2**31 - 1),
    "lockstep_step_s": (1 / 200, 10.0),
}


def free_udp_port() -> int:
    """A UDP port of this machine that nobody uses at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def check_simulable(profile: RobotProfile) -> None:
    """Refuse, by a ``UserError``, a robot with other arms than the simulated one, ``teleavatar``."""
    from pi05_progress.robots.profile import DEFAULT, RobotProfile

    own = RobotProfile.load(DEFAULT)
    joints, expected = ({name: len(arm.joints) for name, arm in p.arms.items()} for p in (profile, own))
    if joints != expected or set(profile.grippers) != set(own.grippers):
        told, known = (", ".join(f"{name} of {n} joints" for name, n in arms.items()) for arms in (joints, expected))
        raise UserError(
            f"arms of {profile.name} are {told}, with {len(profile.grippers)} grippers; simulated are {known}, with "
            f"{len(own.grippers)}: use profile {DEFAULT}"
        )


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong at the ``pick``-th pick (from 0) of an episode."""

    kind: FaultKind
    pick: int = 0
    duration_s: float = 5.0  # of a long pause, or of holding still

    def __str__(self) -> str:
        return f"{self.kind}:{self.pick}"

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise UserError(f"unknown fault {self.kind!r}; known faults: {', '.join(FAULTS)}")


def parse_fault(text: str, task: str = "") -> Fault:
    """A fault from ``KIND`` or ``KIND:PICK``.

    Raises:
        UserError: the kind is unknown, the pick no number from 0, or it cannot happen in the task that is given.
    """
    kind, _, pick = text.partition(":")
    if pick and not pick.isdecimal():
        raise UserError(f"fault {text!r}: {pick!r} is not the number of a pick, 0 is the first")
    if (kind, task) == ("wrong_object", "lift_cube"):
        raise UserError(f"fault {text!r}: {task} has no other object; choose a task with several, or another fault")
    return Fault(kind, int(pick or 0))


def episode_faults(seed: int, faults: Sequence[str], share: float) -> list[str]:
    """What goes wrong in the episode of a seed: each given fault, in a share of the episodes."""
    rng = np.random.default_rng([seed, 2])
    return [fault for fault in faults if rng.random() < share]
