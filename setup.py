"""What ament needs beside pyproject.toml: files under share/ and the package's entry in the resource index."""

import tomllib
from contextlib import suppress
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NAME = "pi05_progress"
HERE = Path(__file__).resolve().parent
MODELS = [path for path in sorted(Path("models").rglob("*")) if path.is_dir()]  # every folder, for its own files


def without_pyproject() -> dict[str, object]:
    """What pyproject.toml says, for ``colcon build --symlink-install``: it builds in a folder with no link to that."""
    if Path("pyproject.toml").exists():
        return {}
    with suppress(ImportError):  # setuptools 80 cannot install in this way, and colcon does not try
        from setuptools.command.easy_install import ScriptWriter

        # As [build_scripts] in setup.cfg, which this way of installing does not read.
        ScriptWriter.get_header = classmethod(lambda *_, **__: "#!/usr/bin/env python3\n")
    settings = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    return {
        "version": project["version"],
        "packages": find_packages(include=settings["tool"]["setuptools"]["packages"]["find"]["include"]),
        "entry_points": {"console_scripts": [f"{name} = {where}" for name, where in project["scripts"].items()]},
    }


setup(
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/config", glob("config/*")),
        (f"share/{NAME}/launch", glob("launch/*.py")),
        *((f"share/{NAME}/{folder}", [str(path) for path in folder.iterdir() if path.is_file()]) for folder in MODELS),
    ],
    **without_pyproject(),
)
