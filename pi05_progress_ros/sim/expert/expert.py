"""A scripted operator who solves the tasks by pick and place, at varying speed, with pauses, retries and faults.

It looks at the truth about objects, as a person would look at the table, and says where the arms should be; whoever
runs it sends that through the teleoperation commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ...starting.simulation_choices import Fault
from ..physics.scene import side_sign, table_top_z
from ..physics.tasks.base import Pick, fingers_touch
from ..physics.world import World
from .kinematics import GRASP_HEIGHT, reach

PERIOD_S = 0.05  # between Cartesian waypoints
SPEED_M_S = 0.16  # of the hand at speed 1
HOVER = 0.07  # m above an object before descending and after lifting
READY_HEIGHT = 0.14  # m above the table
READY_SPEED_RAD_S = 0.8
MAX_ATTEMPTS = 4  # picks of one object before giving up
BESIDE = 0.04  # m from an object's middle to fingers that are closed beside it
# How an object gets off the table's near edge: between table and robot, low there, where joints are slow; m.
AISLE_Y, AISLE_X, BEHIND_Y, LOW = -0.345, 0.15, -0.195, 0.05


class OperatorCommand(NamedTuple):
    """Joint targets in rad and the grippers' command numbers (0 closed .. 1 open)."""

    left: np.ndarray
    right: np.ndarray
    left_gripper: float
    right_gripper: float


class _Waypoint(NamedTuple):
    position: np.ndarray  # of the grasp point, m
    gripper: float  # command number
    joints: np.ndarray | None = None  # where set, these joint targets are taken instead of the position


