"""Vectors of an episode on disk, float32 row after row: a long episode takes no more memory than a short one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WAITING = 1024  # rows that are collected before they are written


class VectorWriter:
    """Appends rows to a file. Use it as a context manager.

    Args:
        path: of the file.
        size: numbers of a row.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._rows = np.empty((WAITING, size), np.float32)
        self._count = 0

    def __enter__(self) -> VectorWriter:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is None:
                self._flush()

    def append(self, row: np.ndarray) -> None:
        """One more row, (size,)."""
        self._rows[self._count] = row
        self._count += 1
        if self._count == WAITING:
            self._flush()

    def _flush(self) -> None:
        self._file.write(self._rows[: self._count].tobytes())
        self._count = 0


class VectorReader:
    """Reads parts of such a file.

    Args:
        path: of the file.
        size: numbers of a row.
        count: rows that it must have.

    Raises:
        ValueError: the file holds another number of rows.
    """

    def __init__(self, path: Path, size: int, count: int) -> None:
        self._path, self.size, self.count = path, size, count
        found = path.stat().st_size
        if found != 4 * size * count:
            raise ValueError(f"{path}: {found / (4 * size):g} rows of {size} numbers, expected {count}")

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), (n, size)."""
        stop = min(stop, self.count)
        part = np.fromfile(self._path, np.float32, (stop - start) * self.size, offset=4 * self.size * start)
        return part.reshape(stop - start, self.size)

    def columns(self, start: int, stop: int) -> np.ndarray:
        """Columns [start, stop) of all rows, (count, stop - start)."""
        parts = [self.rows(at, at + WAITING)[:, start:stop] for at in range(0, self.count, WAITING)]
        return np.concatenate([np.ascontiguousarray(part) for part in parts])
