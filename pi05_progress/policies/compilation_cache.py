"""Compiled programs kept on disk, so that a process need not compile what an earlier one has compiled."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER = Path("~/.cache/pi05_progress/jax")


def use_compilation_cache() -> None:
    """Keep compiled programs over restarts, unless the user has chosen a folder (JAX_COMPILATION_CACHE_DIR)."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    settings = {
        "jax_compilation_cache_dir": str(FOLDER.expanduser()),
        "jax_persistent_cache_min_compile_time_secs": 0.5,
    }
    if "jax" not in sys.modules:  # read when it is loaded, if ever
        os.environ.update({name.upper(): str(value) for name, value in settings.items()})
        return
    import jax

    for name, value in settings.items():
        jax.config.update(name, value)
