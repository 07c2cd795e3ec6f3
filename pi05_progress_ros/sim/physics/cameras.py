"""The robot's three cameras, rendered off-screen on a copy of the world's state."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import DEFAULT, CameraProfile, RobotProfile

from .gl import require_backend
from .laboratory import picture_change


def scaled_sizes(scale: float) -> dict[str, tuple[int, int]]:
    """(width, height) of what the default robot's cameras see, at a share of its resolution: even numbers for videos.

    The share ``scale`` is in (0, 1]; another is a ``UserError``.
    """
    if not 0.0 < scale <= 1.0:
        raise UserError(f"image scale {scale} is outside (0, 1]: 1 is the real cameras' resolution, 0.5 half of it")
    real = {key: camera.size for key, camera in RobotProfile.load(DEFAULT).cameras.items()}
    return {key: tuple(max(2, 2 * round(n * scale / 2)) for n in size) for key, size in real.items()}


def check_rendering(scale: float) -> None:
    """Raise a ``UserError`` unless cameras of this share of the real resolution can be rendered here."""
    scaled_sizes(scale)
    require_backend()


class CameraRig:
    """Renders all cameras. It owns a copy of the state, so it may run in another thread than the physics.

    Each instance must be created, used and closed in one and the same thread: an OpenGL context belongs to a thread.
    Sizes are (width, height) in pixels of what each camera sees; frames are those of the profile's robot, else of the
    default one.
    """

    def __init__(
        self, model: mujoco.MjModel, sizes: Mapping[str, tuple[int, int]], profile: RobotProfile | None = None
    ) -> None:
        require_backend()
        self._model = model
        self._cameras = (profile or RobotProfile.load(DEFAULT)).cameras
        self._data = mujoco.MjData(model)
        self._renderers = {key: mujoco.Renderer(model, height=h, width=w) for key, (w, h) in sizes.items()}
        for renderer in self._renderers.values():
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = model.vis.quality.shadowsize > 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False

    def render(self, snapshot: np.ndarray) -> dict[str, np.ndarray]:
        """Frames of a state as the cameras send them: uint8 (h, w, 3) RGB per camera key, the caller's own arrays.

        Args:
            snapshot: what ``World.snapshot()`` returned, float64 (nq,).
        """
        self._data.qpos[:] = snapshot
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        images = {}
        for key, renderer in self._renderers.items():
            renderer.update_scene(self._data, camera=key)
            view = picture_change(self._model, key).of(renderer.render())
            images[key] = _frame(view, self._cameras.get(key))
        return images

    def close(self) -> None:
        """Free the OpenGL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}


def _frame(view: np.ndarray, camera: CameraProfile | None) -> np.ndarray:
    """A frame of which ``prepare_image`` makes the view again; in stereo both eyes see the same.

    A stream's tile has another shape: the view stands in the middle of it, as the model would put it.
    """
    if camera and camera.tile:
        height, width, _ = view.shape
        tall = 2 * round(width * camera.size[1] / camera.size[0] / 2)
        above = max(0, tall - height) // 2
        return np.pad(view, ((above, tall - height - above), (0, 0), (0, 0)))
    if camera and camera.eye:
        view = np.concatenate([view, view], axis=1)
    return view[::-1, ::-1] if camera and camera.turned else view
