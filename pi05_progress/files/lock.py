"""Locks between processes: on an open file, and gone with the process, however that ends."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def try_lock(file: IO) -> bool:
    """Take the lock of an open file, for as long as it is open; returns whether this process has it, or another has. An
    ``OSError``: the file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(file: IO) -> None:
    """Give the lock back and close the file, also where a forked process still has it open."""
    fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file, which is made, while the block runs; ``waiting`` is called if another process has it. An
    ``OSError``: the file cannot be written, or as of ``try_lock``."""
    with path.open("a", encoding="utf-8") as file:
        if not try_lock(file):
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
