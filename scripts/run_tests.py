#!/usr/bin/env python3
"""Run the tests: those of live processes two at a time, and beside them all others on what they leave of the cores.

Tests of live processes mostly wait. The others have the lowest priority until they are alone; what they say is shown
when the live ones are done. What JAX compiles is kept for all their processes and for the next run: compiling small
models is a large part of the work.

Usage: run_tests.py [--all] [PYTEST ARGUMENT ...]
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHORT = "not long and "
LIVE = ("-n", "2", "--dist", "loadfile")  # tests of a file may share processes
LOWEST = 19
PROGRAMS = Path("~/.cache/pi05_progress/test_programs").expanduser()
KEPT_S = 14 * 24 * 3600.0  # of a program since it was compiled: those of former code are never asked for again


def keep_programs() -> None:
    """Let JAX keep what it compiles, unless the user has chosen a folder (JAX_COMPILATION_CACHE_DIR)."""
    for file in PROGRAMS.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another run removes them, too
            if file.stat().st_mtime < time.time() - KEPT_S:
                file.unlink()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(PROGRAMS))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")


def to_its_end(command: list[str], **options: Any) -> int:
    """Run pytest; Ctrl-C reaches it, too, and it is waited for until it has ended what its tests started."""
    with subprocess.Popen(command, **options) as process:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()


def main() -> int:
    """Entry point; returns the exit status: 0 if all passed."""
    arguments = sys.argv[1:]
    short = SHORT
    if "--all" in arguments:
        arguments.remove("--all")
        short = ""
    pytest = [sys.executable, "-m", "pytest", *arguments]
    keep_programs()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile the project anew
    with tempfile.TemporaryFile() as said:
        others = subprocess.Popen(
            [*pytest, "-n", "2", "--dist", "worksteal", "-m", f"{short}not live"],
            stdout=said,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.nice(LOWEST),
        )
        live = to_its_end([*pytest, *LIVE, "-m", f"{short}live"])
        try:
            print("\nall other tests", flush=True)
            status = others.wait()
        except KeyboardInterrupt:  # pytest has been told by the terminal, too
            live, status = 130, others.wait()
        said.seek(0)
        shutil.copyfileobj(said, sys.stdout.buffer)
        sys.stdout.flush()
    return max(live, status)


if __name__ == "__main__":
    sys.exit(main())
