"""What is the matter with a recording, told apart from what is the matter with this machine."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pi05_progress.errors import UserError, one_line
from pi05_progress.robots.joints import MessageError

# Another recording would fail the same way: no room, no memory, too many open files.
_OF_THE_MACHINE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
)


class BagError(UserError):
    """A recording cannot be used; the message names it, says what was found and what to do."""


class UnreadableError(BagError, MessageError):
    """A message cannot be read: a fault of the recording, and a message that is passed over where others follow."""


@contextmanager
def bag_errors_naming(where: Path, what: str = "damaged") -> Iterator[None]:
    """Turns whatever reading a damaged file leads to into a ``BagError`` that names it.

    Readers of files raise what they like on bytes nobody expected (ZstdError, sqlite's, UnicodeDecodeError, ...). What
    is the machine's fault stays as it is.
    """
    try:
        yield
    except BagError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise
        raise BagError(f"{where}: {what}: {explained(error)}") from error


def explained(error: Exception) -> str:
    """An exception's message as one line, or its name where it has none."""
    return one_line(" ".join(str(error).split()) or type(error).__name__).rstrip(".")