class Expert:
    """Solves the world's task. Make a new one after every reset of the world."""

    def __init__(self, world: World, seed: int = 0, faults: Sequence[Fault] = ()) -> None:
        self._world = world
        self._rng = np.random.default_rng([seed, 1])
        self._faults = list(faults)
        self._side = world.task.side
        self._reach = reach(self._side)
        self.speed = float(self._rng.uniform(0.75, 1.35))
        self._pause_chance = float(self._rng.uniform(0.0, 0.15))
        self._joints = {side: world.home(side) for side in world.sides}
        self._next_joints = dict(self._joints)
        self._gripper = 1.0
        self._path = self._episode()
        self._due_s = world.time_s
        self._gave_up = self._holds_on = False
        self._believed: set[str] = set()  # objects that it believes to have brought into place
        self.reason = "given up"  # why the task is not done, where it is not in the end
        self.taken: list[str] = []  # faults that happened so far: those of later picks may never come
        self.not_to_imitate = ""  # why what is done now is not: a mistake that is not made good yet, or a pause
        self.finished = False

    def command(self) -> OperatorCommand:
        """What the operator commands at the world's present time; call it at 50 to 100 Hz of simulated time."""
        now = self._world.time_s
        while not self.finished and now >= self._due_s - 1e-9:
            waypoint = next(self._path, None)
            if waypoint is None:
                self.finished = True
                break
            self._joints[self._side] = self._next_joints[self._side]
            solved = waypoint.joints if waypoint.joints is not None else self._solve(waypoint.position)
            self._next_joints[self._side] = solved
            self._gripper = waypoint.gripper
            self._due_s += PERIOD_S
        share = 1.0 if self.finished else float(np.clip(1 - (self._due_s - now) / PERIOD_S, 0, 1))
        targets = {s: (1 - share) * self._joints[s] + share * self._next_joints[s] for s in self._world.sides}
        grippers = {s: self._gripper if s == self._side else 1.0 for s in self._world.sides}
        return OperatorCommand(targets["left"], targets["right"], grippers["left"], grippers["right"])

    # --- the plan: generators that yield one waypoint per period ---

    def _episode(self) -> Iterator[_Waypoint]:
        attempts: dict[str, int] = {}
        done = 0
        yield from self._get_ready()
        yield from self._pause(self._rng.uniform(0.2, 0.8))
        while picks := self._picks():
            self.not_to_imitate, pick = "empty_gripper" if self._believed else "", picks[0]
            attempts[pick.name] = attempts.get(pick.name, 0) + 1
            if attempts[pick.name] > MAX_ATTEMPTS:
                break
            fault = self._take_fault(done)
            done += 1
            if fault and fault.kind == "gives_up":
                self.not_to_imitate = fault.kind
                break
            if self._believed or (fault and fault.kind == "empty_gripper"):
                self._believed.add(pick.name)  # what comes after is not looked at, either
            yield from self._pick_and_place(pick, fault)
            if self._gave_up or self._holds_on:
                break
            if self._rng.random() < self._pause_chance:
                yield from self._pause(self._rng.uniform(0.5, 2.0))
        if not self._holds_on:
            yield from self._line(self._here + [0, 0, 0.06], self._gripper if self._gave_up else 1.0)
        yield from self._wait(0.6)

    def _picks(self) -> list[Pick]:
        picks = self._world.task.picks(self._world.model, self._world.data)
        return [pick for pick in picks if pick.name not in self._believed]

    def _take_fault(self, pick: int) -> Fault | None:
        found = next((fault for fault in self._faults if fault.pick == pick), None)
        if found:
            self._faults.remove(found)
            self.taken.append(str(found))
        return found

    def _pick_and_place(self, pick: Pick, fault: Fault | None) -> Iterator[_Waypoint]:
        kind = fault.kind if fault else None
        if fault and kind == "long_pause":
            yield from self._pause(fault.duration_s)
        if kind == "out_of_reach":
            yield from self._push_away(pick.name)
            return
        if kind == "wrong_object":
            pick = self._other(pick)
        start = self._object(pick.name) + [0, 0, GRASP_HEIGHT]
        if kind in ("missed_grasp", "empty_gripper"):
            self.not_to_imitate = kind
            start = start + [0, 0, 0.055]  # closes above the object
        if kind == "empty_gripper":
            self.reason = f"not noticed that the {_words(pick.name)} was not held"
        up = np.array([0, 0, HOVER])
        yield from self._travel(start + up, 1.0)
        yield from self._line(start, 1.0, slow=0.6)
        yield from self._wait(0.15, 1.0)
        yield from self._wait(0.35, 0.0)
        yield from self._line(start + up, 0.0)
        held = fingers_touch(self._world.model, self._world.data, self._side, pick.name)
        if not held and kind not in ("empty_gripper", "wrong_object"):
            yield from self._pause(self._rng.uniform(0.2, 0.6), 1.0)
            return  # the episode looks again and retries
        if kind in ("dropped_object", "leaves_object", "freezes_holding"):
            self.not_to_imitate = kind
        if kind in ("dropped_object", "leaves_object"):
            yield from self._line(self._here + [0, 0.0, -0.04], 0.0)
            yield from self._wait(0.5, 1.0)
        if kind == "freezes_holding":
            yield from self._wait(fault.duration_s, 0.0)
        if kind in ("dropped_object", "leaves_object", "freezes_holding"):
            self._gave_up = kind != "dropped_object"
            return
        if kind == "dropped_behind":
            yield from self._drop_behind()
            return
        if pick.release_height is None:
            yield from self._hold(pick, start, kind)
            return
        goal = pick.target + [0, 0, GRASP_HEIGHT + pick.release_height]
        yield from self._travel(goal + up * 0.7, 0.0)
        yield from self._line(goal, 0.0, slow=0.5)
        yield from self._wait(0.25, 0.0)
        yield from self._wait(0.35, 1.0)
        yield from self._line(goal + up, 1.0, slow=0.7)
        if kind == "undone_step":
            yield from self._undo(pick, goal)

    def _hold(self, pick: Pick, start: np.ndarray, kind: str | None) -> Iterator[_Waypoint]:
        """Take what was lifted to where it is to be held, and stay; undone means that it is put down again instead."""
        if kind == "undone_step":
            yield from self._line(start + [0, 0, 0.002], 0.0, slow=0.6)
            yield from self._wait(0.5, 1.0)
            yield from self._line(start + [0, 0, HOVER], 1.0)
            return
        yield from self._line(np.array([*self._here[:2], pick.target[2] + GRASP_HEIGHT]), 0.0)
        yield from self._wait(1.5, 0.0)
        self._holds_on = fingers_touch(self._world.model, self._world.data, self._side, pick.name)

    def _undo(self, pick: Pick, goal: np.ndarray) -> Iterator[_Waypoint]:
        """Take the object away again and put it back on the table beside where it was."""
        self.not_to_imitate = "undone_step"
        up = np.array([0, 0, HOVER])
        grasp = self._object(pick.name) + [0, 0, GRASP_HEIGHT]
        yield from self._wait(0.6, 1.0)
        yield from self._line(grasp, 1.0, slow=0.6)
        yield from self._wait(0.4, 0.0)
        yield from self._line(grasp + up, 0.0)
        aside = self._free_place() + [0, 0, GRASP_HEIGHT]
        yield from self._travel(aside + up, 0.0)
        yield from self._line(aside + [0, 0, 0.003], 0.0, slow=0.6)
        yield from self._wait(0.4, 1.0)
        yield from self._line(aside + up, 1.0)

    def _other(self, pick: Pick) -> Pick:
        """Another object in the place of the right one: taken there, or held up where it is in place already."""
        task = self._world.task
        name = next(name for name in reversed(task.object_names) if name != pick.name)
        self.not_to_imitate, self._gave_up = "wrong_object", True
        self.reason = f"given up: took the {_words(name)} instead of the {_words(pick.name)}"
        if task.in_place(name, self._world.model, self._world.data):
            return Pick(name, self._object(name) + [0, 0, 0.1], None)
        return pick._replace(name=name)

    def _push_away(self, name: str) -> Iterator[_Waypoint]:
        """Push an object outwards as far as the hand gets, so that the object lies beyond."""
        self.not_to_imitate, self._gave_up = "out_of_reach", True
        self.reason = f"given up: pushed the {_words(name)} out of reach"
        outwards = np.array([side_sign(self._side), 0, 0])
        start = self._object(name) + [0, 0, GRASP_HEIGHT] - BESIDE * outwards
        yield from self._travel(start + [0, 0, HOVER], 0.0)
        yield from self._line(start, 0.0, slow=0.6)
        way = start + np.arange(0, 0.5, 0.005)[:, None] * outwards
        yield from self._line(way[self._reach.reaches(way)][-1], 0.0, slow=0.4)
        yield from self._travel(self._world.task.workspace_middle() + [0, 0, READY_HEIGHT], 0.0)

    def _drop_behind(self) -> Iterator[_Waypoint]:
        """Carry what is held past the table's near edge, let it fall, and come back."""
        self.not_to_imitate, self._gave_up = "dropped_behind", True
        x, z = side_sign(self._side) * AISLE_X, table_top_z() + LOW
        for point in ((self._here[0], AISLE_Y, self._here[2]), (x, AISLE_Y, z), (x, BEHIND_Y, z)):
            yield from self._line(np.array(point), 0.0, slow=0.5)
        yield from self._wait(0.5, 1.0)
        yield from self._line(np.array([x, AISLE_Y, z]), 1.0, slow=0.5)

    def _free_place(self) -> np.ndarray:
        poses = [pose[:3] for pose in self._world.object_poses().values()]
        points = [self._world.task.free_point(self._rng) for _ in range(200)]
        best = max(points, key=lambda p: min(np.linalg.norm((p - q)[:2]) for q in poses))
        return best + [0, 0, self._world.task.half]

    def _object(self, name: str) -> np.ndarray:
        return self._world.object_poses()[name][:3].copy()

    # --- motion ---

    def _solve(self, position: np.ndarray) -> np.ndarray:
        return self._reach.joints(position[None])[0]

    def _get_ready(self) -> Iterator[_Waypoint]:
        """From wherever the arm is to a hand over the middle of its workspace, in joint space."""
        middle = self._world.task.workspace_middle()
        self._here = np.array([*middle[:2], middle[2] + READY_HEIGHT])
        ready = self._solve(self._here)
        start = self._world.arm_state(self._side).position
        steps = int(np.ceil(1.5 * np.abs(ready - start).max() / (READY_SPEED_RAD_S * self.speed * PERIOD_S)))
        for index in range(1, steps + 1):
            t = index / steps
            yield _Waypoint(self._here, 1.0, start + (ready - start) * (t * t * (3 - 2 * t)))

    def _travel(self, goal: np.ndarray, gripper: float) -> Iterator[_Waypoint]:
        """Go somewhere by way of a height at which nothing is touched."""
        height = max(self._here[2], goal[2])
        if height - self._here[2] > 0.01:
            yield from self._line(np.array([*self._here[:2], height]), gripper)
        yield from self._line(np.array([*goal[:2], height]), gripper)
        yield from self._line(goal, gripper)

    def _line(self, goal: np.ndarray, gripper: float, slow: float = 1.0) -> Iterator[_Waypoint]:
        """A straight line with a smooth start and stop."""
        start, distance = self._here.copy(), float(np.linalg.norm(goal - self._here))
        steps = max(2, int(np.ceil(1.5 * distance / (SPEED_M_S * self.speed * slow * PERIOD_S))))
        for index in range(1, steps + 1):
            t = index / steps
            self._here = start + (goal - start) * (t * t * (3 - 2 * t))
            yield _Waypoint(self._here, gripper)

    def _pause(self, seconds: float, gripper: float | None = None) -> Iterator[_Waypoint]:
        """Do nothing that would have to be done."""
        before, self.not_to_imitate = self.not_to_imitate, self.not_to_imitate or "pause"
        yield from self._wait(seconds, gripper)
        self.not_to_imitate = before

    def _wait(self, seconds: float, gripper: float | None = None) -> Iterator[_Waypoint]:
        value = self._gripper if gripper is None else gripper
        for _ in range(max(1, round(seconds / PERIOD_S))):
            yield _Waypoint(self._here, value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def apply(world: World, command: OperatorCommand) -> None:
    """Let the arms and grippers follow a command directly, without the robot's state machine."""
    for side in world.sides:
        world.set_arm_position(side, getattr(command, side))
        world.set_gripper(side, getattr(command, f"{side}_gripper"))


def run_episode(world: World, expert: Expert, period_s: float = 0.01) -> None:
    """Let the expert drive the world directly until it has finished or the outcome is decided for a second."""
    steps = round(period_s / world.timestep_s)
    decided_s: float | None = None
    while not expert.finished:
        apply(world, expert.command())
        world.step(steps)
        if world.task_status().outcome != "unknown":
            decided_s = world.time_s if decided_s is None else decided_s
            if world.time_s - decided_s > 1.0:
                return
