"""Which files and folders are recordings, each of them once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .faults import BagError, explained

SUFFIXES = (".mcap", ".db3")
METADATA = "metadata.yaml"


def find_bags(inputs: Sequence[Path]) -> list[Path]:
    """The recordings among and within these files and folders, in the order of their names.

    One that can be reached in several ways, by links, by ``..`` or as folder and as file, is found once. A link to a
    recording is one; other links within a folder are not followed, as they may lead anywhere.

    Raises:
        BagError: an input does not exist, cannot be read or holds no recording.
    """
    found: dict[Path, Path] = {}  # by what they really are
    for path in inputs:
        if not path.exists():
            raise BagError(f"--input {path}: no such file or folder")
        try:
            here = [path] if path.is_file() and path.suffix in SUFFIXES else _within(path) if path.is_dir() else []
        except OSError as error:
            raise BagError(f"--input {error.filename or path}: cannot be read: {error.strerror}") from error
        if not here:
            raise BagError(
                f"--input {path}: no recording in it; expected {METADATA} beside .mcap or .db3 files, or such a file; "
                "links to folders of recordings are not followed, give those themselves"
            )
        for bag in here:
            found.setdefault(bag.resolve(), bag)
    return [bag for real, bag in found.items() if real.parent not in found]


def _within(folder: Path) -> list[Path]:
    if is_bag(folder):
        return [folder]
    children = sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_order)
    loose = sorted((p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file()), key=natural_order)
    inside: list[Path] = []
    for child in children:
        try:
            if not child.is_symlink():
                inside += _within(child)
            elif is_bag(child):
                inside.append(child)
        except OSError as error:
            raise BagError(f"--input {child}: cannot be read: {explained(error)}") from error
    return [*loose, *inside]


def is_bag(folder: Path) -> bool:
    """Whether the folder is one recording: by its metadata, or because its files are named after it."""
    if (folder / METADATA).exists():
        return True
    names = (folder.resolve().name, *([folder.name] if folder.is_symlink() else []))
    files = [p for p in folder.iterdir() if p.is_file() and storage_suffix(p)]
    return bool(files) and all(p.name.startswith(names) for p in files)


def storage_suffix(path: Path) -> str:
    """``.mcap`` or ``.db3`` for a file of a recording, also one compressed as a whole; else nothing."""
    name = path.name.removesuffix(".zstd")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def natural_order(path: Path) -> list[Any]:
    """Key by which ``bag_2`` comes before ``bag_10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]
