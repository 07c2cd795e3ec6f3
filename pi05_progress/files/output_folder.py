"""Folders that appear complete or not at all: written under another name beside, then moved into place.

While a folder is written, a lock in it holds it against other processes; it ends with the process, however that ends.
What is replaced or cleared must be of the kind that is written: a mistyped ``--overwrite`` deletes nobody's recordings.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import UserError
from .lock import try_lock, unlock
from .output_file import PARTIAL, to_disk

OLD, LOCK = ".old", ".lock"
_TRIES = 10  # of a lock whose folder others keep moving away


class OutputFolderError(UserError):
    """The folder is there already, or cannot be written; the message says what to do."""


@dataclass(frozen=True)
class Pending:
    """A folder that is being written; made by ``claim`` or ``start_writing``."""

    path: Path  # where to write
    folder: Path  # where it will be, links resolved
    replaces: tuple[str, ...] | None  # what a folder must have to be replaced; None if a folder that is there stays
    lock: IO[str]  # the open file whose lock this process has

    def release(self) -> None:
        """Give the lock back; what was written stays, and whoever begins next removes it."""
        if not self.lock.closed:
            unlock(self.lock)

    def clear(self) -> None:
        """Remove what is in the folder."""
        for path in self.path.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def abandon(self) -> None:
        """Remove what was written, and give the lock back; nothing happens where that has been done."""
        if self.lock.closed:
            return
        try:
            self.clear()  # the lock last: killed in here, what is left is still known as ours
            shutil.rmtree(self.path, ignore_errors=True)
        except OSError:
            pass  # why it was abandoned matters more; whoever begins next removes the rest
        finally:
            self.release()


def resolved(folder: Path) -> Path:
    """Where a folder is or will be, links followed; an ``OutputFolderError`` if there is no such place."""
    try:
        real = Path(folder).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise OutputFolderError(f"{folder}: {error}") from error
    if not real.name:
        raise OutputFolderError(f"{folder}: is the root of the file system; name a folder in it")
    return real


def partial_of(folder: Path) -> Path:
    """Where a folder is written before it is moved into place."""
    real = resolved(folder)
    return real.with_name(real.name + PARTIAL)


def refuse_overlap(folder: Path, sources: Iterable[Path]) -> None:
    """Raise an ``OutputFolderError`` if the folder is one of the sources, lies in one, or one lies in it."""
    target = resolved(folder)
    for source in sources:
        read = source.resolve()
        if target == read or read in target.parents or target in read.parents:
            raise OutputFolderError(
                f"{folder}: lies in the input {source}, or the input in it; the input is never modified, so choose a "
                "folder beside it"
            )


def check_target(folder: Path, replaces: Sequence[str] | None) -> None:
    """Raise an ``OutputFolderError`` if something is there that stays; nothing is changed."""
    real = resolved(folder)
    if not real.exists():
        return
    if not real.is_dir():
        raise OutputFolderError(f"{folder} is a file; a folder is to be written there, so choose another name")
    if replaces is None:
        raise OutputFolderError(
            f"{folder} is already there; choose another folder, or ask for it to be replaced (--overwrite)"
        )
    if any(real.iterdir()) and (missing := [name for name in replaces if not (real / name).exists()]):
        raise OutputFolderError(
            f"{folder} is not overwritten: it has no {' and no '.join(missing)}, so it is something else than what is "
            "to be written there; choose another folder, or remove it yourself"
        )


def claim(folder: Path, replaces: Sequence[str] | None = None) -> Pending:
    """Take the place beside ``folder`` where it is written; what an earlier attempt left there stays.

    Raises:
        OutputFolderError: another process is writing there, something else is there, or nothing can be written.
    """
    real, path = resolved(folder), partial_of(folder)
    given = None if replaces is None else tuple(replaces)
    for _ in range(_TRIES):
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / LOCK).exists() and any(path.iterdir()):
                raise OutputFolderError(
                    f"{path}: is in the way, and was not left by an earlier attempt; rename or remove it, or choose "
                    "another folder"
                )
            lock = (path / LOCK).open("a", encoding="utf-8")
        except FileNotFoundError:
            continue  # another process has just moved it into place
        except OSError as error:
            raise OutputFolderError(f"{path}: cannot be written: {error.strerror or error}") from error
        try:
            mine = try_lock(lock)
        except OSError as error:
            lock.close()
            raise OutputFolderError(f"{path}: cannot be locked: {error.strerror or error}") from error
        if not mine:
            lock.close()
            raise OutputFolderError(f"{path}: another process is writing there; wait for it, or choose another folder")
        with suppress(FileNotFoundError):  # else its folder was moved or removed meanwhile
            if os.path.samestat(os.fstat(lock.fileno()), (path / LOCK).stat()):
                return Pending(path, real, given, lock)
        lock.close()
    raise OutputFolderError(f"{path}: other processes keep writing there; wait for them, or choose another folder")


def start_writing(folder: Path, *, replaces: Sequence[str] | None = None) -> Pending:
    """An empty folder beside ``folder`` to write into; what an earlier attempt left there is removed.

    Args:
        folder: what will be written; links are followed.
        replaces: None if a folder that is there stays. Otherwise it is replaced, provided that it is empty or has all
            of these files or folders, which tell what it is.

    Raises:
        OutputFolderError: ``folder`` is there and stays, another process is writing it, or nothing can be written.
    """
    check_target(folder, replaces)
    pending = claim(folder, replaces)
    try:
        check_target(folder, replaces)  # another process may have written it before the lock was free
        pending.clear()
    except BaseException as error:
        pending.abandon()
        if isinstance(error, OSError):
            raise OutputFolderError(f"{pending.path}: cannot be written: {error.strerror or error}") from error
        raise
    return pending


def finish(pending: Pending) -> None:
    """Move what was written into place; what it replaces is removed afterwards.

    A process killed between the two moves leaves the former folder as ``<name>.old`` and the new one, complete, as
    ``<name>.partial``.

    Raises:
        OutputFolderError: something that stays has appeared there meanwhile; what was written stays where it is.
    """
    folder = pending.folder
    try:
        _all_to_disk(pending.path)
        try:
            check_target(folder, pending.replaces)
        except OutputFolderError as error:
            raise OutputFolderError(f"{error}. What was written is complete, it is in {pending.path}") from None
        if folder.exists():
            old = _free_name(folder)
            os.replace(folder, old)
            os.replace(pending.path, folder)
            to_disk(folder.parent)
            shutil.rmtree(old)
        else:
            os.replace(pending.path, folder)
            to_disk(folder.parent)
        (folder / LOCK).unlink(missing_ok=True)  # held until here, so nobody clears what has been moved
    finally:
        pending.release()


def _all_to_disk(folder: Path) -> None:
    """Wait until all in a folder would survive a loss of power: its name must not be known before its contents."""
    for path, _, files in os.walk(folder):
        for name in files:
            to_disk(Path(path, name))
        to_disk(Path(path))


def _free_name(folder: Path) -> Path:
    """``<name>.old``, or with a number if that is there: it may be somebody's own copy."""
    names = (folder.name + OLD + (f".{n}" if n else "") for n in itertools.count())
    return next(path for path in map(folder.with_name, names) if not os.path.lexists(path))


@contextmanager
def output_folder(folder: Path, *, replaces: Sequence[str] | None = None) -> Iterator[Path]:
    """``start_writing`` and ``finish`` around a block that writes into the folder given; an exception removes it."""
    pending = start_writing(folder, replaces=replaces)
    try:
        yield pending.path
    except BaseException:
        pending.abandon()
        raise
    finish(pending)
