"""Names for contents: what was made from something is made anew when that has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 24  # hexadecimal digits


def fingerprint(value: Any, length: int = LENGTH) -> str:
    """A name for a value that JSON can say; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


def fingerprint_of_arrays(arrays: Mapping[str, np.ndarray], length: int = LENGTH) -> str:
    """A name for arrays with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:length]


def files_in(path: Path) -> list[list]:
    """Name, size and time of a file, or of every file in a folder: they tell without reading whether it has changed."""
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [(file, file.stat()) for file in inside if file.is_file()]
    return [[str(file.relative_to(path)), status.st_size, status.st_mtime_ns] for file, status in found]
