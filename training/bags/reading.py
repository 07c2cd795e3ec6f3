"""One recording as a stream of messages: sqlite3 or MCAP, split or not, compressed or not, with or without metadata.

A recording is a folder that rosbag2 wrote, or a single ``.mcap`` or ``.db3`` file. It is only ever read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from backports import zstd
from rosbags.rosbag2.errors import ReaderError

from .faults import BagError, bag_errors_naming
from .mcap import ZSTD_MAGIC, ChunkReader
from .message_types import bag_types, deserialized
from .opening import Opening
from .recorder_clock import jumps_back

END_OF_TIME_NS = 1 << 62  # of receive times, in the year 2116: differences of such times fit into 64 bits


@dataclass(frozen=True)
class Topic:
    """What a recording holds of one topic."""

    name: str
    type: str
    count: int


class Stored(NamedTuple):
    """A serialised message and when it was received, ns since the epoch of the recorder's clock."""

    topic: str
    received_ns: int
    data: bytes | memoryview


class Bag:
    """An open recording. Use it as a context manager; one thread only.

    Args:
        path: from ``find_bags``.
        scratch: folder for decompressed files of recordings that are compressed as whole files; needed for those only.

    Attributes:
        topics: by name.
        notes: what is odd about the recording, for the report.
        cut_off: why its beginning or its end are known to be missing; empty if they are not.

    Raises:
        BagError: it cannot be read at all.
    """

    def __init__(self, path: Path, scratch: Path | None = None) -> None:
        self.path, self._scratch = path, scratch

    def __enter__(self) -> Bag:
        self._stack = ExitStack()
        try:
            with bag_errors_naming(self.path, "cannot be read"):
                opening = Opening(self.path, self._scratch, self._stack)
                self._readers = opening.readers()
                self.notes, self.cut_off = opening.notes, opening.cut_off
                self._connections = [c for reader in self._readers for c in reader.connections]
                self._types, self.type_problems = bag_types(self._connections)
                self.topics = self._topics()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def messages(
        self,
        topics: Collection[str],
        start_ns: int | None = None,
        stop_ns: int | None = None,
        heads: Collection[str] = (),
    ) -> Iterator[Stored]:
        """Messages of these topics received in [start, stop), in order of reception within each file.

        Args:
            topics: names.
            start_ns, stop_ns: times of reception.
            heads: topics of whose messages the beginning is enough; one may get more.

        Raises:
            BagError: the file is damaged.
        """
        for storage in self._storages():
            if isinstance(storage, ChunkReader):
                storage.heads = frozenset(heads)
        with bag_errors_naming(self.path):
            for reader in self._readers:
                wanted = [c for c in reader.connections if c.topic in topics]
                if not wanted:
                    continue
                for connection, received_ns, data in reader.messages(wanted, start_ns, stop_ns):
                    if not isinstance(received_ns, int) or not 0 <= received_ns < END_OF_TIME_NS:
                        raise ReaderError(f"a message was received at {received_ns!r}")
                    if data[:4] == ZSTD_MAGIC:  # one by one compressed, and no metadata said so
                        data = zstd.decompress(data)
                    yield Stored(connection.topic, received_ns, data)

    def deserialize(self, message: Stored) -> Any:
        """The message as an object with the type's fields.

        Raises:
            BagError: its type is unknown, or the bytes do not fit it.
        """
        name = self.topics[message.topic].type
        if name in self.type_problems:
            raise BagError(f"{message.topic} is of type {name}, which cannot be read: {self.type_problems[name]}")
        try:
            return deserialized(self._types, message.data, name)
        except Exception as error:  # whatever reading past an end leads to
            raise BagError(f"{message.topic}: a message cannot be read as {name}: {error}") from error

    def jumps_back(self) -> list[tuple[int, int]]:
        """Receive times, ns, that were recorded twice because the recorder's clock was set back: (from, to).

        Raises:
            BagError: the file is damaged.
        """
        with bag_errors_naming(self.path):
            return jumps_back(self._storages())

    def _topics(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        for name in dict.fromkeys(c.topic for c in self._connections):
            connections = [c for c in self._connections if c.topic == name]
            types = sorted({c.msgtype for c in connections})
            if len(types) > 1:
                self.type_problems["/".join(types)] = f"the topic has several types: {', '.join(types)}"
            topics[name] = Topic(name, "/".join(types), sum(c.msgcount for c in connections))
        return topics

    def _storages(self) -> list[Any]:
        """The readers of single files."""
        return [storage for reader in self._readers for storage in getattr(reader, "storages", [reader])]
