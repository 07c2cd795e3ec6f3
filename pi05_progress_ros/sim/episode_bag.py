"""One bag with the messages of one episode, written beside its place and moved there when it is complete.

It looks like a ROS node to those who publish (``create_publisher``, ``get_logger``), so that the live robot's own
publishers fill it, but there is no DDS: messages are serialised and written.

rclpy's ``serialize_message`` appends undefined bytes after empty sequences of 8-byte numbers (it takes an estimate of
the size for the size), which strict readers refuse: publish messages whose sequences are filled.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

PARTIAL = ".partial"  # folder beside the finished bags
BAG_VERSION = 9  # of metadata.yaml, as ROS 2 Jazzy writes it


def message_store() -> Typestore:
    """Types of ROS 2 Jazzy and of ``pi05_progress_msgs``, from the message files."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for path in sorted(_message_folder().glob("*.msg")):
        types |= get_types_from_msg(path.read_text(), f"pi05_progress_msgs/msg/{path.stem}")
    store.register(types)
    return store


def _message_folder() -> Path:
    checkout = Path(__file__).resolve().parents[2] / "pi05_progress_msgs" / "msg"
    if checkout.is_dir():
        return checkout
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("pi05_progress_msgs")) / "msg"


class EpisodeBag:
    """A bag that is being written. Use it as a context manager; it is in place only if no exception was raised.

    Args:
        path: the bag's folder; must not exist.
        store: from ``message_store``.

    Raises:
        FileExistsError: the folder is already there.
    """

    def __init__(self, path: Path, store: Typestore) -> None:
        self._path, self._store = path, store
        self._partial = path.parent / PARTIAL / path.name  # the file in a bag is named after its folder
        if path.exists():
            raise FileExistsError(f"{path} is already there")
        self._partial.parent.mkdir(exist_ok=True)
        if self._partial.exists():
            shutil.rmtree(self._partial)  # of a run that was killed
        self.time_ns = 0  # under which the next messages are stored

    def __enter__(self) -> EpisodeBag:
        self._writer = Writer(self._partial, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._writer.close()
        if kind is None:
            os.replace(self._partial, self._path)
        else:
            shutil.rmtree(self._partial, ignore_errors=True)

    def create_publisher(self, msg_type: type, topic: str, qos_profile: Any = None) -> _TopicWriter:
        """A topic of the bag; the QoS profile has no meaning here."""
        name = f"{msg_type.__module__.partition('.')[0]}/msg/{msg_type.__name__}"
        return _TopicWriter(self, self._writer.add_connection(topic, name, typestore=self._store))

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
