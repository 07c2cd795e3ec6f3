"""One cube is lifted and held."""

from __future__ import annotations

import mujoco
import numpy as np

from .base import LIFTED, Pick, Task, add_cube, fingers_touch, set_pose
from .stack_cubes import COLOURS

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
