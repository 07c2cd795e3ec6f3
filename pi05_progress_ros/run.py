"""Starts what a launch file starts, where ROS's ``launch`` is not installed: it reads the same description.

python -m pi05_progress_ros.run bringup sim:=true
python -m pi05_progress_ros.run bringup --show-args
"""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pi05_progress.errors import UserError, run_program

from .starting.bringup import BRINGUP, RECORD, SIMULATION
from .starting.processes import RESPAWN_S, Launch, Process
from .starting.supervisor import Supervisor, on_end_signals, session_environment

LAUNCHES = {launch.name: launch for launch in (BRINGUP, SIMULATION, RECORD)}
WATCH_PERIOD_S = 0.2
HELP = {"-h", "--help"}


@dataclass(frozen=True)
class Options:
    """Command line."""

    launch: tyro.conf.Positional[Literal["bringup", "simulation", "record"]]
    """What to start."""
    values: tyro.conf.Positional[tuple[str, ...]] = ()
    """Arguments of the launch, each as name:=value."""
    show_args: Annotated[bool, tyro.conf.arg(aliases=["-s"])] = False
    """List the arguments of the launch, and start nothing."""


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """Values from ``name:=value`` words; a ``UserError`` if one has another form, or a name comes twice."""
    given: dict[str, str] = {}
    for word in arguments:
        name, separator, value = word.partition(":=")
        if not separator or not name:
            raise UserError(f"{word!r}: expected name:=value")
        if name in given:
            raise UserError(f"{name} is given twice")
        given[name] = value
    return given


def describe(launch: Launch) -> str:
    """The arguments of a launch, for people."""
    lines = [launch.text, "", "Arguments (name:=value):"]
    for argument in launch.arguments:
        lines += ["", f"  {argument.name}"]
        lines += textwrap.wrap(argument.text, 100, initial_indent="      ", subsequent_indent="      ")
        if argument.choices:
            lines.append(f"      one of: {', '.join(choice or 'empty' for choice in argument.choices)}")
        lines.append(f"      default: {argument.default or 'empty'}")
    return "\n".join(lines)


def supervise(processes: Sequence[Process]) -> int:
    """Run processes with their output in the terminal until a required one ends or the end is asked for.

    Returns:
        The exit status: 0 when the end was asked for or all that ended did so in order.
    """
    asked = threading.Event()
    on_end_signals(lambda _: asked.set())
    with Supervisor(session_environment()) as supervisor:
        for process in processes:
            if process.note:
                print(process.note, flush=True)
            try:
                supervisor.start(process)
            except OSError as error:
                print(f"{process.name} cannot be started: {error}", file=sys.stderr)
                return 1
        reported: set[str] = set()
        while not asked.wait(WATCH_PERIOD_S):
            for child in [child for child in supervisor.ended() if child.process.respawn]:
                print(
                    f"{child.process.name} has ended with {child.how_it_ended()}, and is started again", file=sys.stderr
                )
                if asked.wait(RESPAWN_S):
                    return 0
                supervisor.start_again(child)
            ended = supervisor.ended()
            for child in ended:
                name = child.process.name
                if name not in reported:
                    print(f"{name} has ended with {child.how_it_ended()}", file=sys.stderr)
                    reported.add(name)
            required = [child for child in ended if child.process.required]
            if required or len(ended) == len(processes):
                return int(any(child.popen.returncode for child in ended))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if HELP & set(words[1:]):  # of a launch: what it can be given is in no help that tyro writes
        words = [words[0], "--show-args"]
    options = tyro.cli(Options, prog="python -m pi05_progress_ros.run", description=__doc__, args=words)
    launch = LAUNCHES[options.launch]
    if options.show_args:
        print(describe(launch))
        return 0
    return run_program(lambda: supervise(launch.processes(parse(options.values), os.environ)), name=launch.name)


if __name__ == "__main__":
    sys.exit(main())
