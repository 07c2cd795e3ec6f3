"""Where an arm's hand is, and which joints bring it somewhere: computed for many poses at once."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from ..physics.scene import arm_table, grasp_point, side_sign, table_top_z


class HandPoses(NamedTuple):
    """Of n poses of an arm: the grasp point in m, the hand's axes, and how both change with the joints."""

    position: np.ndarray  # (n, 3) in the robot's root frame
    rotation: np.ndarray  # (n, 3, 3) of the joint-7 frame, axes in columns
    jacobian: np.ndarray  # (n, 6, 7) of position, then of rotation about the root frame's axes


@cache
def _links(side: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per joint: the fixed turn and offset of its frame in the last one's, and its axis."""
    links = []
    for link in arm_table().links[side]:
        turn, axis = Rotation.from_quat(link["quat"], scalar_first=True).as_matrix(), np.array(link["axis"], float)
        links.append((turn, np.array(link["pos"], dtype=float), axis / np.linalg.norm(axis)))
    return links


def hand_poses(side: str, joints: np.ndarray) -> HandPoses:
    """Forward kinematics of an arm: ``joints`` are (n, 7) rad."""
    n = len(joints)
    rotation, position = np.broadcast_to(np.eye(3), (n, 3, 3)), np.zeros((n, 3))
    origins, axes = [], []
    for angle, (turn, offset, axis) in zip(joints.T, _links(side), strict=True):
        position = position + rotation @ offset
        rotation = rotation @ turn
        origins.append(position)
        axes.append(rotation @ axis)
        rotation = rotation @ Rotation.from_rotvec(angle[:, None] * axis).as_matrix()
    position = position + rotation @ grasp_point(side)
    around = np.stack(axes, -1)
    along = np.stack([np.cross(a, position - o) for a, o in zip(axes, origins, strict=True)], -1)
    return HandPoses(position, rotation, np.concatenate([along, around], 1))


GRASP_HEIGHT = 0.002  # m of the grasp point above the object's centre
SPACING = 0.04  # m, of the grid on which postures are solved in advance
AXES = (np.arange(-0.12, 0.601, SPACING), np.arange(-0.60, -0.239, SPACING), np.arange(-0.04, 0.321, SPACING))
MIDDLE = (9, 4, 5)  # the node from which postures are followed outwards
TILT = np.deg2rad(30.0)  # of the fingers from straight down, tips away from the robot, where all else is equal
# What a posture is a compromise of: the grasp point is exact, the fingers open level and sidewise, and the tilt gives
# way to the joints, which stay in the middle of their ranges. A stiffer tilt drives joint 7 to its limit.
SIDEWISE, UPRIGHT, CENTRED = 0.3, 0.01, 0.005
UPRIGHT_BESIDE = 0.001  # more, low beside the robot, where the last link would come too near the table
BESIDE_Y, BESIDE_HEIGHT = (-0.40, -0.35), (0.06, 0.12)  # m, where that sets in, and up to where above the table
ITERATIONS, LARGEST_STEP = 120, 0.2  # rad
OUT_OF_REACH = 0.005  # m
LARGEST_JUMP = 0.6  # rad, between neighbours of the grid


class Reach:
    """The posture in which an arm grasps from above at a point: one and the same for every way that leads there."""

    def __init__(self, side: str) -> None:
        self.side, self._sign = side, side_sign(side)
        self.ranges = np.array([link["range"] for link in arm_table().links[side]], dtype=float)
        self._middle, self._half = self.ranges.mean(1), np.ptp(self.ranges, axis=1) / 2
        self._origin = np.array([AXES[0][0], AXES[1][0], table_top_z() + AXES[2][0]])
        grid = np.stack(np.meshgrid(AXES[0], AXES[1], table_top_z() + AXES[2], indexing="ij"), -1)
        # The arms mirror by q_right = -q_left, their home poses do not.
        joints = np.tile(self._sign * arm_table().home["left"], (grid.size // 3, 1))
        points = grid.reshape(-1, 3) * [self._sign, 1, 1]
        middle = points.reshape(*grid.shape)[MIDDLE]
        for share in np.clip(np.linspace(-0.3, 1.5, ITERATIONS), 0, 1):  # outwards, so that all hang together
            joints = self._step(joints, middle + share * (points - middle))
        found = np.linalg.norm(hand_poses(side, joints).position - points, axis=1) < OUT_OF_REACH
        grid, kept = joints.reshape(*grid.shape[:3], 7), found.reshape(grid.shape[:3])
        kept = _connected(grid, kept)
        self._grid, self._tops = _spread(grid, kept), (kept * (AXES[2] + SPACING / 2)).max(-1)

    def _step(self, joints: np.ndarray, points: np.ndarray) -> np.ndarray:
        """One damped step of least squares, (n, 7), towards postures for (n, 3) points."""
        position, rotation, jacobian = hand_poses(self.side, joints)
        opening, fingers = rotation[:, :, 2], rotation[:, :, 1] * self._sign
        level = np.cross(opening, [self._sign, 0, 0])  # the turns that are still missing
        tilt = np.cross(fingers, [0, -np.sin(TILT), -np.cos(TILT)])[:, :1]
        turns = jacobian[:, 3:]
        centring = np.broadcast_to(np.diag(CENTRED / self._half), (len(joints), 7, 7))
        beside = np.interp(points[:, 1], BESIDE_Y, (0, 1))
        beside = beside * np.interp(points[:, 2] - table_top_z(), BESIDE_HEIGHT, (1, 0))
        upright = (UPRIGHT + UPRIGHT_BESIDE * beside)[:, None]
        rows = np.concatenate([jacobian[:, :3], SIDEWISE * turns[:, 1:], upright[:, None] * turns[:, :1], centring], 1)
        missing = np.concatenate(
            [
                points - position,
                SIDEWISE * level[:, 1:],
                upright * tilt,
                CENTRED * (self._middle - joints) / self._half,
            ],
            1,
        )
        transposed = rows.transpose(0, 2, 1)
        change = np.linalg.solve(transposed @ rows + 1e-4 * np.eye(7), transposed @ missing[..., None])[..., 0]
        return np.clip(joints + np.clip(change, -LARGEST_STEP, LARGEST_STEP), *self.ranges.T)

    def roughly(self, point: np.ndarray) -> np.ndarray:
        """(7,) joints for a point (3,), rad, between those of the grid's corners around it: to some millimetres."""
        place = (point * [self._sign, 1, 1] - self._origin) / SPACING
        place = np.clip(place, 0, np.array(self._grid.shape[:3]) - 1.000001)
        low = place.astype(int)
        share = place - low
        block = self._grid[low[0] : low[0] + 2, low[1] : low[1] + 2, low[2] : low[2] + 2]
        for part in share:
            block = block[0] * (1 - part) + block[1] * part
        return block

    def ceiling(self, point: np.ndarray) -> float:
        """How high the hand gets above a place on the table, (3,) or (2,) m of which the height is not looked at."""
        place = (point[:2] * [self._sign, 1] - self._origin[:2]) / SPACING
        tops = map_coordinates(self._tops, place[:, None], order=1, mode="nearest")
        return table_top_z() + float(tops[0])

    def reaches(self, points: np.ndarray) -> np.ndarray:
        """(n,) whether the arm gets to each of the points (n, 3), to half of OUT_OF_REACH."""
        found = hand_poses(self.side, self.joints(points)).position
        return np.linalg.norm(found - points, axis=1) < OUT_OF_REACH / 2

    def joints(self, points: np.ndarray) -> np.ndarray:
        """(n, 7) joints for points (n, 3), rad: where one is out of reach, those that come near it."""
        first = self._step(np.stack([self.roughly(point) for point in points]), points)
        return self._step(first, points)


def _connected(grid: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Which of the grid's postures that were found hang together with the middle one's."""
    kept = np.zeros(found.shape, bool)
    kept[MIDDLE] = True
    alike = [np.abs(np.diff(grid, axis=axis)).max(-1) < LARGEST_JUMP for axis in range(3)]
    for _ in range(sum(found.shape)):
        for axis in range(3):
            nodes, same = np.moveaxis(kept, axis, 0), np.moveaxis(alike[axis], axis, 0)
            nodes[1:] |= nodes[:-1] & same
            nodes[:-1] |= nodes[1:] & same
        kept &= found
    return kept


def _spread(grid: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The grid with postures that are not ``kept`` replaced by means of their neighbours'.

    So no motion at the border of what can be reached is abrupt.
    """
    for _ in range(100):
        wide = np.pad(grid, [(1, 1)] * 3 + [(0, 0)], mode="edge")
        around = sum(np.roll(wide, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (-1, 1)) / 6
        grid = np.where(kept[..., None], grid, around)
    return grid


reach = cache(Reach)  # by side; made in less than a second
