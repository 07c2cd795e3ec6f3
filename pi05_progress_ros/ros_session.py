"""ROS for a program of this package: its transport, and signals that only ask for the end.

rclpy's own handlers would end the context at once; here it stays valid until the program has said its last.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from pi05_progress.files.config_files import config_file

from .starting.processes import DISCOVERY, TRANSPORT, use_image_transport

END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
UNNAMED = "a node whose name is not known yet"
BUILTIN = "FASTDDS_BUILTIN_TRANSPORTS"  # read for every participant; FastDDS reads its profile once in a process
CHOICES = (BUILTIN, "ROS_STATIC_PEERS", "ROS_LOCALHOST_ONLY")  # of the user, which a profile of ours would not keep
_shared: dict[str, str] = {}  # variables under which a participant has shared memory, where others have none


@contextmanager
def ros_session(
    arguments: Sequence[str] | None = None,
    signals: Sequence[signal.Signals] = END_SIGNALS,
    context: rclpy.Context | None = None,
    commands: bool = False,
) -> Iterator[threading.Event]:
    """rclpy, initialised within the context; yields an event that the given signals set.

    Args:
        arguments: of the program, with its name; those of the process by default.
        signals: that ask for the end; in another thread than the main one they are the caller's.
        context: one of its own, beside other uses of ROS in this process, whose signal handlers come back at the end.
        commands: whether the program commands a robot: then it uses UDP alone, unless the user has chosen otherwise.
    """
    use_image_transport()
    if commands:
        _send_by_udp()
    rclpy.init(args=arguments, context=context, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in signals if in_main}
    for number in before:  # while Python ends: `ros2 launch` sends after a terminal's Ctrl-C another one
        atexit.register(signal.signal, number, signal.SIG_IGN)
    try:
        yield stop
    finally:
        rclpy.try_shutdown(context=context)
        for number, handler in before.items() if context else ():
            signal.signal(number, handler)


def _send_by_udp() -> None:
    """Keep what is sent out of shared memory, where a killed program's locks stop senders: see docs/commanding.md."""
    ours = os.environ[TRANSPORT] == str(config_file("fastdds.xml"))
    fastdds = rclpy.get_rmw_implementation_identifier() == "rmw_fastrtps_cpp"
    if not (ours and fastdds) or any(map(os.environ.get, CHOICES)):
        return
    here = os.environ.get(DISCOVERY) == "LOCALHOST"  # in which ROS gives shared memory to every participant
    _shared.update({BUILTIN: "SHM"} | ({DISCOVERY: "LOCALHOST"} if here else {}))
    os.environ.update({BUILTIN: "NONE"} | ({DISCOVERY: "SYSTEM_DEFAULT"} if here else {}))
    os.environ[TRANSPORT] = str(config_file("fastdds_udp_localhost.xml" if here else "fastdds_udp.xml"))


@contextmanager
def shared_memory() -> Iterator[bool]:
    """Let a participant that is made within have shared memory; yields whether others have none. By one thread only."""
    before = {name: os.environ[name] for name in _shared}
    os.environ.update(_shared)
    try:
        yield bool(_shared)
    finally:
        os.environ.update(before)


@contextmanager
def onlooker(name: str, **options: Any) -> Iterator[tuple[Node, Callable[[float], None]]]:
    """The node of a program that looks on, and what lets its callbacks run for at most so many seconds."""
    node = Node(name, enable_rosout=False, start_parameter_services=False, **options)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    try:
        yield node, lambda seconds: executor.spin_once(timeout_sec=seconds)
    finally:
        executor.shutdown()
        node.destroy_node()


def publisher_names(node: Node, topic: str) -> list[str]:
    """Full names of the nodes that publish a topic, sorted; a name is known a little later than its publisher."""
    infos = node.get_publishers_info_by_topic(topic)
    named = ((f"{i.node_namespace.rstrip('/')}/{i.node_name}", "UNKNOWN" not in i.node_name) for i in infos)
    return sorted(name if known else UNNAMED for name, known in named)


def to_time(nanoseconds: int) -> Time:
    """A stamp from ns."""
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def end_at_once(status: int) -> NoReturn:
    """End this process with a status, whatever its other threads do: one that computes outside Python hears nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def spin(node: Node, stop: threading.Event, executor: SingleThreadedExecutor | None = None) -> None:
    """Run a node's callbacks in this thread until the end is asked for, or ROS ends; by an executor of one's own."""
    executor = executor or SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
