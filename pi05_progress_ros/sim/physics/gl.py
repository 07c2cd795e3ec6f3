"""Choosing the off-screen OpenGL backend. Must run before ``mujoco`` is imported: MuJoCo decides at import time."""

from __future__ import annotations

import ctypes
import os

from pi05_progress.errors import UserError

PACKAGES = "libegl1 libgl1-mesa-dri libosmesa6"
_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def choose_backend() -> str | None:
    """Set ``MUJOCO_GL`` to EGL or OSMesa, whichever loads first, unless the user has set it.

    Returns the choice; None if neither library loads, which matters only to those who render.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        return chosen
    for backend, library in _LIBRARIES.items():
        if _loads(library):
            os.environ["MUJOCO_GL"] = backend
            return backend
    return None


def require_backend() -> None:
    """Raise a ``UserError`` that says how to install one if neither EGL nor OSMesa is there to render with."""
    if choose_backend() is None:
        raise UserError(
            "the simulated cameras need EGL or OSMesa, and neither library loads. Run:\n"
            f"  sudo apt-get update && sudo apt-get install -y --no-install-recommends {PACKAGES}"
        )
