"""What every task has: objects, an instruction, milestones seen in the physics, success and failure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import mujoco
import numpy as np

from pi05_progress.robots.episode_notes import UNDONE

from ..scene import OBJECT_FRICTION, arm_table, side_sign, table_top_z

Outcome = Literal["unknown", "success", "failure"]
CUBE_HALF = 0.02  # m
CUBE_MASS = 0.05  # kg
FREE_Y = (-0.49, -0.41)  # m, where loose objects may lie
LIFTED = 0.03  # m above where it would rest on the table
SETTLE_S = 0.2  # how long a goal state must last before it counts as reached
UNDONE_S = 1.5  # how long it must be gone to be undone: what is let go of is neither held nor in place at first


class Milestone(NamedTuple):
    """A named step of the task and the simulated time, s, at which it was reached."""

    name: str
    time_s: float


@dataclass(frozen=True)
class TaskStatus:
    """Truth about a task, from physics.

    ``progress`` is the share of milestones that hold *now*, so undoing a step lowers it; ``milestones`` are those ever
    reached, in order; ``marks`` are all that was reached, undone (``undone NAME``: with all that came after it) and
    reached again.
    """

    progress: float
    milestones: tuple[Milestone, ...]
    marks: tuple[Milestone, ...]
    outcome: Outcome
    reason: str


class Pick(NamedTuple):
    """One pick-and-place: which object goes where. ``target`` is the object's goal position (3,) m."""

    name: str
    target: np.ndarray
    release_height: float | None  # m above the goal at which it is let go; None: it is held there


