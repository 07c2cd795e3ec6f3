"""What ament needs beside pyproject.toml: files under share/ and the package's entry in the resource index."""

from glob import glob

from setuptools import setup

NAME = "pi05_progress"

setup(
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/config", glob("config/*")),
        (f"share/{NAME}/launch", glob("launch/*.py")),
    ],
)
