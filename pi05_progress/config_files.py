"""Where the files of ``config/`` are: in the checkout, or in the installed package's share folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def config_folder() -> Path:
    """The folder of configuration files: the checkout's, else that of an installed ROS package.

    Raises:
        FileNotFoundError: in none of the places where it may be.
    """
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders = [Path(__file__).resolve().parents[1] / "config"]
    folders += [Path(prefix) / "share" / "pi05_progress" / "config" for prefix in prefixes if prefix]
    for folder in folders:
        if folder.is_dir():
            return folder
    places = ", ".join(str(folder) for folder in folders)
    raise FileNotFoundError(f"pi05_progress's config folder is in none of {places}; source the workspace's setup file")


def config_file(name: str) -> Path:
    """Path of one file of ``config/``."""
    return config_folder() / name
