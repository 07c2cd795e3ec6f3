"""What may be asked of a simulation: its tasks, and what goes wrong when the scripted expert works. Needs none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pi05_progress.errors import UserError

TaskName = Literal["stack_cubes", "place_in_basket"]
SIM_TASKS: tuple[TaskName, ...] = get_args(TaskName)
FaultKind = Literal[
    "dropped_object",  # lets go on the way up, and takes it again
    "missed_grasp",  # closes above the object, and tries again
    "long_pause",  # stands still before the pick
    "undone_step",  # takes away again what it has placed, then does it anew
    "gives_up",  # does nothing from this pick on
    "leaves_object",  # lets go on the way up, and does nothing more
    "freezes_holding",  # holds it on the way up, and does nothing more
]
FAULTS: tuple[FaultKind, ...] = get_args(FaultKind)


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


def parse_fault(text: str) -> Fault:
    """A fault from ``KIND`` or ``KIND:PICK``.

    Raises:
        ValueError: unknown kind, or the pick is not a number from 0.
    """
    kind, _, pick = text.partition(":")
    if pick and not pick.isdecimal():
        raise UserError(f"fault {text!r}: {pick!r} is not the number of a pick, 0 is the first")
    return Fault(kind, int(pick or 0))


def episode_faults(seed: int, faults: Sequence[str], share: float) -> list[str]:
    """What goes wrong in the episode of a seed: each given fault, in a share of the episodes."""
    rng = np.random.default_rng([seed, 2])
    return [fault for fault in faults if rng.random() < share]
