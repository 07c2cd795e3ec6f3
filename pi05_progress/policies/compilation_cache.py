"""Compiled programs kept on disk, so that a process need not compile what an earlier one has compiled."""

from __future__ import annotations

import os
from pathlib import Path

import jax

FOLDER = Path("~/.cache/pi05_progress/jax")


def use_compilation_cache() -> None:
    """Keep compiled programs over restarts, unless the user has chosen a folder (JAX_COMPILATION_CACHE_DIR)."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(FOLDER.expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
