"""Where the simulated robot stands: the plain laboratory, one drawn anew from every seed, or a named shift of either.

All of it lies in the compiled model, so that whoever renders or steps that sees it. A camera's picture change lies
beside its pose, in ``cam_user``. The plain laboratory without a shift touches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.robots.laboratory_shifts import SHIFTS, UNCHANGED, PictureChange, Shift, named_shift
from pi05_progress.robots.profile import DEFAULT, RobotProfile

from ...starting.simulation_choices import LABORATORIES, LaboratoryName
from .random_scene import add_scenery, draw_scene, move_camera

CHANGED = (  # arrays of a model that a laboratory changes
    "light_pos", "light_dir", "light_diffuse", "light_castshadow", "geom_pos", "geom_quat", "geom_rgba", "geom_matid",
    "geom_size", "geom_rbound", "geom_aabb", "bvh_aabb", "cam_pos", "cam_quat", "cam_fovy", "cam_user",
)  # fmt: skip
SHIFT_HELP = f"A named change of the laboratory, shown where a policy is tried: {', '.join(SHIFTS)}."
HEADLIGHT = ("ambient", "diffuse")
NUMBERS = 4  # of a picture change: three gains, and how far it is moved


@dataclass(frozen=True)
class Laboratory:
    """Which laboratory it is; a ``UserError`` if there is no such laboratory or shift."""

    kind: LaboratoryName = "plain"
    shift: str = "none"  # a name in ``SHIFTS``

    def __post_init__(self) -> None:
        if self.kind not in LABORATORIES:
            raise UserError(f"unknown laboratory {self.kind!r}; known laboratories: {', '.join(LABORATORIES)}")
        named_shift(self.shift)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is different."""
        return self == Laboratory()

    def furnish(self, spec: mujoco.MjSpec) -> None:
        """Add what there is to see, before the scene is compiled."""
        if self.is_plain:
            return
        spec.nuser_cam = NUMBERS
        if self.kind == "random":
            add_scenery(spec)


class Furnished:
    """A compiled model whose laboratory can be made anew for every seed."""

    def __init__(self, model: mujoco.MjModel, laboratory: Laboratory, objects: tuple[str, ...]) -> None:
        self._model, self._laboratory = model, laboratory
        self._objects = [model.body(name).id for name in objects]
        self._shift = named_shift(laboratory.shift)
        self._kept = {name: getattr(model, name).copy() for name in CHANGED}
        self._headlight = {name: getattr(model.vis.headlight, name).copy() for name in HEADLIGHT}
        self._inputs = {key: camera.model_input for key, camera in RobotProfile.load(DEFAULT).cameras.items()}

    def reset(self, seed: int) -> float:
        """Make the laboratory of a seed; returns the scale of the objects in it."""
        if self._laboratory.is_plain:
            return 1.0
        model, scale = self._model, 1.0
        for name, array in self._kept.items():
            getattr(model, name)[:] = array
        for name, values in self._headlight.items():
            getattr(model.vis.headlight, name)[:] = values
        model.cam_user[:, :3] = 1.0
        if self._laboratory.kind == "random":
            scale = draw_scene(model, np.random.default_rng([seed, 5]), self._inputs)
        self._apply(self._shift, seed)
        scale *= self._shift.object_scale
        self._resize(scale)
        return scale

    def _apply(self, shift: Shift, seed: int) -> None:
        model = self._model
        model.light_diffuse *= shift.light
        for name in HEADLIGHT:
            getattr(model.vis.headlight, name)[:] *= shift.light
        if shift.table is not None:
            model.geom_rgba[model.geom("table").id, :3] = shift.table
        model.cam_fovy *= shift.lens
        for key, name in self._inputs.items():
            camera = model.camera(key).id
            if name in shift.poses:
                move_camera(model, camera, *shift.poses[name], np.random.default_rng([seed, 6, camera]))
            change = shift.pictures.get(name, UNCHANGED)
            model.cam_user[camera, :3] *= change.gain
            model.cam_user[camera, 3] += change.moved

    def _resize(self, scale: float) -> None:
        """Make the objects larger or smaller; their masses stay."""
        model = self._model
        for body in self._objects:
            turning = model.body_dofadr[body] + np.arange(3, 6)  # of a free body, after the moves along the axes
            model.body_inertia[body] *= scale**2
            model.dof_M0[turning] *= scale**2
            model.dof_invweight0[turning] /= scale**2
            model.body_invweight0[body, 1] /= scale**2
            first, count = model.body_bvhadr[body], model.body_bvhnum[body]
            model.bvh_aabb[first : first + count] *= scale
            for geom in range(model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body]):
                for name in ("geom_size", "geom_rbound", "geom_aabb"):
                    getattr(model, name)[geom] *= scale


def picture_change(model: mujoco.MjModel, camera: str) -> PictureChange:
    """What happens to a camera's picture after it is rendered."""
    if not model.nuser_cam:
        return UNCHANGED
    *gain, moved = map(float, model.cam_user[model.camera(camera).id])
    return PictureChange(tuple(gain), moved)
