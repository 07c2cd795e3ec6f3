"""One recording as a stream of messages: sqlite3 or MCAP, split or not, compressed or not, with or without metadata.

A recording is a folder that rosbag2 wrote, or a single ``.mcap`` or ``.db3`` file. It is only ever read.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backports import zstd

from .faults import UnreadableError, bag_errors_naming
from .mcap import ZSTD_MAGIC
from .message_types import Channel, Stored, Types
from .opening import Opening, StorageFile

END_OF_TIME_NS = 1 << 62  # of receive times, in the year 2116: differences of such times fit into 64 bits
BACK_NS = 500_000_000  # messages are stored in order of arrival up to this; further back is a jump of the clock


@dataclass(frozen=True)
class Topic:
    """What a recording holds of one topic; ``used`` is whether there are any messages."""

    name: str
    type: str
    used: bool


class Bag:
    """An open recording, whose files are copied to ``scratch`` where they cannot be read as they lie.

    Use it as a context manager; one thread only.

    Attributes:
        topics: by name.
        notes: what is odd about the recording, for the report.
        cut_off: why its beginning or its end are known to be missing; empty if they are not.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path, self._scratch = path, scratch

    def __enter__(self) -> Bag:
        self._stack = ExitStack()
        try:
            with bag_errors_naming(self.path, "cannot be read"):
                opening = Opening(self.path, self._scratch, self._stack)
                self._files = opening.files()
                self.notes, self.cut_off = opening.notes, opening.cut_off
                self._find_topics()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _find_topics(self) -> None:
        own: dict[str, list[Channel]] = {}
        for channel in (channel for file in self._files for channel in file.channels):
            kind = channel.type.replace("/", "/msg/") if channel.type.count("/") == 1 else channel.type  # an old name
            kind += "" if channel.encoding in ("", "cdr") else f" encoded as {channel.encoding}, not as cdr"
            own.setdefault(channel.topic, []).append(channel._replace(type=kind))
        self.topics: dict[str, Topic] = {}
        for name, channels in own.items():
            types = " and ".join(sorted({channel.type for channel in channels}))
            self.topics[name] = Topic(name, types, any(channel.used for channel in channels))
        self._types = Types(channel for channels in own.values() for channel in channels)

    def messages(
        self,
        topics: Collection[str],
        start_ns: int | None = None,
        stop_ns: int | None = None,
        heads: Collection[str] = (),
    ) -> Iterator[Stored]:
        """Messages of these topics received in [start, stop), in order of reception within each file.

        Of those of ``heads`` the beginning is enough; one may get more.
        """
        with bag_errors_naming(self.path):
            # Files that were written at once hold different topics; of those with the same, one follows the other.
            parts = [
                (message for file in files for message in file.messages(topics, start_ns, stop_ns, heads))
                for files in self._side_by_side(topics)
            ]
            for topic, received_ns, data in heapq.merge(*parts, key=_received) if len(parts) > 1 else parts[0]:
                _received(Stored(topic, received_ns, data))
                if data[:4] == ZSTD_MAGIC:  # one by one compressed
                    data = zstd.decompress(data)
                yield Stored(topic, received_ns, data)

    def _side_by_side(self, wanted: Collection[str]) -> list[list[StorageFile]]:
        """The files in groups that share none of these topics: a recording that was split by topic."""
        groups: list[tuple[set[str], list[StorageFile]]] = []
        for file in self._files:
            topics, files = {channel.topic for channel in file.channels if channel.used}.intersection(wanted), [file]
            for group in [group for group in groups if group[0] & topics]:
                topics, files = topics | group[0], [*group[1], *files]
                groups.remove(group)
            groups.append((topics, files))
        return [sorted(files, key=self._files.index) for _, files in groups]

    def deserialize(self, message: Stored) -> Any:
        """The message as an object; an ``UnreadableError`` if its bytes do not fit a type that is known."""
        name = self.topics[message.topic].type
        try:
            return self._types.read(message.data, name)
        except Exception as error:  # whatever reading past an end leads to
            raise UnreadableError(f"{message.topic}: a message cannot be read as {name}: {error}") from error

    def type_notes(self, topics: Collection[str]) -> list[str]:
        """What is odd about the definitions of these topics' types."""
        return self._types.notes({self.topics[topic].type for topic in topics})

    def jumps_back(self, topics: Collection[str]) -> list[tuple[int, int]]:
        """Receive times, ns, that were recorded twice because the recorder's clock was set back: (from, to).

        Files that share none of these topics may well have been written at once.
        """
        with bag_errors_naming(self.path):
            return [jump for files in self._side_by_side(topics) for jump in _jumps_back(files)]


def _received(message: Stored) -> int:
    time_ns = message.received_ns
    if not isinstance(time_ns, int) or not 0 <= time_ns < END_OF_TIME_NS:
        raise ValueError(f"a message was received at {time_ns!r}")
    return time_ns


def _jumps_back(files: Collection[StorageFile]) -> list[tuple[int, int]]:
    """The same for files of which one follows the other, by the order in which their messages were written."""
    jumps: list[tuple[int, int]] = []
    newest = -(2**63)
    for start, end in (times for file in files for times in file.written_times()):
        if start < newest - BACK_NS:
            until = newest
            if jumps and start <= jumps[-1][1]:  # still the same jump
                before = jumps.pop()
                start, until = min(start, before[0]), max(until, before[1])
            jumps.append((start, until))
        newest = max(newest, end)
    return jumps
