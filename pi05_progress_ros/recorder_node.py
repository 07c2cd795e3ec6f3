"""Records episodes, one MCAP bag each: started and ended by services, or by the operator's buttons.

Needs no rosbag2: messages are taken as bytes and written with their definitions, under the time at which they arrived.
Everything runs in one thread, the executor's. A recording ends by itself before the disk is full.
"""

from __future__ import annotations

import importlib
import math
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from rosbags.interfaces import Connection
from sensor_msgs.msg import Joy

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.yaml_lines import ConfigError
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_msgs.srv import MarkMilestone, StartEpisode, StopEpisode

from .parameters import ParameterError, declare, refuse_unknown
from .recording.bag_writer import PARTIAL, BagWriter, UnknownTypeError, learn_type, message_store, type_name
from .recording.topics import EVENTS, recorded_topics
from .transport import use_image_transport

WATCH_S = 1.0  # between looks at rates and at the disk
SLOW_SHARE = 0.7  # a rate below this share of the profile's is reported
FAST_SHARE = 1.5  # and one above this share, too: two senders, probably
COMMANDS = ("teleoperation", "policy", "none")
ABORTED = "aborted: "  # begins the note of an episode that was not ended on purpose


@dataclass
class Topic:
    """One recorded topic; counters of the present episode and of the present watch period.

    Attributes:
        required: whether an episode without it is of no use.
        expected_hz: lowest and highest usual rate; 0 and infinity where nothing is known.
        recent, rate_hz: messages since the last look, and the rate of then; also between episodes.
        lost: messages that the middleware says it lost.
        warned: what was wrong with its rate at the last look.
    """

    name: str
    kind: type
    required: bool = False
    expected_hz: tuple[float, float] = (0.0, math.inf)
    connection: Connection | None = None
    total: int = 0
    recent: int = 0
    rate_hz: float = 0.0
    lost: int = 0
    warned: str = ""

    def rate_problem(self, rate_hz: float) -> str:
        """What is wrong with a rate; empty if nothing is."""
        low, high = self.expected_hz
        if not rate_hz:
            return "silent"
        if rate_hz < SLOW_SHARE * low:
            return f"at {rate_hz:.0f} Hz, expected {low:g} Hz or more"
        if rate_hz > FAST_SHARE * high:
            return f"at {rate_hz:.0f} Hz, expected {high:g} Hz or less: is there a second sender?"
        return ""


@dataclass
class Episode:
    """The episode being recorded."""

    id: str
    task: str
    bag: BagWriter
    began_s: float  # monotonic


def message_class(name: str) -> type:
    """The class of a message type ``package/msg/Name``.

    Raises:
        ParameterError: no such type is installed.
    """
    try:
        package, kind, message = name.split("/")
        return getattr(importlib.import_module(f"{package}.{kind}"), message)
    except (ValueError, ImportError, AttributeError) as error:
        raise ParameterError(f"message type {name!r} is not installed or no type: {error}") from error


