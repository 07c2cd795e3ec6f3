"""Two objects go into a basket."""

from __future__ import annotations

import mujoco
import numpy as np

from ..scene import OBJECT_FRICTION, side_sign
from .base import Pick, Task, add_cube, fingers_touch, set_pose, spread_points

OBJECTS = {"yellow_block": (0.90, 0.75, 0.12, 1.0), "purple_block": (0.50, 0.20, 0.62, 1.0)}
INNER = (0.065, 0.05)  # m, half of the basket's inside along x and y
WALL_HALF_HEIGHT = 0.02


class PlaceInBasket(Task):
    """Put both blocks into the basket, in the order the instruction names them."""

    name = "place_in_basket"
    object_names = tuple(OBJECTS)
    free_x = (0.26, 0.43)  # clear of the basket
    wordings = (
        "put the {first} and then the {second} into the basket",
        "place the {first} in the basket, then the {second}",
        "first the {first}, then the {second}: both go into the basket",
        "move the {first} into the basket and the {second} after it",
    )

    def add_to_scene(self, spec: mujoco.MjSpec) -> None:
        """Two blocks and a basket; where the basket stands is decided per episode."""
        for name, rgba in OBJECTS.items():
            add_cube(spec, name, rgba)
        basket = spec.worldbody.add_body(name="basket")
        x, y = INNER
        wall, colour = 0.004, [0.55, 0.40, 0.25, 1]
        for to_x, to_y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            centre = [to_x * (x + wall), to_y * (y + wall), WALL_HALF_HEIGHT]
            size = [wall if to_x else x, wall if to_y else y, WALL_HALF_HEIGHT]
            basket.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX, pos=centre, size=size, rgba=colour, friction=OBJECT_FRICTION
            )
        basket.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0, 0, 0.001], size=[x, y, 0.001], rgba=[0.45, 0.32, 0.20, 1],
            friction=OBJECT_FRICTION,
        )  # fmt: skip

    def place_objects(self, model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator) -> None:
        """Basket nearer the middle, blocks further out; their order is part of the instruction."""
        self._basket = self.workspace_point(rng, (0.12, 0.16), (-0.46, -0.44))
        model.body("basket").pos = self._basket  # fixed for the episode, so it belongs to the model
        points = spread_points(lambda: self.free_point(rng), 2, 0.09)
        for name, point in zip(OBJECTS, points, strict=True):
            set_pose(model, data, name, point + [0, 0, self.half], rng.uniform(-0.15, 0.15))
        self._order = [str(n) for n in rng.permutation(list(OBJECTS))]

    def words(self) -> dict[str, str]:
        """The blocks in the order asked for."""
        return dict(zip(("first", "second"), (name.replace("_", " ") for name in self._order), strict=True))

    def milestone_names(self) -> list[str]:
        """Lift and drop in, per block, in the order asked for."""
        return [f"{name} {what}" for name in self._order for what in ("lifted", "in_basket")]

    def in_place(self, name: str, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Inside the basket, let go."""
        offset = np.abs(data.body(name).xpos - self._basket)
        within = offset[0] < INNER[0] and offset[1] < INNER[1] and offset[2] < 2 * WALL_HALF_HEIGHT
        return bool(within and not fingers_touch(model, data, self.side, name))

    def picks(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[Pick]:
        """Blocks still outside, in the order asked for; each has its own half of the basket."""
        picks = []
        for index, name in enumerate(self._order):
            if not self.in_place(name, model, data):
                half = np.array([side_sign(self.side) * 0.03 * (1 if index else -1), 0, self.half])
                picks.append(Pick(name, self._basket + half, 0.03))
        return picks
