"""A part as a process of its own: it is told what to do in JSON, and says what it found in lines of JSON on a pipe.

The process that measures nothing never asks JAX for devices: it would take most of the card's memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().parents[1] / "gpu.py"
Message = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What a process is asked to do.

    Attributes:
        function: ``module:function`` of what does it, called with a ``Context``.
        variant: ``pi05`` or ``tiny``.
        until: time (``time.time()``) after which nothing new is begun.
        started: time at which the process was started.
        settings: further words for the function.
        keep: what files that are kept begin with; None keeps none.
    """

    function: str
    variant: str
    until: float
    started: float = 0.0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keep: str | None = None


class ProcessError(RuntimeError):
    """A process ended before it was done; the message says how."""


class CutOffError(ProcessError):
    """It had not come to an end when its time was over, and was killed."""


def messages(
    task: Task, killed_at: float, environment: Mapping[str, str], *, nested: bool = False
) -> Iterator[Message]:
    """Start a process and give what it says, as it says it; it is gone when this ends, however it ends.

    Args:
        task: what it does.
        killed_at: time (``time.time()``) at which it is killed.
        environment: of the process.
        nested: whether this is such a process itself: then both are killed together.

    Raises:
        CutOffError: it was killed at ``killed_at``.
        ProcessError: it failed.
    """
    ours, theirs = os.pipe()
    task = dataclasses.replace(task, started=time.time())
    command = [sys.executable, str(PROGRAM), "--task", json.dumps(dataclasses.asdict(task)), "--pipe", str(theirs)]
    process = subprocess.Popen(command, pass_fds=[theirs], env=dict(environment), start_new_session=not nested)
    os.close(theirs)
    try:
        yield from _read(ours, killed_at)
        if status := process.wait(max(1.0, killed_at - time.time())):
            raise ProcessError(_how(status))
    except subprocess.TimeoutExpired as error:
        raise CutOffError("it was done, but did not end") from error
    finally:
        os.close(ours)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid if nested else -process.pid, signal.SIGKILL)  # with those that it started
        process.wait()


def _read(pipe: int, killed_at: float) -> Iterator[Message]:
    unread = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, killed_at - time.time()))
        if not ready:
            raise CutOffError("its time was over; it was killed")
        got = os.read(pipe, 2**16)
        if not got:
            return
        *lines, unread = (unread + got).split(b"\n")
        yield from map(json.loads, lines)


def _how(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
