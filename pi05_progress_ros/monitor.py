"""Task progress in the terminal, over ssh, too: ``python -m pi05_progress_ros.monitor``.

Everything happens in the thread that calls ``show`` (or spins): callbacks fill one ``Seen``, between them it is drawn.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rich.console import Console, Group
from rich.live import Live

from pi05_progress_msgs.msg import TaskProgress

from .monitoring.message_yaml import message_yaml
from .monitoring.state import HISTORY_STEP_S, Seen
from .monitoring.terminal import Keys, can_draw, pick_charset, save_svg
from .monitoring.view import line, no_messages, view
from .transport import use_image_transport

SCREEN_RATE_HZ, LOG_RATE_HZ = 4.0, 1.0
KEY_PERIOD_S = 0.1  # how long a key may wait
# Best effort takes messages of reliable publishers, too, and can never make the policy node send anything twice.
QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


class Monitor:
    """Subscribes and keeps what a view needs in ``seen``.

    Messages are counted as they come, but only the newest is unpacked when somebody looks, which costs less CPU time.

    Args:
        node: whose subscriptions these are; whoever spins it feeds the monitor, and must be who draws it.
        topic: of the ``TaskProgress``, relative to the node's namespace unless it starts with a slash.
    """

    def __init__(self, node: Node, topic: str = "task_progress") -> None:
        self._node = node
        context = node.context
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)  # less to wait for
        subscription = node.create_subscription(
            TaskProgress, topic, self._on_progress, QOS, event_callbacks=quiet, raw=True
        )
        self._newest: tuple[bytes, float] | None = None
        self._seen = Seen(
            topic=subscription.topic_name,
            domain=context.get_domain_id(),
            discovery=os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", ""),
            started_s=time.monotonic(),
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, QOS, event_callbacks=quiet)
        node.create_timer(1.0, self._look, clock=rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME))

    @property
    def seen(self) -> Seen:
        """What was seen until now."""
        if self._newest is not None:
            data, arrived_s = self._newest
            self._newest = None
            self._seen.take_progress(deserialize_message(data, TaskProgress), arrived_s)
        return self._seen

    def _on_progress(self, data: bytes) -> None:
        now_s = time.monotonic()
        if not self._seen.publishers:
            self._look()
        self._seen.count(now_s)
        self._newest = data, now_s
        if now_s - self._seen.arrived_s >= HISTORY_STEP_S:
            self.seen  # noqa: B018 (a point of the history)

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        self._seen.take_diagnostics(array.status, time.monotonic())

    def _look(self) -> None:
        """Who publishes: a name comes a little after its publisher is discovered."""
        found = self._node.get_publishers_info_by_topic(self._seen.topic)
        names = [f"{i.node_namespace.rstrip('/')}/{i.node_name}" for i in found if "UNKNOWN" not in i.node_name]
        self._seen.take_publishers(names)


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


def _parser() -> argparse.ArgumentParser:
    def positive(text: str) -> float:
        value = float(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return value

    parser = argparse.ArgumentParser(
        prog="python -m pi05_progress_ros.monitor",
        description="Watch the progress of a robot's task in the terminal. q or Ctrl-C ends it.",
        epilog="ROS arguments follow --ros-args, such as: --ros-args -r __ns:=/robot1",
    )
    parser.add_argument(
        "--once", action="store_true", help="print one message as YAML, as `ros2 topic echo --once` does, and exit"
    )
    parser.add_argument(
        "--timeout", type=positive, default=10.0, metavar="S", help="how long --once waits, s (default: %(default)g)"
    )
    parser.add_argument("--topic", default="task_progress", help="TaskProgress topic (default: %(default)s)")
    parser.add_argument("--namespace", default="", help="the policy node's namespace")
    text = f"pictures (default: {SCREEN_RATE_HZ:g}) or lines (default: {LOG_RATE_HZ:g}) per second"
    parser.add_argument("--rate", type=positive, metavar="HZ", help=text)
    parser.add_argument("--seconds", type=positive, metavar="S", help="end by itself after so long")
    parser.add_argument("--plain", action="store_true", help="lines of text instead of a screen, as without a terminal")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="save the last picture there, 100 cells wide")
    return parser


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
            args = _parser().parse_args(remove_ros_args(argv)[1:])
            rclpy.init(args=argv, context=context, signal_handler_options=SignalHandlerOptions.NO)
            node = Node(
                f"progress_monitor_{os.getpid()}",
                namespace=args.namespace or None,
                context=context,
                enable_rosout=False,
                start_parameter_services=False,
            )
            monitor = Monitor(node, args.topic)
        except (NameValidationException, ValueError, RuntimeError) as error:
            print(f"monitor: {error}", file=sys.stderr)
            context.try_shutdown()
            return 2
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)

        def spin(seconds: float) -> None:
            executor.spin_once(timeout_sec=seconds)

        try:
            if args.once:
                return _print_once(monitor, spin, stop, args.timeout)
            show(
                monitor, spin, lambda: stop.is_set() or not context.ok(), seconds=args.seconds, rate_hz=args.rate,
                plain=args.plain, force_ascii=args.ascii,
            )  # fmt: skip
            if args.svg:
                lines = view(monitor.seen, time.monotonic(), 100, 40, pick_charset(sys.stdout, {}, args.ascii))
                save_svg(lines, args.svg, "python -m pi05_progress_ros.monitor")
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
