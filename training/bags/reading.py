"""One recording as a stream of messages: sqlite3 or MCAP, split or not, compressed or not, with or without metadata.

A recording is a folder that rosbag2 wrote, or a single ``.mcap`` or ``.db3`` file. It is only ever read.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from backports import zstd
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader
from rosbags.typesys.store import Typestore

from pi05_progress.files.output_file import output_file

from .faults import BagError, blamed, explained, of_the_machine
from .finding import METADATA, natural_order, storage_suffix
from .mcap import ZSTD_MAGIC, ChunkReader
from .message_types import bag_types
from .recovery import TruncatedMcapReader

BACK_NS = 500_000_000  # messages are stored in order of arrival up to this; further back is a jump of the clock
END_OF_TIME_NS = 1 << 62  # of receive times, in the year 2116: differences of such times fit into 64 bits
SPARE = 64  # bytes that may follow a message


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


class _FolderReader(DirectoryReader):
    STORAGE_PLUGINS = {"mcap": ChunkReader, "sqlite3": Sqlite3Reader}  # noqa: RUF012 (rosbags' own table, ours inside)


_FILE_READERS = {".mcap": ChunkReader, ".db3": Sqlite3Reader}


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
        self.notes: list[str] = []
        self.cut_off = ""

    def __enter__(self) -> Bag:
        self._stack = ExitStack()
        try:
            with blamed(self.path, "cannot be read"):
                self._readers = self._open()
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
        with blamed(self.path):
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
        jumps: list[tuple[int, int]] = []
        newest = -(2**63)
        with blamed(self.path):
            for start, end in (times for storage in self._storages() for times in _stored_order(storage)):
                if start < newest - BACK_NS:
                    until = newest
                    if jumps and start <= jumps[-1][1]:  # still the same jump
                        before = jumps.pop()
                        start, until = min(start, before[0]), max(until, before[1])
                    jumps.append((start, until))
                newest = max(newest, end)
        return jumps

    def _topics(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        for name in dict.fromkeys(c.topic for c in self._connections):
            connections = [c for c in self._connections if c.topic == name]
            types = sorted({c.msgtype for c in connections})
            if len(types) > 1:
                self.type_problems["/".join(types)] = f"the topic has several types: {', '.join(types)}"
            topics[name] = Topic(name, "/".join(types), sum(c.msgcount for c in connections))
        return topics

    def _open(self) -> list[Any]:
        if not self.path.is_dir():
            return self._open_files([self.path])
        found = sorted((p for p in self.path.iterdir() if p.is_file() and storage_suffix(p)), key=natural_order)
        files = list({_plain(file.name): file for file in reversed(found)}.values())[::-1]  # x.mcap before x.mcap.zstd
        if not (self.path / METADATA).exists():
            self.notes.append(f"no {METADATA}; its files are read in the order of their names")
            if files and storage_suffix(files[-1]) == ".db3":  # MCAP files say themselves whether they were ended
                self.cut_off = f"no {METADATA}, which a recorder writes when it ends"
            return self._open_files(files)
        if self._compressed_files():
            if missing := sorted(set(self._named()) - {_plain(file.name) for file in files}):
                self.notes.append(f"files named in {METADATA} are missing: {', '.join(missing)}")
            return self._open_files(files)
        try:
            return [self._opened(_FolderReader(self.path))]
        except Exception as error:
            if of_the_machine(error):
                raise
            self.notes.append(f"not as {METADATA} says ({explained(error)}); its files are read one by one")
            return self._open_files(files)

    def _opened(self, reader: Any) -> Any:
        reader.open()
        self._stack.callback(reader.close)
        return reader

    def _storages(self) -> list[Any]:
        """The readers of single files."""
        return [storage for reader in self._readers for storage in getattr(reader, "storages", [reader])]

    def _open_files(self, files: Sequence[Path]) -> list[Any]:
        """Readers of those files that can be read; what is the matter with others goes into the notes."""
        if not files:
            raise BagError(f"{self.path}: no .mcap or .db3 file in it")
        readers: dict[str, Any] = {}
        problems = []
        for file in files:
            try:
                with blamed(file, "cannot be read"):
                    readers[_plain(file.name)] = self._open_file(self._decompressed_file(file))
            except BagError as error:
                problems.append(str(error))
        if not readers:
            raise BagError("; ".join(problems))
        self.notes += problems
        names = self._named() or [_plain(file.name) for file in files]
        self.cut_off = _why_cut_off(names, readers) or self.cut_off
        return list(readers.values())

    def _open_file(self, file: Path) -> Any:
        """The file's reader; a damaged MCAP file is read as far as it goes."""
        if not file.stat().st_size:
            raise BagError(f"{file}: the file is empty")
        try:
            return self._opened(_FILE_READERS[file.suffix](file))
        except Exception as error:
            if of_the_machine(error) or file.suffix != ".mcap":
                raise
            try:
                reader = self._opened(TruncatedMcapReader(file))
            except Exception as second:
                raise BagError(
                    f"{file}: cannot be read: {explained(error)}. Nor record by record: {explained(second)}"
                ) from error
            count = f"{reader.metadata.message_count} messages are read from its complete records"
            self.notes.append(
                f"{file.name}: its summary cannot be used ({explained(error)}): {count}"
                if reader.ended
                else f"{file.name} has no proper end ({explained(error)}): {count}, {reader.lost_bytes} bytes after "
                "them are lost"
            )
            return reader

    def _facts(self) -> dict[str, Any]:
        """What the metadata say of the recording; nothing, where they cannot be read."""
        try:
            return dict(yaml.safe_load((self.path / METADATA).read_text())["rosbag2_bagfile_information"])
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
            return {}  # the reader says what is wrong with it

    def _named(self) -> list[str]:
        """Names of the recording's files as the metadata say, decompressed."""
        names = self._facts().get("relative_file_paths") if self.path.is_dir() else None
        return [_plain(Path(str(name)).name) for name in names] if isinstance(names, list) else []

    def _compressed_files(self) -> bool:
        """Whether the files are compressed as a whole."""
        return str(self._facts().get("compression_mode", "")).lower() == "file"

    def _decompressed_file(self, file: Path) -> Path:
        if file.suffix != ".zstd":
            return file
        if self._scratch is None:
            raise BagError(f"{file}: compressed as a whole file; a scratch folder is needed to read it")
        folder = self._scratch / hashlib.sha256(str(file.parent.resolve()).encode()).hexdigest()[:16]
        target = folder / file.stem
        if not target.exists():
            opened = zstd.open(file, "rb")
            # several processes may want it
            with opened as source, output_file(target, shared=True) as partial, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        return target


