"""What a user can mend, and how every program tells it: in one line, without a traceback."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

INTERRUPTED = 130  # exit status after Ctrl-C: 128 + SIGINT, as shells have it


class UserError(ValueError):
    """Something that a user can mend: the message says what was found, where, and what to do.

    A class of its own is derived from it only where somebody treats that error differently from others.
    """

    status = 1


class UsageError(UserError):
    """The command line cannot be understood; the message says what would be right."""

    status = 2


def one_line(text: str, longest: int = 500) -> str:
    """Any text as one printable line of at most ``longest`` characters: it forges no line of a log, and fills none."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: longest + 1])
    return text if len(text) <= longest else text[: longest - 4] + " ..."


def run_program(
    program: Callable[[], int | None], *, name: str = "error", kept: str = "", stopped: str = "stopped"
) -> int:
    """Run a program; what its user can mend is told in one line on standard error, anything else is a traceback.

    Args:
        name: what the line begins with.
        kept: what becomes of the work done so far when the disk fails, such as "finished episodes are kept".
        stopped: what is said after Ctrl-C.

    Returns:
        The exit status: the program's (None is 0), 1 after an error, 2 after a wrong command line, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal's locale cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        return program() or 0
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{name}: {where}{error.strerror or error}{f'; {kept}' if kept else ''}", file=sys.stderr)
        return UserError.status
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
