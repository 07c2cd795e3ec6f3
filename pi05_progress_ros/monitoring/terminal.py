"""The terminal the monitor draws on: a full screen or lines of text, single keys, pictures of it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len
from rich.console import CONSOLE_SVG_FORMAT, Console, Group
from rich.live import Live
from rich.text import Text

from pi05_progress.files.output_file import write_file

from .charts import ASCII, UNICODE, Charset
from .screen import line, view
from .seen import Monitor

try:
    import termios
except ImportError:  # no POSIX terminal: no keys
    termios = None

SCREEN_RATE_HZ, LOG_RATE_HZ = 4.0, 1.0
KEY_PERIOD_S = 0.1  # how long a key may wait


def pick_charset(out: TextIO, environ: Mapping[str, str], force_ascii: bool = False) -> Charset:
    """What may be written to ``out``.

    Block characters need an output encoding of UTF-8 and a terminal that follows: not TERM=dumb, and not a C locale
    that was set on purpose (Python would write UTF-8 there all the same).
    """
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    utf8 = (out.encoding or "").lower().replace("-", "").replace("_", "") == "utf8"
    plain = locale in ("C", "POSIX") or environ.get("TERM") == "dumb"
    return ASCII if force_ascii or plain or not utf8 else UNICODE


def can_draw(out: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether ``out`` is a terminal on which the cursor can be moved."""
    return out.isatty() and environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


class Keys:
    """Keys pressed on the terminal, without waiting for Enter. A context; the terminal is put back at its end.

    Without a terminal, or in the background, where reading would stop the program, no key is ever pressed.
    """

    def __init__(self) -> None:
        self._before: list | None = None
        self._file = -1

    def __enter__(self) -> Keys:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            file = sys.stdin.fileno()
            if termios and os.isatty(file) and os.tcgetpgrp(file) == os.getpgrp():
                self._before, self._file = termios.tcgetattr(file), file
                changed = termios.tcgetattr(file)
                changed[3] &= ~(termios.ICANON | termios.ECHO)
                changed[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the shell on our screen
                termios.tcsetattr(file, termios.TCSADRAIN, changed)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def pressed(self) -> str:
        """What has been typed since the last call; empty if nothing."""
        if self._before is None or not select.select([self._file], [], [], 0)[0]:
            return ""
        try:
            typed = os.read(self._file, 64)
        except OSError:  # the terminal is gone
            typed = b""
        if not typed:
            self._before = None
        return typed.decode(errors="replace")


def save_svg(lines: Sequence[Text], path: Path, title: str) -> None:
    """A picture of the lines as they look on a terminal. It refers to no font on the network."""
    width = max((cell_len(row.plain) for row in lines), default=1)
    console = Console(record=True, file=io.StringIO(), width=width, color_system="truecolor", force_terminal=True)
    for row in (*lines, Text()):  # the last one would be clipped
        console.print(row, no_wrap=True, overflow="crop", highlight=False)
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    template = re.sub(r"\s*<!--.*?-->", "", template, flags=re.DOTALL)
    template = template.replace("Fira Code, monospace", "monospace").replace("Fira Code", "monospace")
    write_file(path, console.export_svg(title=title, code_format=template, unique_id="monitor") + "\n")


def show(
    monitor: Monitor,
    spin: Callable[[float], object],
    stopped: Callable[[], bool],
    *,
    seconds: float | None = None,
    rate_hz: float | None = None,
    plain: bool = False,
    force_ascii: bool = False,
    out: TextIO | None = None,
) -> None:
    """Draw until asked to stop, or until q: a full screen on a terminal, else, or if ``plain``, a line at a time.

    ``spin`` lets callbacks run for at most so many seconds, from here only; ``stopped`` is asked ten times a second.
    """
    out = sys.stdout if out is None else out
    charset = pick_charset(out, os.environ, force_ascii)
    lines = plain or not can_draw(out, os.environ)
    period = 1 / (rate_hz or (LOG_RATE_HZ if lines else SCREEN_RATE_HZ))
    end_s = None if seconds is None else time.monotonic() + seconds

    def wait(keys: Keys) -> bool:
        """Until the next picture; False at the end."""
        due_s = time.monotonic() + period
        while (now_s := time.monotonic()) < due_s:
            if stopped() or "q" in keys.pressed().lower() or (end_s is not None and now_s >= end_s):
                return False
            spin(min(due_s - now_s, KEY_PERIOD_S))
        return True

    if lines:
        with Keys() as keys:
            while wait(keys):
                print(line(monitor.seen, time.monotonic(), charset), file=out, flush=True)
        return
    console = Console(file=out, highlight=False)

    def picture() -> Group:
        return Group(*view(monitor.seen, time.monotonic(), console.width, console.height, charset))

    with (
        Keys() as keys,
        Live(
            picture(), console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as live,
    ):
        while wait(keys):
            live.update(picture(), refresh=True)
