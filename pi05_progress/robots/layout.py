"""A robot's numbers: names, order, units and limits, and which of them the model reads and answers.

A profile gives it (``profile.layout``). State and action of a data set are vectors of three blocks: positions,
velocities and efforts of all joints, each arm followed by its gripper. The poses of the arms' end effectors may follow;
the model does not read them. A row of actions has one number per joint, in the order of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ..errors import UserError
from .joints import JointValues

QUANTITIES = POSITION, VELOCITY, EFFORT = JointValues._fields  # a vector's blocks, in order
POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")  # of an end effector, in metres and as a quaternion


class LayoutError(UserError):
    """A vector or picture does not have the robot's layout."""


@dataclass(frozen=True)
class GripperCurve:
    """How a gripper's effort and the number that commands it belong together: straight between points."""

    efforts: tuple[float, ...]  # N m, rising
    commands: tuple[float, ...]  # numbers in [0, 1] that belong to them, rising or falling

    def command(self, effort: np.ndarray | float) -> np.ndarray:
        """The command number, float64 of any shape, for an effort in N m; beyond the points that of the last one."""
        return _along(np.clip(effort, self.efforts[0], self.efforts[-1]), self.efforts, self.commands)

    def effort(self, command: np.ndarray | float) -> np.ndarray:
        """The inverse of ``command``."""
        commands, efforts = zip(*sorted(zip(self.commands, self.efforts, strict=True)), strict=True)
        return _along(np.clip(command, commands[0], commands[-1]), commands, efforts)


def _along(x: np.ndarray | float, xs: tuple[float, ...], ys: tuple[float, ...]) -> np.ndarray:
    """Linear interpolation in float64. Every piece is reckoned from its inner end, where small numbers are exact."""
    x = np.asarray(x, float)
    middle = len(xs) // 2
    piece = np.clip(np.searchsorted(xs, x, side="left"), 1, len(xs) - 1)
    inner, outer = np.where(piece > middle, piece - 1, piece), np.where(piece > middle, piece, piece - 1)
    x0, x1, y0, y1 = (np.asarray(values, float)[at] for values in (xs, ys) for at in (inner, outer))
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


@dataclass(frozen=True, eq=False)
class Layout:
    """Which number of a vector means what, and which of them the model reads and answers."""

    joints: tuple[str, ...]  # names of all joints, in the order of a block and of a row of actions
    arms: Mapping[str, slice]  # where each arm's joints are in that order
    grippers: Mapping[str, int]  # where each arm's gripper is, for arms that have one
    limits: Float[np.ndarray, "n 2"]  # (n, 2) lower and upper position of each joint, rad; infinite for grippers
    state_columns: Int[np.ndarray, " s"]  # columns of a state vector that the model reads
    action_columns: Int[np.ndarray, " n"]  # columns of an action vector that the model learns, one per joint
    action_units: tuple[str, ...]  # of each number of a row of actions
    relative: Bool[np.ndarray, " n"]  # which numbers of a row are relative to the state, for models that are trained so
    curves: Mapping[str, GripperCurve]  # of each gripper
    cameras: Mapping[str, str]  # the model's name of each camera's picture

    @property
    def state_size(self) -> int:
        """How many numbers of a state the model reads."""
        return len(self.state_columns)

    @property
    def action_size(self) -> int:
        """How many numbers a row of actions has."""
        return len(self.action_columns)

    @property
    def arm_columns(self) -> Int[np.ndarray, " a"]:
        """Columns of the arms' joints, without grippers, in a block and in a row of actions."""
        return np.r_[tuple(self.arms.values())]

    @property
    def proprioception_columns(self) -> Int[np.ndarray, " p"]:
        """Columns of a state vector with the positions of all arms' joints, then of the grippers."""
        return np.array([self.column(joint, POSITION) for joint in [*self.arm_columns, *self.grippers.values()]], int)

    @property
    def proprioception_names(self) -> tuple[str, ...]:
        """The joint of each of these columns."""
        return tuple(self.joints[column] for column in self.proprioception_columns)

    @property
    def state_names(self) -> tuple[str, ...]:
        """The joint of each number of a state that the model reads."""
        return tuple(self.joints[column % len(self.joints)] for column in self.state_columns)

    @property
    def vector_sizes(self) -> tuple[int, int]:
        """Lengths that state and action vectors may have: without poses, and with them."""
        size = len(QUANTITIES) * len(self.joints)
        return size, size + len(POSE) * len(self.arms)

    def vector_names(self, size: int) -> list[str]:
        """Names of the numbers of a vector of this length: ``l_joint1.position``, ..., ``right_ee.qw``."""
        names = [f"{joint}.{quantity}" for quantity in QUANTITIES for joint in self.joints]
        return (names + [f"{arm}_ee.{axis}" for arm in self.arms for axis in POSE])[:size]

    def column(self, joint: int, quantity: str) -> int:
        """The column of one joint's position, velocity or effort in a vector."""
        return QUANTITIES.index(quantity) * len(self.joints) + joint

    def positions(self, vector: Shaped[np.ndarray, "*b v"]) -> Shaped[np.ndarray, "*b n"]:
        """The positions of all joints within a vector."""
        return self.checked(vector, "vector")[..., : len(self.joints)]

    def state_in_actions(self, state: Shaped[np.ndarray, "*b s"]) -> Shaped[np.ndarray, "*b n"]:
        """What relative actions are relative to: the model's state in the places of a row of actions, elsewhere 0."""
        state = np.asarray(state)
        row = np.zeros((*state.shape[:-1], self.action_size), state.dtype)
        of = {column: at for at, column in enumerate(self.state_columns)}
        for at in np.flatnonzero(self.relative):
            row[..., at] = state[..., of[self.action_columns[at]]]
        return row

    def checked(self, vector: Shaped[np.ndarray, "*b v"], what: str) -> Shaped[np.ndarray, "*b v"]:
        """A vector, as an array; a ``LayoutError`` that calls it ``what`` if it has another number of values than the
        robot's."""
        array, sizes = np.asarray(vector), " or ".join(map(str, self.vector_sizes))
        if array.shape[-1] not in self.vector_sizes:
            raise LayoutError(
                f"{what} has {array.shape[-1]} numbers on its last axis, the robot's layouts have {sizes}"
            )
        return array
