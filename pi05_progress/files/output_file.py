"""Single files that appear complete or not at all; folders: ``pi05_progress.files.output_folder``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class OutputFileError(ValueError):
    """The file is there already, or is none; the message says what to do."""


def check_output(path: Path, *, overwrite: bool) -> None:
    """Whether a file may be written to a place; nothing is changed.

    Raises:
        OutputFileError: a folder is there, or a file that is not to be replaced.
    """
    if path.is_dir():
        raise OutputFileError(f"{path} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise OutputFileError(f"{path} is already there; choose another name, or --overwrite it")


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it is moved into place at the end, and an exception removes it.

    Links are followed, folders made.
    """
    real = path.resolve()
    partial = real.with_name(real.name + ".partial")
    real.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, real)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
