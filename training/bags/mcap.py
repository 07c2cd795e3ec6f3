"""Reading MCAP files faster: messages are not copied out of their chunks, and where only their beginnings are wanted,
only those are read from the file."""

from __future__ import annotations

import heapq
import os
import struct
from collections.abc import Collection, Generator, Iterator
from typing import Any, NamedTuple

from rosbags.interfaces import Connection
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_mcap import ChunkInfo, McapReader, decompress

MESSAGE = 0x05
HEAD = 64  # bytes of a message that are read where only its beginning is wanted
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # a message that is compressed by itself: its beginning alone cannot be read
LARGE_CHUNK = 16 << 20  # a message does not keep a chunk beyond this size in memory
_RECORD = struct.Struct("<BQHIQQ")  # kind, length, channel, sequence, log time, publish time


class _Found(NamedTuple):
    time: int
    chunk: int
    connection: Connection | None
    data: Any


class ChunkReader(McapReader):
    """rosbags' reader with another way through the chunks.

    Attributes:
        heads: topics of whose messages only the first ``HEAD`` bytes are wanted.
    """

    heads: frozenset[str] = frozenset()

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Generator[tuple[Connection, int, Any], None, None]:
        """Messages in order of reception, as rosbags' own method gives them; the data may be a view."""
        if not self.chunks:
            yield from super().messages(connections, start, stop)
            return
        channels = {connection.id: connection for connection in connections}
        low, high = -(2**63) if start is None else start, 2**63 - 1 if stop is None else stop
        sources = [
            self._within(chunk, channels, low, high)
            for chunk in self.chunks
            if low <= chunk.message_end_time
            and chunk.message_start_time < high
            and any(chunk.channel_count.get(channel, 0) for channel in channels)
        ]
        for found in heapq.merge(*sources):
            if found.connection is not None:
                yield found.connection, found.time, found.data

    def _within(self, chunk: ChunkInfo, channels: dict[int, Connection], low: int, high: int) -> Iterator[_Found]:
        # Nothing is read before its time has come: the merge asks for the first entry of every chunk at once.
        yield _Found(chunk.message_start_time, 0, None, None)
        place = chunk.chunk_start_offset + 9 + 40 + len(chunk.compression)
        if self.heads and not chunk.compression:
            records = self._beginnings(place, chunk, channels)
        else:
            records = _records(self._data(place, chunk), channels)
        found = [
            _Found(time, chunk.chunk_start_offset, channels[channel], data)
            for channel, time, data in records
            if low <= time < high
        ]
        found.sort(key=lambda f: f.time)
        yield from found

    def _data(self, place: int, chunk: ChunkInfo) -> bytes:
        head = os.pread(self.bio.fileno(), 28, chunk.chunk_start_offset + 9)
        (checksum,) = struct.unpack_from("<I", head, 24)
        data = _read(self.bio.fileno(), chunk.compressed_size, place)
        return decompress(data, chunk.compression, chunk.uncompressed_size, checksum)

    def _beginnings(
        self, place: int, chunk: ChunkInfo, channels: dict[int, Connection]
    ) -> Iterator[tuple[int, int, bytes]]:
        """The messages of a chunk that is not compressed, read one by one, some of them not to their end."""
        file, at, end = self.bio.fileno(), place, place + chunk.uncompressed_size
        while at < end:
            record = os.pread(file, _RECORD.size + HEAD, at)
            code, length, channel, _, time, _ = _RECORD.unpack_from(record.ljust(_RECORD.size, b"\0"))
            size = length - (_RECORD.size - 9)
            if code == MESSAGE and channel in channels:
                whole = channels[channel].topic not in self.heads or record.startswith(ZSTD_MAGIC, _RECORD.size)
                whole = whole and size > HEAD
                data = _read(file, size, at + _RECORD.size) if whole else record[_RECORD.size : _RECORD.size + size]
                yield channel, time, data
            at += 9 + length


def _records(data: bytes, channels: dict[int, Connection]) -> Iterator[tuple[int, int, Any]]:
    """The messages of a chunk: views of it, unless it is large."""
    view = data if len(data) > LARGE_CHUNK else memoryview(data)
    at, end = 0, len(data)
    while at + 9 <= end:
        code, length = struct.unpack_from("<BQ", data, at)
        if code == MESSAGE:
            if at + 9 + length > end or length < _RECORD.size - 9:
                raise ReaderError(f"A message of {length} bytes does not fit into its chunk.")
            _, _, channel, _, time, _ = _RECORD.unpack_from(data, at)
            if channel in channels:
                yield channel, time, view[at + _RECORD.size : at + 9 + length]
        at += 9 + length


def _read(file: int, size: int, at: int) -> bytes:
    data = os.pread(file, size, at)
    if len(data) != size:
        raise ReaderError(f"The file ends within a record at {at}.")
    return data
