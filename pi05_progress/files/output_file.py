"""Single files that appear complete or not at all; folders: ``pi05_progress.files.output_folder``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UserError

PARTIAL = ".partial"  # ends the name of what is being written


def check_output(*paths: Path | None, overwrite: bool) -> None:
    """Raise a ``UserError`` if a folder is there, or a file that is not to be replaced; nothing is changed."""
    for path in filter(None, paths):
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file in it")
        if path.exists() and not overwrite:
            raise UserError(f"{path} is already there; choose another name, or --overwrite it")


@contextmanager
def output_file(path: Path, *, durable: bool = False, shared: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to; it is moved into place at the end, and an exception removes it.

    Links are followed, folders made.

    Args:
        durable: whether the contents are on the disk before the file has its name. After a loss of power some file
            systems show a moved file that is empty: what a long work is gone on with must not be found so. What can be
            made again in a moment does without, since waiting for a disk takes up to a second.
        shared: whether several processes may write this file at once. Each has a place of its own then, and the last
            one counts.
    """
    real = path.resolve()
    partial = real.with_name(f"{real.name}.{os.getpid()}{PARTIAL}" if shared else real.name + PARTIAL)
    real.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if durable:
            to_disk(partial)
        os.replace(partial, real)
        if durable:
            to_disk(real.parent)
    except BaseException:
        with suppress(OSError):  # why it was not written matters more
            partial.unlink(missing_ok=True)
        raise


def write_file(path: Path, content: str | bytes, *, durable: bool = False, private: bool = False) -> None:
    """Write a whole file, complete or not at all; where ``private``, nobody but the owner may read it.

    Text is written as UTF-8; of names of files that are no text in this locale, what is UTF-8. ``durable``: see
    ``output_file``.
    """
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape").decode(errors="replace").encode()
    with output_file(path, durable=durable) as partial:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(os.open(partial, flags, 0o600 if private else 0o666), "wb") as file:
            file.write(content)


def to_disk(path: Path) -> None:
    """Wait until a file's contents, or the names in a folder, would survive a loss of power."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
