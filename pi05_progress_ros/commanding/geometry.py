"""How near the robot's links come to the table, to boxes and to one another, and how far they move. No ROS in here.

By MuJoCo, on capsules around the links (``config/arm_geometry.yaml``). Of an arm itself only links are looked at that
are far from one another along it, such as its hand and its shoulder: joint ranges keep all others apart (a test).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.robots.kinematics import link_capsules, read_geometry
from pi05_progress.robots.profile import RobotProfile

TABLE = "table"  # the box on which things are put down
OWN_LINKS = 5  # links of one arm that are so many joints or more from one another may touch
NO_MUJOCO = "MuJoCo is not installed: pip install 'pi05_progress[limits]'"

Pose = Mapping[str, np.ndarray]  # per arm the positions of its joints, rad


class Pair(NamedTuple):
    """Two bodies that keep apart."""

    one: int
    other: int
    margin: float  # m


class Placed(NamedTuple):
    """Where all capsules are in one pose: their ends (n, 2, 3), m, and how they are turned (n, 3, 3)."""

    ends: np.ndarray
    turned: np.ndarray


class Geometry:
    """See the module's docstring; of a profile that names a geometry, used by one thread.

    Raises:
        UserError: MuJoCo is not there, or the geometry is not of these arms.
    """

    def __init__(self, profile: RobotProfile) -> None:
        try:
            import mujoco  # here: an optional dependency
        except ImportError:
            raise UserError(NO_MUJOCO) from None
        self._mujoco, watched = mujoco, profile.geometry
        table = read_geometry(profile)
        spec, self._arms, self._names, self._groups = mujoco.MjSpec(), tuple(profile.arms), [], []
        spec.compiler.degree = False
        for arm in profile.arms:
            try:
                self._add_arm(spec, arm, link_capsules(table, arm), table["capsules"][arm]["fingers"])
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"geometry.file: {watched.file}: links or capsules of arm {arm}: {error!r}") from error
        self._capsules = capsules = len(self._names)
        for name, box in watched.boxes.items():
            half = [length / 2 for length in box.size]
            self._add(spec.worldbody, name, "", 0, False, type=mujoco.mjtGeom.mjGEOM_BOX, pos=box.centre, size=half)
        self._model = model = spec.compile()
        self._data = mujoco.MjData(model)
        joints = [joint for arm in profile.arms.values() for joint in arm.joints]
        self._joints = np.concatenate([model.joint(joint).qposadr for joint in joints])
        self._geoms = np.array([model.geom(str(index)).id for index in range(len(self._names))])
        self._radius, self._half = model.geom_size[self._geoms[:capsules], :2].T
        pairs = combinations(range(len(self._names)), 2)
        self._pairs = [Pair(*pair, self._margin(watched, *pair)) for pair in pairs if self._may_meet(*pair)]
        boxes = np.arange(len(self._geoms)) >= capsules
        # Of spheres around capsules; boxes are as they are.
        reach = np.where(boxes, 0.0, model.geom_rbound[self._geoms])
        self._one, self._other = np.array([pair[:2] for pair in self._pairs], int).reshape(-1, 2).T
        self._sides = np.where(boxes[:, None], model.geom_size[self._geoms], 0.0)[self._other]
        self._near = reach[self._one] + reach[self._other] + [pair.margin for pair in self._pairs]

    def _add_arm(self, spec: Any, arm: str, links: list[tuple[dict, list, float]], fingers: list[dict]) -> None:
        kind, parent = self._mujoco.mjtGeom.mjGEOM_CAPSULE, spec.worldbody
        for at, (link, end, radius) in enumerate(links):
            parent = parent.add_body(pos=link["pos"], quat=link["quat"])
            parent.add_joint(name=link["joint"], type=self._mujoco.mjtJoint.mjJNT_HINGE, axis=link["axis"])
            name = f"the link of {link['joint']}"
            self._add(parent, name, arm, at, False, type=kind, fromto=[0, 0, 0, *end], size=[radius, 0, 0])
        for finger in fingers:
            for opening in (np.zeros(3), np.array(finger["opening"])):
                fromto, size = [*(finger["from"] + opening), *(finger["to"] + opening)], [finger["radius"], 0, 0]
                name = f"a finger of the {arm} arm"
                self._add(parent, name, arm, len(links), True, type=kind, fromto=fromto, size=size)

    def _add(self, body: Any, name: str, arm: str, at: int, finger: bool, **shape: Any) -> None:
        body.add_geom(name=str(len(self._names)), **shape)
        self._names.append(name)
        self._groups.append((arm, at, finger))

    def _may_meet(self, one: int, other: int) -> bool:
        (arm, at, _), (another, there, _) = self._groups[one], self._groups[other]
        return one < self._capsules and (arm != another or there - at >= OWN_LINKS)

    def _margin(self, watched: Any, one: int, other: int) -> float:
        fingers = self._groups[one][2] and (self._groups[other][2] or self._names[other] == TABLE)
        return watched.finger_margin if fingers else watched.margin

    def place(self, pose: Pose) -> Placed:
        """Where everything is in a pose; ``distances`` are of the one that was placed last."""
        data, capsules = self._data, self._geoms[: self._capsules]
        data.qpos[self._joints] = np.concatenate([pose[arm] for arm in self._arms])
        self._mujoco.mj_kinematics(self._model, data)
        turned = data.geom_xmat[capsules].reshape(-1, 3, 3)
        along = turned[:, :, 2] * self._half[:, None]
        centre = data.geom_xpos[capsules]
        return Placed(np.stack([centre - along, centre + along], 1), turned)

    def farthest(self, before: Placed, after: Placed) -> tuple[float, str]:
        """How far any point of a link is from where it was, m, at most; and which link that is."""
        moved = np.linalg.norm(after.ends - before.ends, axis=2).max(1)
        turns = np.linalg.norm(after.turned - before.turned, axis=(1, 2)) / np.sqrt(2)  # of small angles, rad
        moved = moved + self._radius * turns
        return float(moved.max()), self._names[int(moved.argmax())]

    def distances(self, among: Mapping[Pair, float] | None = None) -> dict[Pair, float]:
        """Of the pose placed last: of the given pairs, else of all that are nearer than their margin, m."""
        if among is not None:
            return {pair: self._distance(pair, 1.0) for pair in among}
        centres = self._data.geom_xpos[self._geoms]
        apart = np.maximum(np.abs(centres[self._one] - centres[self._other]) - self._sides, 0.0)
        near = np.einsum("ij,ij->i", apart, apart) < self._near**2
        found = ((pair := self._pairs[at], self._distance(pair, pair.margin + 0.01)) for at in np.flatnonzero(near))
        return {pair: distance for pair, distance in found if distance < pair.margin}

    def _distance(self, pair: Pair, most: float) -> float:
        one, other = int(self._geoms[pair.one]), int(self._geoms[pair.other])
        return self._mujoco.mj_geomDistance(self._model, self._data, one, other, most, None)

    def names(self, pair: Pair) -> str:
        """Of what is near one another."""
        return f"{self._names[pair.one]} and {self._names[pair.other]}"
