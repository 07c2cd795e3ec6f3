"""One bag with the messages of one simulated episode.

It looks like a ROS node to those who publish (``create_publisher``, ``get_logger``), so that the live robot's own
publishers fill it, but there is no DDS: messages are serialised and written.

rclpy's ``serialize_message`` appends undefined bytes after empty sequences of 8-byte numbers (it takes an estimate of
the size for the size), which strict readers refuse: publish messages whose sequences are filled.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message
from rosbags.typesys.store import Typestore

from ...recording.bag_writer import PARTIAL, BagWriter, type_name


class EpisodeBag:
    """A bag that is being written. Use it as a context manager; it is in place only if no exception was raised.

    Raises:
        FileExistsError: the folder is already there.
    """

    def __init__(self, path: Path, store: Typestore) -> None:
        shutil.rmtree(path.parent / PARTIAL / path.name, ignore_errors=True)  # of a run that was killed
        self._writer = BagWriter(path, store)
        self.time_ns = 0  # under which the next messages are stored

    def __enter__(self) -> EpisodeBag:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._writer.finish()
        else:
            self._writer.discard()

    def create_publisher(self, msg_type: type, topic: str, qos_profile: Any = None) -> _TopicWriter:
        """A topic of the bag; the QoS profile has no meaning here."""
        return _TopicWriter(self, self._writer.add_topic(topic, type_name(msg_type)))

    def get_logger(self) -> logging.Logger:
        """Python's logger instead of ROS's."""
        return logging.getLogger("episode")

    def write(self, connection: Any, message: Any) -> None:
        """Store a message under the present time."""
        self._writer.write(connection, self.time_ns, serialize_message(message))


class _TopicWriter:
    def __init__(self, bag: EpisodeBag, connection: Any) -> None:
        self._bag, self._connection = bag, connection

    def publish(self, message: Any) -> None:
        """Write one message."""
        self._bag.write(self._connection, message)
