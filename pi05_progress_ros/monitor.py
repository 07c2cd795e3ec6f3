"""Task progress in the terminal, over ssh, too; q or Ctrl-C ends it.

    python -m pi05_progress_ros.monitor

ROS arguments follow --ros-args, such as: --ros-args -r __ns:=/robot1
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
import yaml
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args

from pi05_progress.errors import UsageError, UserError

from .command_line import program, read_options
from .monitoring.screen import no_messages, view
from .monitoring.seen import Monitor
from .monitoring.terminal import KEY_PERIOD_S, pick_charset, save_svg, show
from .ros_session import END_SIGNALS, onlooker, ros_session

MODULE = "pi05_progress_ros.monitor"
PICTURE = (100, 40)  # columns and lines of the one that is saved


@dataclass(frozen=True)
class Options:
    """Command line."""

    once: bool = False
    """Print one message as YAML, as `ros2 topic echo --once` does, and exit."""
    timeout: float = 10.0
    """How long --once waits, s."""
    topic: str = "task_progress"
    """TaskProgress topic."""
    namespace: str = ""
    """The policy node's namespace."""
    rate: float | None = None
    """Pictures or lines per second; if not given 4 pictures or 1 line."""
    seconds: float | None = None
    """End by itself after so long."""
    plain: bool = False
    """Lines of text instead of a screen, as without a terminal."""
    ascii: bool = False
    """Draw with ASCII characters only."""
    svg: Path | None = None
    """Save the last picture there, 100 cells wide."""


def _check(options: Options) -> None:
    for name in ("timeout", "rate", "seconds"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name}: {value:g} is not a positive number")


def _plain(value: Any) -> Any:
    if hasattr(value, "get_fields_and_field_types"):  # a message
        return {name: _plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, bytes):  # `octet` and arrays of it
        return "".join(chr(number) for number in value)
    if isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "tolist"):  # arrays of numbers, NumPy scalars
        return value.tolist()
    return [_plain(element) for element in value]


def message_yaml(message: Any) -> str:
    """YAML of a message, fields in the order of its definition, nothing shortened, NaN as ``.nan``; without ``---``."""
    return yaml.safe_dump(
        _plain(message), sort_keys=False, allow_unicode=True, width=sys.maxsize, default_flow_style=False
    )


def _print_once(monitor: Monitor, spin: Callable[[float], object], stop: threading.Event, timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while monitor.seen.message is None and not stop.is_set():
        if time.monotonic() >= end_s:
            raise UserError(no_messages(monitor.seen, time.monotonic()))
        spin(min(KEY_PERIOD_S, max(end_s - time.monotonic(), 0.0)))
    if monitor.seen.message is not None:
        print(f"{message_yaml(monitor.seen.message)}---", flush=True)


@program("monitor")
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; returns the exit status: 0, 1 if ``--once`` got nothing in time, 2 if an argument is wrong."""
    words = ["monitor", *(sys.argv[1:] if argv is None else argv)]
    context = rclpy.Context()
    with ExitStack() as stack:
        try:
            options = read_options(Options, MODULE, __doc__, remove_ros_args(words)[1:], _check)
            stop = stack.enter_context(ros_session(words, (*END_SIGNALS, signal.SIGHUP), context))
            name, namespace = f"progress_monitor_{os.getpid()}", options.namespace or None
            node, spin = stack.enter_context(onlooker(name, namespace=namespace, context=context))
            monitor = Monitor(node, options.topic)
        except (NameValidationException, ValueError, RuntimeError) as error:
            raise UsageError(str(error)) from error
        try:
            if options.once:
                return _print_once(monitor, spin, stop, options.timeout)
            show(
                monitor, spin, lambda: stop.is_set() or not context.ok(), seconds=options.seconds,
                rate_hz=options.rate, plain=options.plain, force_ascii=options.ascii,
            )  # fmt: skip
            if options.svg:
                lines = view(monitor.seen, time.monotonic(), *PICTURE, pick_charset(sys.stdout, {}, options.ascii))
                save_svg(lines, options.svg, f"python -m {MODULE}")
        except ExternalShutdownException:
            pass
        except OSError:  # whoever read the output is gone: a closed pipe or terminal
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (else Python complains at exit)


if __name__ == "__main__":
    sys.exit(main())