class Task(ABC):
    """A task. One world owns one instance; ``reset`` starts an episode."""

    name: ClassVar[str]
    object_names: ClassVar[tuple[str, ...]]
    free_x: ClassVar[tuple[float, float]] = (0.10, 0.42)  # m, where loose objects may lie
    time_limit_s: ClassVar[float] = 60.0
    wordings: ClassVar[tuple[str, ...]]  # of the instruction; seeds take turns
    settle_s: ClassVar[Mapping[str, float]] = {}  # how long a milestone must hold, where that is not SETTLE_S

    side: str
    instruction: str
    half: float = CUBE_HALF  # m, half the edge of the episode's cubes

    @abstractmethod
    def add_to_scene(self, spec: mujoco.MjSpec) -> None:
        """Add the task's objects to a scene that is not compiled yet."""

    @abstractmethod
    def place_objects(self, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator) -> None:
        """Lay the objects out for an episode."""

    @abstractmethod
    def milestone_names(self) -> list[str]:
        """The milestones of this episode, in order."""

    @abstractmethod
    def in_place(self, name: str, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether an object rests where it belongs, let go."""

    @abstractmethod
    def picks(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[Pick]:
        """The pick-and-places that are still to be done, given where objects are now."""

    def holds(self, milestone: str, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether a milestone's state, or one beyond it, holds now: in place, or ``lifted``, held in the air."""
        name, what = milestone.split()
        if what != "lifted" or self.in_place(name, model, data):
            return self.in_place(name, model, data)
        return self.height(name, data) > LIFTED and fingers_touch(model, data, self.side, name)

    def height(self, name: str, data: mujoco.MjData) -> float:
        """How high an object is above where it rests on the table, m."""
        return float(data.body(name).xpos[2]) - table_top_z() - self.half

    def words(self) -> dict[str, str]:
        """What the wordings leave open in this episode."""
        return {}

    def reset(self, model: mujoco.MjModel, data: mujoco.MjData, seed: int) -> None:
        """Start the episode of a seed."""
        rng, sides = np.random.default_rng(seed), arm_table().sides
        self.side = sides[int(rng.integers(len(sides)))]
        self.place_objects(model, data, rng)
        self.instruction = self.wordings[seed % len(self.wordings)].format(**self.words())
        self._reached: list[Milestone] = []
        self._marks: list[Milestone] = []
        self._marked, self._fallen_s = 0, None  # how many milestones hold by the marks; since when fewer do
        self._holding: dict[str, float] = {}
        self._now: set[str] = set()
        self._outcome: Outcome = "unknown"
        self._reason = ""

    def update(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Look at the physics; called every 20 ms of simulated time. A decided outcome stays."""
        if self._outcome != "unknown":
            return
        names = self.milestone_names()
        self._now = {name for name in names if self._held_long_enough(name, model, data)}
        while len(self._reached) < len(names) and names[len(self._reached)] in self._now:
            self._reached.append(Milestone(names[len(self._reached)], float(data.time)))
        self._mark(names, float(data.time))
        if len(self._now) == len(names):
            self._outcome, self._reason = "success", "every milestone holds"
        elif lost := [name for name in self.object_names if data.body(name).xpos[2] < table_top_z() - 0.03]:
            self._outcome, self._reason = "failure", f"{lost[0].replace('_', ' ')} fell off the table"
        elif data.time > self.time_limit_s:
            self._outcome, self._reason = "failure", f"not done within {self.time_limit_s:.0f} s"

    def _mark(self, names: Sequence[str], now_s: float) -> None:
        """Mark the milestones that came since the last call, or the first one that is gone."""
        holding = next((k for k, name in enumerate(names) if name not in self._now), len(names))
        if holding >= self._marked:
            self._marks += [Milestone(name, now_s) for name in names[self._marked : holding]]
            self._marked, self._fallen_s = holding, None
            return
        self._fallen_s = now_s if self._fallen_s is None else self._fallen_s
        if now_s - self._fallen_s >= UNDONE_S:
            self._marks.append(Milestone(UNDONE + names[holding], self._fallen_s))
            self._marked, self._fallen_s = holding, None

    def _held_long_enough(self, name: str, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        if not self.holds(name, model, data):
            self._holding.pop(name, None)
            return False
        since = self._holding.setdefault(name, float(data.time))
        return data.time - since >= self.settle_s.get(name.split()[1], SETTLE_S) - 1e-9

    def status(self) -> TaskStatus:
        """The truth as of the last update."""
        share = len(self._now) / len(self.milestone_names())
        return TaskStatus(share, tuple(self._reached), tuple(self._marks), self._outcome, self._reason)

    # --- helpers for tasks ---

    def workspace_point(self, rng: np.random.Generator, x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
        """A random point on the table; ``x`` counts away from the robot's middle, to the working arm's side."""
        return np.array([side_sign(self.side) * rng.uniform(*x), rng.uniform(*y), table_top_z()])

    def free_point(self, rng: np.random.Generator) -> np.ndarray:
        """A random point where a loose object may lie, (3,) m; whether something lies there is not looked at."""
        return self.workspace_point(rng, self.free_x, FREE_Y)

    def free_place(self, here: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
        """The place on the table nearest to ``here`` where an object can be put, clear of others; centres, (3,) m."""
        xs, ys = side_sign(self.side) * np.linspace(*self.free_x, 8), np.linspace(*FREE_Y, 4)
        places = np.array([[x, y, table_top_z() + self.half] for x in xs for y in ys])
        gaps = np.min([np.hypot(*(places - other)[:, :2].T) for other in others] or [np.ones(len(places))], axis=0)
        free = places[gaps >= min(0.085, gaps.max())]
        return free[np.argmin(np.hypot(*(free - here)[:, :2].T))]

    def workspace_middle(self) -> np.ndarray:
        """The middle of what the working arm reaches on the table, (3,) m."""
        return np.array([side_sign(self.side) * 0.25, -0.45, table_top_z()])


def add_cube(spec: mujoco.MjSpec, name: str, rgba: tuple[float, float, float, float]) -> None:
    """A free 4 cm cube of 50 g."""
    body = spec.worldbody.add_body(name=name, pos=[0, -0.45, 0])
    body.add_freejoint(name=name)
    body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=[CUBE_HALF] * 3, mass=CUBE_MASS, rgba=rgba,
        friction=OBJECT_FRICTION, condim=4,
    )  # fmt: skip


def set_pose(model: mujoco.MjModel, data: mujoco.MjData, name: str, position: np.ndarray, yaw: float) -> None:
    """Put a free object somewhere, turned about the vertical by ``yaw`` rad."""
    address = model.joint(name).qposadr[0]
    data.qpos[address : address + 3] = position
    data.qpos[address + 3 : address + 7] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]


def spread_points(draw, count: int, clearance: float, tries: int = 1000) -> list[np.ndarray]:  # noqa: ANN001
    """Draw points until ``count`` are at least ``clearance`` m apart; a RuntimeError if there is no room for them."""
    for _ in range(tries):
        points = [draw() for _ in range(count)]
        gaps = [np.linalg.norm(a - b) for i, a in enumerate(points) for b in points[:i]]
        if min(gaps, default=np.inf) >= clearance:
            return points
    raise RuntimeError(f"{count} objects do not fit with {clearance} m between them")


def fingers_touch(model: mujoco.MjModel, data: mujoco.MjData, side: str, name: str) -> bool:
    """Whether both finger pads of a gripper touch an object."""
    pairs = data.contact.geom[: data.ncon]
    touching = pairs[(model.geom_bodyid[pairs] == model.body(name).id)[:, ::-1]]  # the other one of each pair
    return {model.geom(f"{side[0]}_finger_{f}_pad").id for f in "ab"} <= set(touching.tolist())
