"""Draws what the monitor has seen until asked to stop: a full screen on a terminal, else lines of text."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live

from .monitor import Monitor
from .terminal import Keys, can_draw, pick_charset
from .view import line, view

SCREEN_RATE_HZ, LOG_RATE_HZ = 4.0, 1.0
KEY_PERIOD_S = 0.1  # how long a key may wait


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
    """Draw until asked to stop: a full screen on a terminal, else a line of text at a time.

    Args:
        monitor: what to draw.
        spin: lets callbacks run for at most so many seconds; called from here only.
        stopped: whether to end; asked at least ten times a second. ``q`` on the terminal ends it, too.
        seconds: end after so long.
        rate_hz: pictures or lines per second; by default 4 pictures or 1 line.
        plain: lines even on a terminal.
        force_ascii: no other characters even where they could be shown.
        out: where to; standard output by default.
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
