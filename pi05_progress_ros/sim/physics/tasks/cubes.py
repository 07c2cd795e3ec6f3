"""Tasks with cubes: three become a tower, red onto green, then blue onto red; or one is lifted and held."""

from __future__ import annotations

import mujoco
import numpy as np

from ..scene import side_sign
from .base import LIFTED, Pick, Task, add_cube, fingers_touch, set_pose, spread_points

COLOURS = {
    "green_cube": (0.20, 0.62, 0.28, 1.0),
    "red_cube": (0.80, 0.16, 0.14, 1.0),
    "blue_cube": (0.16, 0.32, 0.78, 1.0),
}
STACK = ("green_cube", "red_cube", "blue_cube")  # from the bottom
TOWER_X, TOWER_Y = (0.06, 0.46), (-0.53, -0.385)  # m, where an arm gets high enough for a tower; x to its side


class StackCubes(Task):
    """Stack the red cube on the green one and the blue cube on the red one."""

    name = "stack_cubes"
    object_names = STACK
    wordings = (
        "stack the red cube on the green cube and the blue cube on the red cube",
        "build a tower: red on green, then blue on red",
        "put the red cube on the green one and the blue cube on top of it",
        "stack the cubes: green below, red in the middle, blue on top",
    )

    def add_to_scene(self, spec: mujoco.MjSpec) -> None:
        """Three cubes."""
        for name, rgba in COLOURS.items():
            add_cube(spec, name, rgba)

    def place_objects(self, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator) -> None:
        """Cubes at least 10 cm apart on the working arm's side."""
        points = spread_points(lambda: self.free_point(rng), 3, 0.10)
        for name, point in zip(STACK, points, strict=True):
            set_pose(model, data, name, point + [0, 0, self.half], rng.uniform(-0.15, 0.15))

    def milestone_names(self) -> list[str]:
        """Lift and stack, twice."""
        return ["red_cube lifted", "red_cube stacked", "blue_cube lifted", "blue_cube stacked"]

    def in_place(self, name: str, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """On the cube below it, which is in place, too, let go."""
        below = STACK[STACK.index(name) - 1]
        if below != STACK[0] and not self.in_place(below, model, data):
            return False
        offset = data.body(name).xpos - data.body(below).xpos
        resting = np.hypot(offset[0], offset[1]) < 0.025 and abs(offset[2] - 2 * self.half) < 0.006
        return bool(resting and not fingers_touch(model, data, self.side, name))

    def picks(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[Pick]:
        """Cubes that are not where they belong, from the bottom up; the lowest one where towers can be built."""
        places = {name: data.body(name).xpos for name in STACK}
        base = places.pop(STACK[0])
        wrong = next((i for i, n in enumerate(STACK) if i and not self.in_place(n, model, data)), len(STACK))
        x, y = side_sign(self.side) * base[0], base[1]
        good = TOWER_X[0] < x < TOWER_X[1] and TOWER_Y[0] < y < TOWER_Y[1]
        if wrong == 1 and not good:
            base = self.free_place(base, list(places.values()))
            return [Pick(STACK[0], base, 0.002), *self._onto(base, 1)]
        return self._onto(base, wrong)

    def _onto(self, base: np.ndarray, first: int) -> list[Pick]:
        """What belongs onto the lowest cube at ``base``, from the ``first`` on."""
        return [Pick(STACK[i], base + [0, 0, 2 * self.half * i], 0.002) for i in range(first, len(STACK))]


CUBE = "red_cube"
HELD = 0.08  # m above where it rests on the table: it is held high
HELD_S = 1.0  # for so long it must be
CARRIED = 0.11  # m, how high who does the task takes it


class LiftCube(Task):
    """Reach for the red cube with the nearer arm, grasp it, lift it and hold it."""

    name = "lift_cube"
    object_names = (CUBE,)
    wordings = (
        "lift the red cube",
        "pick up the red cube",
        "take the red cube and hold it up",
        "raise the red cube off the table",
    )
    settle_s = {"held": HELD_S}  # noqa: RUF012

    def add_to_scene(self, spec: mujoco.MjSpec) -> None:
        """One cube."""
        add_cube(spec, CUBE, COLOURS[CUBE])

    def place_objects(self, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator) -> None:
        """Anywhere on the working arm's side of the table, which makes it the nearer arm."""
        set_pose(model, data, CUBE, self.free_point(rng) + [0, 0, self.half], rng.uniform(-0.15, 0.15))

    def milestone_names(self) -> list[str]:
        """Grasp, lift, hold."""
        return [f"{CUBE} {what}" for what in ("grasped", "lifted", "held")]

    def holds(self, milestone: str, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether it is between the fingers, and as high as the milestone asks for."""
        least = {"grasped": -np.inf, "lifted": LIFTED, "held": HELD}[milestone.split()[1]]
        return self.height(CUBE, data) > least and fingers_touch(model, data, self.side, CUBE)

    def in_place(self, name: str, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Held high."""
        return self.holds(f"{name} held", model, data)

    def picks(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[Pick]:
        """The cube, to be held above where it is; that is never over."""
        here = data.body(CUBE).xpos
        return [Pick(CUBE, np.array([here[0], here[1], self.workspace_middle()[2] + self.half + CARRIED]), None)]