class RecorderNode(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("recorder")
        declare(self, "robot", "teleavatar", "robot profile: a name, or the path of a YAML file")
        declare(self, "output", "recordings", "folder of the bags, one folder in it per episode")
        text = "instruction of episodes that the operator's button starts"
        declare(self, "task", "", text, read_only=False)
        declare(self, "images", "raw", "which form of Image topics: raw, or compressed (<topic>/compressed)")
        declare(self, "topics", [""], "further topics, each as NAME:PACKAGE/msg/TYPE")
        text = "whose commands an episode is of no use without: teleoperation, policy, none"
        declare(self, "commands", "teleoperation", text)
        text = "free space, GB, below which nothing is recorded"
        declare(self, "min_free_gb", 2.0, text, between=(0.0, 10_000.0), read_only=False)
        refuse_unknown(self)
        self._profile = RobotProfile.load(self._get("robot"))
        if self._get("images") not in ("raw", "compressed"):
            raise ParameterError(f"parameter images: {self._get('images')!r} is refused, expected raw or compressed")
        if self._get("commands") not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise ParameterError(f"parameter commands: {self._get('commands')!r} is refused, expected one of {known}")
        self._output = Path(self._get("output")).expanduser()
        self._store = message_store()
        images, commands, events = self._get("images"), self._get("commands"), self.resolve_topic_name(EVENTS)
        self._topics = [
            Topic(topic.name, message_class(topic.type), topic.required, topic.expected_hz)
            for topic in recorded_topics(self._profile, self.get_namespace(), images, commands)
            if topic.name != events  # what this node publishes it writes itself
        ]
        self._topics += [further_topic(text) for text in self._get("topics") if text]
        for topic in self._topics:  # now, not when its first message comes in the middle of an episode
            learn_type(self._store, type_name(topic.kind))
        self._episode: Episode | None = None
        self._count, self._pressed, self._watched_s = 0, {}, time.monotonic()
        self._report_leftovers()
        self._events = self.create_publisher(EpisodeEvent, EVENTS, 50)
        self._event_topic = Topic(self._events.topic_name, EpisodeEvent)
        self._subscribe()
        self.create_service(StartEpisode, "~/start_episode", self._on_start)
        self.create_service(StopEpisode, "~/stop_episode", self._on_stop)
        self.create_service(MarkMilestone, "~/mark_milestone", self._on_milestone)
        clock = rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)
        self.create_timer(WATCH_S, self._watch, clock=clock)
        self.get_logger().info(f"ready for {self._profile.name}: {len(self._topics)} topics into {self._output}")

    def _get(self, name: str) -> object:
        return self.get_parameter(name).value

    def _report_leftovers(self) -> None:
        if left := sorted(path.name for path in (self._output / PARTIAL).glob("*")):
            text = f"left by a recorder that was killed, readable but without index: {', '.join(left)}"
            self.get_logger().warning(f"{self._output / PARTIAL}: {text}")

    def _subscribe(self) -> None:
        # Best effort takes what reliable and best-effort publishers send; the queue holds while the disk is busy.
        qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
        for topic in self._topics:
            # Two arguments: rclpy then tells when the middleware received it, before it waited in the queue.
            def store(data: bytes, info: dict[str, int], topic: Topic = topic) -> None:
                self._store_message(topic, data, info)

            events = SubscriptionEventCallbacks(message_lost=lambda status, t=topic: self._on_lost(t, status))
            self.create_subscription(topic.kind, topic.name, store, qos, raw=True, event_callbacks=events)
        self.create_subscription(Joy, self._profile.marks.topic, self._on_buttons, 10)

    # --- what is written ---

    def _store_message(self, topic: Topic, data: bytes, info: dict[str, int]) -> None:
        topic.recent += 1
        if self._episode is None:
            return
        topic.total += 1
        now = self.get_clock().now().nanoseconds
        # The wall's time of reception, unless this node follows a simulation's.
        received = 0 if self.get_clock().ros_time_is_active else info.get("received_timestamp", 0)
        self._write(topic, received or now, data)

    def _on_lost(self, topic: Topic, status: Any) -> None:
        if self._episode is not None:
            topic.lost += status.total_count_change

    def _write(self, topic: Topic, time_ns: int, data: bytes) -> None:
        bag = self._episode.bag
        try:
            if topic.connection is None:
                topic.connection = bag.add_topic(topic.name, type_name(topic.kind))
            bag.write(topic.connection, time_ns, data)
        except OSError as error:
            self._abandon(f"writing failed: {error}")

    def _event(self, event: int, outcome: int = EpisodeEvent.UNKNOWN, label: str = "") -> None:
        message = EpisodeEvent(event=event, outcome=outcome, label=label, progress=float("nan"))
        message.header.stamp = self._now()
        message.episode_id, message.task = self._episode.id, self._episode.task
        self._events.publish(message)
        self._write(self._event_topic, self.get_clock().now().nanoseconds, serialize_message(message))

    def _now(self) -> Time:
        return self.get_clock().now().to_msg()

    # --- episodes ---

    def _start(self, task: str) -> str:
        """Begin an episode; returns why not, empty if it was begun."""
        if self._episode:
            return f"episode {self._episode.id} is being recorded: end it first"
        if not task.strip():
            return "no task: give the instruction, for button presses as parameter task"
        if problem := self._disk_problem():
            return problem
        self._count += 1
        name = f"{re.sub(r'[^A-Za-z0-9]+', '_', self._profile.name)}_{time.strftime('%Y%m%d_%H%M%S')}_{self._count:03d}"
        try:
            self._output.mkdir(parents=True, exist_ok=True)
            bag = BagWriter(self._output / name, self._store)
        except OSError as error:
            return f"{self._output}: cannot be written: {error}"
        for topic in (*self._topics, self._event_topic):
            topic.connection, topic.total, topic.lost, topic.warned = None, 0, 0, ""
        self._episode = Episode(name, task.strip(), bag, time.monotonic())
        self._event(EpisodeEvent.START)
        self.get_logger().info(f"recording {name}: {task}")
        if silent := self._silent():
            self.get_logger().warning(silent)
        return ""

    def _silent(self) -> str:
        """Which required topics nothing came on lately."""
        names = [topic.name for topic in self._topics if topic.required and not topic.recent and not topic.rate_hz]
        return f"nothing comes on {', '.join(names)}" if names else ""

    def _finish(self, outcome: int, note: str) -> tuple[bool, str]:
        """End the episode; returns whether its bag is complete, and what there is to say about it."""
        episode = self._episode
        self._event(EpisodeEvent.STOP, outcome, note)
        if self._episode is None:  # the last write failed
            return False, f"episode {episode.id} is incomplete: {episode.bag.partial}"
        self._episode = None
        seconds = time.monotonic() - episode.began_s
        try:
            path = episode.bag.finish()
        except OSError as error:
            text = f"episode {episode.id} could not be completed: {error}; what was written is {episode.bag.partial}"
            self.get_logger().error(text)
            return False, text
        absent = [topic.name for topic in self._topics if topic.required and not topic.total]
        messages = sum(topic.total for topic in self._topics)
        text = f"{path}: {seconds:.1f} s, {messages} messages"
        if lost := {topic.name: topic.lost for topic in self._topics if topic.lost}:
            text += f"; lost on the way: {', '.join(f'{count} of {name}' for name, count in lost.items())}"
        if absent:
            text += f"; NOTHING came on {', '.join(absent)}"
            self.get_logger().error(text)
        else:
            self.get_logger().info(text)
        return True, text

    def _abandon(self, reason: str) -> None:
        """Stop writing at once and keep what there is."""
        episode, self._episode = self._episode, None
        self.get_logger().error(f"episode {episode.id} ended: {reason}; what was written is {episode.bag.partial}")
        message = EpisodeEvent(event=EpisodeEvent.STOP, episode_id=episode.id, task=episode.task, label=reason)
        message.header.stamp, message.progress = self._now(), float("nan")
        self._events.publish(message)

    def end(self) -> None:
        """Complete an episode that is open when the node ends."""
        if self._episode:
            self._finish(EpisodeEvent.UNKNOWN, f"{ABORTED}the recorder was stopped")

    # --- services and buttons ---

    def _on_start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> StartEpisode.Response:
        problem = self._start(request.task)
        response.accepted = not problem
        response.episode_id = self._episode.id if response.accepted and self._episode else ""
        silent = self._silent() if response.accepted else ""
        response.message = problem or f"recording {response.episode_id}" + (f"; WARNING: {silent}" if silent else "")
        return response

    def _on_stop(self, request: StopEpisode.Request, response: StopEpisode.Response) -> StopEpisode.Response:
        known = (EpisodeEvent.UNKNOWN, EpisodeEvent.SUCCESS, EpisodeEvent.FAILURE)
        if self._episode is None:
            response.message = "no episode is being recorded"
        elif request.outcome not in known:
            response.message = f"outcome {request.outcome}: expected 0 (unknown), 1 (success) or 2 (failure)"
        else:
            response.episode_id = self._episode.id
            response.accepted, response.message = self._finish(request.outcome, request.note)
        return response

    def _on_milestone(self, request: MarkMilestone.Request, response: MarkMilestone.Response) -> MarkMilestone.Response:
        if self._episode is None:
            response.message = "no episode is being recorded: start one first"
        elif not request.label.strip():
            response.message = "the label is empty: name the milestone, e.g. grasped"
        else:
            response.accepted, response.episode_id = True, self._episode.id
            self._event(EpisodeEvent.MILESTONE, label=request.label.strip())
            response.message = f"milestone {request.label.strip()}"
        return response

    def _on_buttons(self, message: Joy) -> None:
        """Rising edges of the operator's buttons; the button that stops leaves the outcome open."""
        marks = self._profile.marks
        for button, act in ((marks.start_button, self._press_start), (marks.stop_button, self._press_stop)):
            down = button < len(message.buttons) and bool(message.buttons[button])
            if down and not self._pressed.get(button, True):
                act()
            self._pressed[button] = down

    def _press_start(self) -> None:
        if problem := self._start(str(self._get("task"))):
            self.get_logger().warning(f"the start button has no effect: {problem}")

    def _press_stop(self) -> None:
        if self._episode is None:
            self.get_logger().warning("the stop button has no effect: no episode is being recorded")
        else:
            self._finish(EpisodeEvent.UNKNOWN, "")

    # --- watch ---

    def _disk_problem(self) -> str:
        folder = next(path for path in (self._output, *self._output.absolute().parents) if path.exists())
        free_gb = shutil.disk_usage(folder).free / 1e9
        limit = self._get("min_free_gb")
        return f"only {free_gb:.1f} GB free at {folder}, min_free_gb is {limit:g}" if free_gb < limit else ""

    def _watch(self) -> None:
        now = time.monotonic()
        since, self._watched_s = now - self._watched_s, now
        for topic in self._topics:
            topic.rate_hz, topic.recent = topic.recent / since, 0
        if self._episode is None:
            return
        if problem := self._disk_problem():
            self.get_logger().error(f"the episode is ended before the disk is full: {problem}")
            self._finish(EpisodeEvent.UNKNOWN, f"{ABORTED}{problem}")
            return
        for topic in self._topics:
            problem = topic.rate_problem(topic.rate_hz) if topic.required else ""
            if problem and (not topic.warned or (not topic.rate_hz and topic.warned != problem)):
                self.get_logger().warning(f"{topic.name} is {problem}")
            elif topic.warned and not problem:
                self.get_logger().info(f"{topic.name} is at {topic.rate_hz:.0f} Hz again")
            topic.warned = problem


def further_topic(text: str) -> Topic:
    """A topic given as ``NAME:PACKAGE/msg/TYPE``.

    Raises:
        ParameterError: it is none, or the type is not installed.
    """
    name, _, kind = text.rpartition(":")
    if not name.startswith("/"):
        raise ParameterError(f"parameter topics: {text!r} is refused, expected /NAME:PACKAGE/msg/TYPE")
    return Topic(name, message_class(kind))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    use_image_transport()
    # Signals only ask for the end: an open episode is completed first.
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))
    try:
        node = RecorderNode()
    except (ParameterError, ConfigError, UnknownTypeError) as error:
        print(f"recorder: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    try:
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not stopped:
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    finally:
        node.end()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
