"""Ends processes whose starter is gone, even if it was killed: run as a script, with its standard input a pipe.

Every process that is started writes its id before it becomes the program, each the leader of a session of its own. When
the pipe closes, whatever of them is still there is asked to end and killed after a while. Standard library only; see
``supervisor.py``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

GRACE_S = 5.0  # between asking and killing; a policy that compiles does not listen


def alive(group: int) -> bool:
    """Whether a process of the group is there that is more than an entry waiting to be collected."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # the number is another's by now
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, its_group = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return not Path("/proc/self/stat").exists()


def send(groups: list[int], number: int) -> None:
    """Send a signal to those that are there."""
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def end(groups: list[int], signals: tuple[tuple[int, float], ...]) -> bool:
    """Send each signal and wait for its time, s, or until all are gone; whether all are gone."""
    for number, patience_s in signals:
        left = [group for group in groups if alive(group)]
        send(left, number)
        until = time.monotonic() + patience_s
        while any(alive(group) for group in left):
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        else:
            return True
    return False


def main() -> None:
    """See the module's docstring."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when its work is done
    groups = [int(line) for line in sys.stdin]
    end(groups, ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 1.0)))


if __name__ == "__main__":
    main()
