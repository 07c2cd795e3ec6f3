"""Reads recorded files, and says of a damaged one which it is."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def npz_names(path: Path) -> list[str]:
    """Names of a file's arrays, without reading them; empty if its name does not end in .npz.

    Raises:
        ValueError: it is damaged.
    """
    if path.suffix != ".npz":
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file, NaN included.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def is_list_of(file: Path, keys: set[str]) -> bool:
    """Whether a file is JSON: a list of dictionaries that all have these keys.

    Raises:
        ValueError: it is damaged.
    """
    if file.suffix != ".json":
        return False
    content = read_json(file)
    return isinstance(content, list) and bool(content) and all(isinstance(x, dict) and keys <= set(x) for x in content)
