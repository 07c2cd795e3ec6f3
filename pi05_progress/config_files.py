"""Where the files of ``config/`` and ``models/`` are: in the checkout, or in the installed package's share folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def _shared_folder(name: str) -> Path:
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders = [Path(__file__).resolve().parents[1] / name]
    folders += [Path(prefix) / "share" / "pi05_progress" / name for prefix in prefixes if prefix]
    for folder in folders:
        if folder.is_dir():
            return folder
    places = ", ".join(str(folder) for folder in folders)
    raise FileNotFoundError(f"pi05_progress's folder {name} is in none of {places}; source the workspace's setup file")


def config_folder() -> Path:
    """The folder of configuration files: the checkout's, else that of an installed ROS package.

    Raises:
        FileNotFoundError: in none of the places where it may be.
    """
    return _shared_folder("config")


def shipped_checkpoint(name: str = "tiny_demo") -> Path:
    """The folder of a checkpoint that comes with the package.

    Raises:
        FileNotFoundError: it is not there.
    """
    folder = _shared_folder("models") / name
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; the package's checkpoint is missing")
    return folder


def config_file(name: str) -> Path:
    """Path of one file of ``config/``."""
    return config_folder() / name
