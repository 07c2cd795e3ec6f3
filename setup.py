"""What ament needs beside pyproject.toml: files under share/ and the package's entry in the resource index."""

from glob import glob
from pathlib import Path

from setuptools import setup

NAME = "pi05_progress"
MODELS = [path for path in sorted(Path("models").rglob("*")) if path.is_dir()]  # every folder, for its own files

setup(
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/config", glob("config/*")),
        (f"share/{NAME}/launch", glob("launch/*.py")),
        *((f"share/{NAME}/{folder}", [str(path) for path in folder.iterdir() if path.is_file()]) for folder in MODELS),
    ],
)
