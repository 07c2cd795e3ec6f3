"""Starts processes and ends them: together, completely, and even when this one is killed.

Every process leads a session of its own, so that Ctrl-C in a terminal reaches only the supervisor, which ends them in
its order. A watchdog process (``watchdog.py``) ends them if the supervisor could not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from . import watchdog
from .processes import Process, write_parameters

PATIENCE = ((signal.SIGINT, 6.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))  # s after each
TAIL_LINES = 15
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def command_line(process: Process, parameter_file: Path) -> list[str]:
    """The argument vector that starts a process as its launch file would."""
    if process.command:
        return list(process.command)
    command = [sys.executable, "-m", process.module, "--ros-args", "--log-level", process.log_level]
    command += ["-r", f"__node:={process.name}", "-r", f"__ns:={process.namespace}"]
    for path in (process.params_file, str(parameter_file)):
        command += ["--params-file", path] if path else []
    for source, target in process.remappings:
        command += ["-r", f"{source}:={target}"]
    return command


@dataclass
class Child:
    """A process that was started."""

    process: Process  # what it is
    popen: subprocess.Popen[bytes]  # it
    log: Path | None  # file with its output, if it does not go to the terminal

    def lines(self) -> list[str]:
        """Its output so far; empty where that is the terminal."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log else []

    def last_words(self) -> str:
        """The last lines of its output, indented, and where all of it is; empty where that is the terminal."""
        words = [f"    {line}" for line in self.lines()[-TAIL_LINES:]]
        return "\n".join([*words, f"  all of it: {self.log}"]) if self.log else ""

    def how_it_ended(self) -> str:
        """Its exit status or signal, in words."""
        code = self.popen.returncode
        return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


class Supervisor:
    """Use it as a context manager in the main thread: on leaving, everything has ended."""

    def __init__(self, environment: Mapping[str, str], log_folder: Path | None = None) -> None:
        self._environment, self._log_folder = dict(environment), log_folder
        self.children: list[Child] = []
        self._parameters = tempfile.TemporaryDirectory(prefix="pi05_progress_")

    def __enter__(self) -> Supervisor:
        command = [sys.executable, "-I", "-S", watchdog.__file__]
        self._watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._watchdog.stdin.close()
        self._watchdog.wait()
        self._parameters.cleanup()

    def start(self, process: Process) -> Child:
        """Start a process; an OSError if there is no such program."""
        parameter_file = Path(self._parameters.name, f"{process.name}.yaml")
        write_parameters(process, parameter_file)
        log = self._log_folder / f"{process.name}.log" if self._log_folder else None
        with log.open("wb") if log else nullcontext() as output:
            popen = subprocess.Popen(
                command_line(process, parameter_file),
                env={**self._environment, **process.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
                preexec_fn=self._announce,
            )
        self.children.append(Child(process, popen, log))
        return self.children[-1]

    def start_again(self, child: Child) -> None:
        """Start another in the place of one that has ended, and whose children end."""
        self.end([child])
        self.children.remove(child)
        self.start(child.process)

    def _announce(self) -> None:
        """Tell the watchdog of a child, in that child: this process may be killed before it could tell of it."""
        os.write(self._watchdog.stdin.fileno(), f"{os.getpid()}\n".encode())

    def ended(self) -> list[Child]:
        """Those that are no longer running."""
        return [child for child in self.children if child.popen.poll() is not None]

    def end(self, children: list[Child] | None = None) -> None:
        """End some, or all; returns when they and what they started are gone."""
        groups = [child.popen.pid for child in (self.children if children is None else children)]
        watchdog.end(groups, PATIENCE)
        for child in self.children:
            child.popen.poll()


def on_end_signals(callback: Callable[[int], None]) -> None:
    """Call ``callback`` with the number of every signal that asks this process to end."""
    for number in END_SIGNALS:
        signal.signal(number, lambda received, _: callback(received))


def session_environment() -> dict[str, str]:
    """This process's variables, without buffering of its children's output."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}