def _plain(name: str) -> str:
    return name.removesuffix(".zstd")


def _why_cut_off(names: Sequence[str], readers: Mapping[str, Any]) -> str:
    """Why files that could not be read mean that a recording's beginning or end is missing; empty if they do not."""
    first, last = names[0], names[-1]
    if last not in readers:
        return f"its last file, {last}, is missing or cannot be read"
    if isinstance(readers[last], TruncatedMcapReader) and not readers[last].ended:
        return f"{last} has no proper end"
    return "" if first in readers else f"its first file, {first}, is missing or cannot be read"


def deserialized(types: Typestore, data: bytes, name: str) -> Any:
    """A message from its bytes; a few bytes too many are no fault.

    rclpy leaves undefined bytes behind a message that ends in empty sequences of 8-byte numbers, as a joint message
    without efforts does; the store's own method refuses those.

    Raises:
        ValueError: too few bytes, or far too many.
    """
    definition = types.get_msgdef(name)
    if len(data) < 4 or data[0] or data[1] > 1:
        raise ValueError("its encapsulation is not CDR's")
    body = memoryview(data)[4:]  # a picture is not copied
    function = definition.deserialize_cdr_le if data[1] else definition.deserialize_cdr_be
    message, used = function(body, 0, definition.cls, types)
    if not used <= len(body) <= used + SPARE:
        raise ValueError(f"it has {len(body)} bytes, {used} were expected")
    return message


def _stored_order(storage: Any) -> Iterator[tuple[int, int]]:
    """First and last receive time of consecutive parts of a file, in the order in which they were written."""
    if isinstance(storage, McapReader):
        chunks = sorted(storage.chunks, key=lambda c: c.chunk_start_offset)
        if chunks and chunks[0].message_index_offsets:
            yield from ((time, time) for time in _chunk_order(storage, chunks.pop(0)))
        for chunk in chunks:
            if chunk.message_end_time:
                yield chunk.message_start_time, chunk.message_end_time
    else:
        rows = storage.dbconn.execute("SELECT timestamp FROM messages ORDER BY id")
        yield from ((row[0], row[0]) for row in rows)


def _chunk_order(reader: McapReader, chunk: Any) -> list[int]:
    """Receive times of a chunk's messages as they were written.

    Only a file's first chunk needs it: in a later one, a jump shows as a beginning before the end of the one before.
    """
    found = []
    for at in chunk.message_index_offsets.values():
        reader.bio.seek(at + 11)  # after the record's kind, length and channel
        (size,) = struct.unpack("<I", reader.bio.read(4))
        found += [(offset, time) for time, offset in struct.iter_unpack("<QQ", reader.bio.read(size))]
    return [time for _, time in sorted(found)]
