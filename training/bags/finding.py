"""Which files and folders are recordings, each of them once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

from .faults import BagError
from .reading import METADATA, READERS, natural_order, number_in_series, storage_files, storage_suffix

PAUSE_NS = 10**9  # files of one recording follow each other faster, recordings slower
_ROSBAG2 = re.compile(r"rosbag2_\d{4}(_\d\d){2}-\d\d(_\d\d){2}")  # its own name for a recording: the time it began


def find_bags(inputs: Sequence[Path]) -> list[Path]:
    """The recordings among and within these files and folders, at least one each, in the order of their names.

    One that can be reached in several ways, by links, by ``..`` or as folder and as file, is found once. A link to a
    recording is one; other links within a folder are not followed, as they may lead anywhere. A folder that cannot be
    looked into is taken for a recording: opening it says what is the matter.
    """
    found: dict[Path, Path] = {}  # by what they really are
    for path in inputs:
        if not path.exists():
            raise BagError(f"--input {path}: no such file or folder")
        try:
            here = [path] if path.is_file() and storage_suffix(path) else _within(path) if path.is_dir() else []
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
    if _is_bag(folder):
        return [folder]
    inside: list[Path] = []
    for child in sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_order):
        try:
            if not child.is_symlink():
                inside += _within(child)
            elif _is_bag(child):
                inside.append(child)
        except OSError:
            inside.append(child)
    return [*storage_files(folder), *inside]


def _is_bag(folder: Path) -> bool:
    """Whether the folder is one recording: by its metadata, or because its files are those of one."""
    if (folder / METADATA).exists():
        return True
    files = storage_files(folder)
    names = (folder.resolve().name, *([folder.name] if folder.is_symlink() else []))
    if files and all(file.name.startswith(names) for file in files):
        return True
    series = [number_in_series(file) for file in files]
    if len(files) < 2 or None in series or len({of[0] for of in series}) > 1:
        return False
    return bool(_ROSBAG2.fullmatch(series[0][0])) or _follow_each_other(files)


def _follow_each_other(files: Sequence[Path]) -> bool:
    """Whether each file's messages begin when those of the one before end; those that cannot be read do not count."""
    times = [time for time in map(_times, files) if time]
    return len(times) > 1 and all(0 <= after[0] - before[1] < PAUSE_NS for before, after in pairwise(times))


def continues_another(path: Path) -> str:
    """Name of the file beside this one whose messages it goes on with; empty if it does not."""
    if not path.is_file() or not (own := number_in_series(path)):
        return ""
    before = [file for file in storage_files(path.parent) if number_in_series(file) == (own[0], own[1] - 1)]
    return before[0].name if before and _follow_each_other([before[0], path]) else ""


def _times(path: Path) -> tuple[int, int] | None:
    """First and last time of reception, ns; None if the file cannot be read as it is."""
    with suppress(Exception), closing(READERS[path.suffix.lower()](path)) as file:
        return file.span()
    return None  # whatever a damaged file led to; whoever converts it says what is the matter
