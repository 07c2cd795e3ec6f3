"""Episodes as the recorder writes them: begun, marked, ended or broken off, each a bag, and told of as events.

Used by one thread, the executor's.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node
from rclpy.serialization import serialize_message
from rosbags.typesys.store import Typestore

from pi05_progress_msgs.msg import EpisodeEvent

from .bag_writer import BagWriter, type_name
from .topics import EVENTS
from .traffic import Topic, Traffic


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
