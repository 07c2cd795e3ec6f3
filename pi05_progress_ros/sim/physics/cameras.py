"""The robot's three cameras, rendered off-screen on a copy of the world's state."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import DEFAULT, RobotProfile

from .gl import require_backend


def scaled_sizes(scale: float) -> dict[str, tuple[int, int]]:
    """(width, height) of all cameras at a share of the real resolution, same aspect; scale in (0, 1].

    Raises:
        ValueError: scale is outside (0, 1].
    """
    if not 0.0 < scale <= 1.0:
        raise UserError(f"image scale {scale} is outside (0, 1]: 1 is the real cameras' resolution, 0.5 half of it")
    real = {key: camera.size for key, camera in RobotProfile.load(DEFAULT).cameras.items()}
    return {key: (max(1, round(w * scale)), max(1, round(h * scale))) for key, (w, h) in real.items()}


class CameraRig:
    """Renders all cameras. It owns a copy of the state, so it may run in another thread than the physics.

    Each instance must be created, used and closed in one and the same thread: an OpenGL context belongs to a thread.
    """

    def __init__(self, model: mujoco.MjModel, sizes: Mapping[str, tuple[int, int]]) -> None:
        require_backend()
        self._model = model
        self._data = mujoco.MjData(model)
        self._renderers = {key: mujoco.Renderer(model, height=h, width=w) for key, (w, h) in sizes.items()}
        for renderer in self._renderers.values():
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False

    def render(self, snapshot: np.ndarray) -> dict[str, np.ndarray]:
        """Pictures of a state: uint8 (h, w, 3) RGB per camera key, of arrays that are the caller's.

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
            images[key] = renderer.render()
        return images

    def close(self) -> None:
        """Free the OpenGL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}
