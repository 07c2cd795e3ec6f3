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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from .command_line import OptionError, read_options
from .monitoring.message_yaml import message_yaml
from .monitoring.monitor import Monitor
from .monitoring.show import KEY_PERIOD_S, show
from .monitoring.terminal import pick_charset, save_svg
from .monitoring.view import no_messages, view
from .transport import use_image_transport

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
            raise OptionError(f"--{name}: {value:g} is not a positive number")


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C, termination and a closed terminal."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    in_main = threading.current_thread() is threading.main_thread()  # elsewhere signals are the caller's
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers if in_main}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_once(monitor: Monitor, spin: Callable[[float], object], stop: threading.Event, timeout_s: float) -> int:
    seen, end_s = monitor.seen, time.monotonic() + timeout_s
    while seen.message is None and time.monotonic() < end_s:
        if stop.is_set():
            return 0
        spin(min(KEY_PERIOD_S, max(end_s - time.monotonic(), 0.0)))
    if seen.message is None:
        print(f"monitor: {no_messages(seen, time.monotonic())}", file=sys.stderr)
        return 1
    sys.stdout.write(f"{message_yaml(seen.message)}---\n")
    sys.stdout.flush()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        the exit status: 0; 1 if ``--once`` got nothing in time; 2 if an argument is wrong.
    """
    argv = ["monitor", *(sys.argv[1:] if argv is None else argv)]
    use_image_transport()
    context = rclpy.Context()
    with _stop_on_signals() as stop:
        try:
            options = read_options(Options, MODULE, __doc__, remove_ros_args(argv)[1:], _check)
            rclpy.init(args=argv, context=context, signal_handler_options=SignalHandlerOptions.NO)
            node = Node(
                f"progress_monitor_{os.getpid()}",
                namespace=options.namespace or None,
                context=context,
                enable_rosout=False,
                start_parameter_services=False,
            )
            monitor = Monitor(node, options.topic)
        except (NameValidationException, ValueError, RuntimeError) as error:
            print(f"monitor: {error}", file=sys.stderr)
            context.try_shutdown()
            return 2
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)

        def spin(seconds: float) -> None:
            executor.spin_once(timeout_sec=seconds)

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
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (else Python complains at exit)
        finally:
            executor.shutdown()
            node.destroy_node()
            context.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
