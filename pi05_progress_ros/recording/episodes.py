"""Episodes as the recorder writes them: begun, marked, ended or broken off, each a bag, and told of as events.

Used by one thread, the executor's.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node
from rclpy.serialization import serialize_message
from rosbags.interfaces import Connection
from rosbags.typesys.store import Typestore

from pi05_progress.errors import UserError
from pi05_progress_msgs.msg import EpisodeEvent

from ..cameras.message_class import message_class
from ..inputs import same_kind
from .bag_writer import BagWriter, type_name
from .topics import EVENTS

SLOW_SHARE = 0.7  # a rate below this share of the profile's is reported
FAST_SHARE = 1.5  # and one above this share, too: two senders, probably


@dataclass
class Topic:
    """One recorded topic; counters of the present episode and of the present watch period."""

    name: str  # under which it is recorded: the profile's, by which converters know it
    kind: type
    required: bool = False  # whether an episode without it is of no use
    # lowest and highest usual rate; 0 and infinity where nothing is known
    expected_hz: tuple[float, float] = (0.0, math.inf)
    connection: Connection | None = None  # of the episode's bag; None until its first message
    total: int = 0  # messages of the present episode
    recent: int = 0  # messages since the last look; also between episodes
    rate_hz: float = 0.0
    lost: int = 0  # messages that the middleware says it lost
    warned: str = ""  # what was wrong with its rate at the last look
    heard: str = ""  # its name after remapping, for people

    def __post_init__(self) -> None:
        self.heard = self.heard or self.name

    def begin_episode(self) -> None:
        """Count anew, for another bag."""
        self.connection, self.total, self.lost, self.warned = None, 0, 0, ""

    def rate_problem(self) -> str:
        """What is wrong with the rate at the last look; empty if nothing is."""
        low, high = self.expected_hz
        if not self.rate_hz:
            return "silent"
        if self.rate_hz < SLOW_SHARE * low:
            return f"at {self.rate_hz:.0f} Hz, expected {low:g} Hz or more"
        if self.rate_hz > FAST_SHARE * high:
            return f"at {self.rate_hz:.0f} Hz, expected {high:g} Hz or less: is there a second sender?"
        return ""


class Traffic:
    """What comes on all recorded topics: counted per episode, and judged by its rate."""

    def __init__(self, topics: Iterable[Topic]) -> None:
        self.topics: Sequence[Topic] = list(topics)
        self._looked_s = time.monotonic()

    def begin_episode(self) -> None:
        """Count messages of another episode."""
        for topic in self.topics:
            topic.begin_episode()

    @property
    def messages(self) -> int:
        """How many came in the present episode."""
        return sum(topic.total for topic in self.topics)

    def silent(self) -> str:
        """What there is to say about required topics on which nothing came lately; empty if nothing."""
        silent = [topic.heard for topic in self.topics if topic.required and not topic.recent and not topic.rate_hz]
        return f"nothing comes on {', '.join(silent)}" if silent else ""

    def absent(self) -> list[str]:
        """Names of required topics on which nothing came in the present episode."""
        return [topic.heard for topic in self.topics if topic.required and not topic.total]

    def lost(self) -> dict[str, int]:
        """How many messages the middleware lost in the present episode, by topic."""
        return {topic.heard: topic.lost for topic in self.topics if topic.lost}

    def look(self) -> None:
        """Measure rates since the last look."""
        now = time.monotonic()
        since, self._looked_s = now - self._looked_s, now
        for topic in self.topics:
            topic.rate_hz, topic.recent = topic.recent / since, 0

    def changes(self) -> list[tuple[bool, str]]:
        """What the last look says about required topics that was not said before, and whether it is good news."""
        found = []
        for topic in self.topics:
            problem = topic.rate_problem() if topic.required else ""
            if problem and not same_kind(problem, topic.warned):
                found.append((False, f"{topic.heard} is {problem}"))
            elif topic.warned and not problem:
                found.append((True, f"{topic.heard} is at {topic.rate_hz:.0f} Hz again"))
            topic.warned = problem
        return found


def further_topic(text: str) -> Topic:
    """A topic given as ``NAME:PACKAGE/msg/TYPE``; a ``UserError`` if it is none, or the type is not installed."""
    name, _, kind = text.rpartition(":")
    if not name.startswith("/"):
        raise UserError(f"parameter topics: {text!r} is refused, expected /NAME:PACKAGE/msg/TYPE")
    return Topic(name, message_class(kind))


@dataclass
class OpenEpisode:
    """The episode being recorded; ``began_s`` is monotonic."""

    id: str
    task: str
    bag: BagWriter
    began_s: float


class Episodes:
    """Records one episode after the other."""

    def __init__(self, node: Node, robot: str, output: Path, store: Typestore, traffic: Traffic) -> None:
        self.current: OpenEpisode | None = None
        self.output = output
        self._node, self._robot, self._store, self._traffic = node, robot, store, traffic
        self._count = 0
        self._events = node.create_publisher(EpisodeEvent, EVENTS, 50)
        self._event_topic = Topic(self._events.topic_name, EpisodeEvent)

    # --- from its beginning to its end ---

    def start(self, task: str) -> str:
        """Begin an episode; returns why not, empty if it was begun."""
        if self.current:
            return f"episode {self.current.id} is being recorded: end it first"
        if not task.strip():
            return "no task: give the instruction, for button presses as parameter task"
        if problem := self.disk_problem():
            return problem
        self._count += 1
        robot = re.sub(r"[^A-Za-z0-9]+", "_", self._robot)
        name = f"{robot}_{time.strftime('%Y%m%d_%H%M%S')}_{self._count:03d}"
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            bag = BagWriter(self.output / name, self._store)
        except OSError as error:
            return f"{self.output}: cannot be written: {error}"
        self._traffic.begin_episode()
        self._event_topic.begin_episode()
        self.current = OpenEpisode(name, task.strip(), bag, time.monotonic())
        self._tell(EpisodeEvent.START)
        self._node.get_logger().info(f"recording {name}: {task}")
        if silent := self._traffic.silent():
            self._node.get_logger().warning(silent)
        return ""

    def mark(self, label: str) -> None:
        """A milestone of the present episode has been reached."""
        self._tell(EpisodeEvent.MILESTONE, label=label)

    def finish(self, outcome: int, note: str) -> tuple[bool, str]:
        """End the present episode; returns whether its bag is complete, and what there is to say about it."""
        episode, logger = self.current, self._node.get_logger()
        self._tell(EpisodeEvent.STOP, outcome, note)
        if self.current is None:  # the last write failed
            return False, f"episode {episode.id} is incomplete: {episode.bag.partial}"
        self.current = None
        seconds = time.monotonic() - episode.began_s
        try:
            path = episode.bag.finish()
        except OSError as error:
            text = f"episode {episode.id} could not be completed: {error}; what was written is {episode.bag.partial}"
            logger.error(text)
            return False, text
        text = f"{path}: {seconds:.1f} s, {self._traffic.messages} messages"
        if lost := self._traffic.lost():
            text += f"; lost on the way: {', '.join(f'{count} of {name}' for name, count in lost.items())}"
        if absent := self._traffic.absent():
            text += f"; NOTHING came on {', '.join(absent)}"
            logger.error(text)
        else:
            logger.info(text)
        return True, text

    def _break_off(self, reason: str) -> None:
        """Stop writing at once and keep what there is."""
        episode, self.current = self.current, None
        text = f"episode {episode.id} ended: {reason}; what was written is {episode.bag.partial}"
        self._node.get_logger().error(text)
        self._events.publish(self._event(episode, EpisodeEvent.STOP, EpisodeEvent.UNKNOWN, reason))

    def disk_problem(self) -> str:
        """What is wrong with the space that is left where bags are written; empty if nothing is."""
        folder = next(path for path in (self.output, *self.output.absolute().parents) if path.exists())
        free_gb = shutil.disk_usage(folder).free / 1e9
        limit = self._node.get_parameter("min_free_gb").value
        return f"only {free_gb:.1f} GB free at {folder}, min_free_gb is {limit:g}" if free_gb < limit else ""

    # --- what is written ---

    def store(self, topic: Topic, data: bytes, received_ns: int) -> None:
        """A serialised message has come; ``received_ns`` is when to the middleware, 0 where that is not known."""
        topic.recent += 1
        if self.current is None:
            return
        topic.total += 1
        clock = self._node.get_clock()
        now = clock.now().nanoseconds
        # The wall's time of reception, unless this node follows a simulation's.
        self._write(topic, (0 if clock.ros_time_is_active else received_ns) or now, data)

    def lose(self, topic: Topic, count: int) -> None:
        """The middleware has lost messages."""
        if self.current is not None:
            topic.lost += count

    def _write(self, topic: Topic, time_ns: int, data: bytes) -> None:
        bag = self.current.bag
        try:
            if topic.connection is None:
                topic.connection = bag.add_topic(topic.name, type_name(topic.kind))
            bag.write(topic.connection, time_ns, data)
        except OSError as error:
            self._break_off(f"writing failed: {error}")

    def _tell(self, event: int, outcome: int = EpisodeEvent.UNKNOWN, label: str = "") -> None:
        """Publish an event of the present episode, and write it into its bag."""
        message = self._event(self.current, event, outcome, label)
        self._events.publish(message)
        self._write(self._event_topic, self._node.get_clock().now().nanoseconds, serialize_message(message))

    def _event(
        self, episode: OpenEpisode, event: int, outcome: int = EpisodeEvent.UNKNOWN, label: str = ""
    ) -> EpisodeEvent:
        message = EpisodeEvent(event=event, outcome=outcome, label=label, progress=float("nan"))
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.episode_id, message.task = episode.id, episode.task
        return message
