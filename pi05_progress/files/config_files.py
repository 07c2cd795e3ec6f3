"""Where the files of ``config/`` and ``models/`` are: in the checkout, or in the installed package's share folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def _find(place: str, inside: str) -> Path:
    """The first folder ``place`` that has ``inside``: other packages may have folders of that name, too."""
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders = [Path(__file__).resolve().parents[2] / place]
    folders += [Path(prefix) / "share" / "pi05_progress" / place for prefix in prefixes if prefix]
    for folder in folders:
        if (folder / inside).exists():
            return folder
    places = ", ".join(str(folder) for folder in folders)
    raise FileNotFoundError(
        f"there is no {inside} in any of {places}: a ROS workspace's setup file must be sourced, a checkout complete"
    )


def config_folder() -> Path:
    """The folder of configuration files: the checkout's, else an installed ROS package's, else a FileNotFoundError."""
    return _find("config", "teleavatar.yaml")


def shipped_checkpoint(name: str = "tiny_demo") -> Path:
    """The folder of a checkpoint that comes with the package; a FileNotFoundError if it is not there."""
    return _find(f"models/{name}", "config.json")


def config_file(name: str) -> Path:
    """Path of one file of ``config/``."""
    return config_folder() / name
