"""Folders that appear complete or not at all: written under another name beside, then moved into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL, OLD = ".partial", ".old"


class OutputFolderError(ValueError):
    """The folder is there already, or cannot be written; the message says what to do."""


def partial_of(folder: Path) -> Path:
    """Where a folder is written before it is moved into place."""
    return folder.with_name(folder.name + PARTIAL)


def begin(folder: Path, *, overwrite: bool = False) -> Path:
    """An empty folder beside ``folder`` to write into; what an earlier attempt left there is removed.

    Raises:
        OutputFolderError: ``folder`` is there and overwriting was not asked for, or nothing can be written there.
    """
    if folder.exists() and not overwrite:
        raise OutputFolderError(f"{folder} is already there; choose another folder, or overwrite it explicitly")
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError(f"{folder} is a file; a folder is to be written there")
    partial = partial_of(folder)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise OutputFolderError(f"{partial}: cannot be written: {error.strerror}") from error
    return partial


def finish(partial: Path, folder: Path) -> None:
    """Move what was written into place; what it replaces is removed afterwards.

    A process killed between the two moves leaves the former folder as ``<name>.old`` and the new one, complete, as
    ``<name>.partial``.
    """
    if not folder.exists():
        os.replace(partial, folder)
        return
    old = folder.with_name(folder.name + OLD)
    shutil.rmtree(old, ignore_errors=True)
    os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old)


@contextmanager
def output_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """``begin`` and ``finish`` around a block that writes into the folder given; an exception removes it.

    Raises:
        OutputFolderError: see ``begin``.
    """
    partial = begin(folder, overwrite=overwrite)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finish(partial, folder)
