"""How things grip, weigh and follow, drawn per seed: no two robots and objects are alike; no policy may count on it.

In all of it a grasp may be off by some millimetres: fingers hold better than the table, so that an object which one
finger meets first slides until the other one meets it. With equal friction everywhere, as in ``fixed``, it tips.
"""

from __future__ import annotations

from typing import Literal

import mujoco
import numpy as np

from .scene import arm_table

Physics = Literal["varied", "fixed"]  # drawn per seed, or the nominal values of ``scene.py``

PAD_FRICTION = (1.0, 2.0)  # of the fingers, which decides where they touch
SURFACE_FRICTION = (0.35, 0.7)  # of objects and of what they stand on
OBJECT_KG = (0.03, 0.10)
ARM_GAINS = (0.85, 1.2)  # factors of stiffness and of damping, the same for all joints of an arm
GRIPPER_GAINS = (0.75, 1.3)
# Arrays that grow and fall with a body's mass; all but the first two follow from it when a scene is compiled.
HEAVIER = ("body_mass", "body_inertia", "body_subtreemass", "dof_M0")
LIGHTER = ("body_invweight0", "dof_invweight0")
CHANGED = ("geom_friction", *HEAVIER, *LIGHTER, "actuator_gainprm", "actuator_biasprm")


class Variation:
    """A compiled model whose physics can be drawn anew for every seed."""

    def __init__(self, model: mujoco.MjModel, physics: Physics, objects: tuple[str, ...]) -> None:
        self._model, self._physics = model, physics
        self._objects = [model.body(name).id for name in objects]
        self._kept = {name: getattr(model, name).copy() for name in CHANGED}

    def reset(self, seed: int) -> None:
        """Give the model the physics of a seed."""
        model, rng = self._model, np.random.default_rng([seed, 7])
        for name, array in self._kept.items():
            getattr(model, name)[:] = array
        if self._physics == "fixed":
            return
        fingers = model.geom_priority > 0
        for geoms, least_most in ((fingers, PAD_FRICTION), (~fingers, SURFACE_FRICTION)):
            friction = model.geom_friction[geoms]
            model.geom_friction[geoms] = friction * rng.uniform(*least_most) / friction[:, :1]
        for body in self._objects:
            scale = rng.uniform(*OBJECT_KG) / model.body_mass[body]
            dofs = slice(model.body_dofadr[body], model.body_dofadr[body] + model.body_dofnum[body])
            for names, factor in ((HEAVIER, scale), (LIGHTER, 1 / scale)):
                for name in names:
                    getattr(model, name)[dofs if name.startswith("dof") else body] *= factor
        for side in arm_table().sides:
            joints = [model.actuator(link["joint"]).id for link in arm_table().links[side]]
            for actuators, least_most in (
                (joints, ARM_GAINS),
                ([model.actuator(f"{side[0]}_gripper").id], GRIPPER_GAINS),
            ):
                stiffness, damping = rng.uniform(*least_most, 2)
                model.actuator_gainprm[actuators, 0] *= stiffness
                model.actuator_biasprm[actuators, 1] *= stiffness
                model.actuator_biasprm[actuators, 2] *= damping
