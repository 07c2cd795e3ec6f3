"""MCAP files: their messages in the order of reception, read record by record as far as a file without its end goes.

An own way through the file: other readers give it up for one odd schema of a topic that nobody needs, and copy every
message out of its chunk. Where only the beginnings of messages are wanted, only those are read from the file.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from rosbags.rosbag2.storage_mcap import decompress

from .faults import BagError, explained
from .message_types import Channel, Stored

MAGIC = b"\x89MCAP0\r\n"
HEAD = 64  # bytes of a message that are read where only its beginning is wanted
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # a message that is compressed by itself: its beginning alone cannot be read
LARGE_CHUNK = 16 << 20  # a message does not keep a chunk beyond this size in memory
RUN = 4 << 20  # bytes of messages in no chunk that are put in order together, as if they were one
_RECORD = struct.Struct("<BQ")  # kind, length
_MESSAGE = struct.Struct("<BQHIQQ")  # kind, length, channel, sequence, log time, publish time


class _Chunk(NamedTuple):
    """A chunk's place in the file and what is in it; or a run of messages that are in no chunk (``loose``)."""

    start_ns: int
    end_ns: int
    at: int
    end: int  # of the chunk and the indexes that follow it
    channels: Collection[int] = ()  # that have messages in it; none if that is not known
    loose: bool = False


class McapFile:
    """One file, open; whatever bytes that cannot be read lead to is raised."""

    def __init__(self, path: Path) -> None:
        self.path, self.note = path, ""  # and what is odd about it, for the report
        self.ended, self.count = True, None  # whether all messages are there; how many, None if it does not say
        self._file = path.open("rb")
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._open()
        except BaseException:
            self.close()
            raise
        used = set().union(*(chunk.channels for chunk in self._chunks))
        self.channels = []  # its topics
        for number, of in self._described.items():
            schema = self._schemas.get(of.schema_id, records.Schema(0, b"", "", "unknown"))
            text = schema.data.decode(errors="replace")
            self.channels.append(
                Channel(number, of.topic, schema.name, schema.encoding, text, of.message_encoding, number in used)
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> None:
        if self._read(len(MAGIC), 0) != MAGIC:
            raise BagError(f"{self.path}: it does not begin as an MCAP file does")
        try:
            why = self._read_summary()
        except (ValueError, struct.error, McapError) as error:
            why = explained(error)
        if why is None:
            return
        counted = self.count or 0
        try:
            end = self._read_records()
        except Exception as error:
            raise BagError(f"{self.path}: {why}. Nor can it be read record by record: {explained(error)}") from error
        read, lost = f"{self.count} messages are read from its complete records", self._size - end
        if counted > self.count:
            why = why or f"it counts {counted} messages"
        elif not self.ended:
            why = why or "a record is damaged"
        if not self.ended:
            self.note = f"{self.path.name} has no proper end ({why}): {read}, {lost} bytes after them are lost"
        elif why:
            self.note = f"{self.path.name}: its summary cannot be used ({why}): {read}"

    def _forget(self) -> None:
        self._schemas: dict[int, records.Schema] = {}
        self._described: dict[int, records.Channel] = {}
        self._chunks: list[_Chunk] = []
        self.count = None

    def _read_summary(self) -> str | None:
        """Take what the summary at the end says; returns why it is not enough, an empty text where that is no fault."""
        self._forget()
        footer = max(self._size - 37, 0)
        kind, length, start, _, checksum = struct.unpack("<BQQQI", self._read(29, footer))
        if self._read(8, self._size - 8) != MAGIC or (kind, length) != (Opcode.FOOTER, 20):
            return "its end is missing"
        if not start:
            return ""
        data = self._read(footer + 25 - start, start)  # the checksum is of the footer before it, too
        if checksum and zlib.crc32(data) != checksum:
            return "its checksum is wrong"
        for kind, at, end in _split(data[: footer - start]):
            self._take(kind, data[at:end])
        known = self._described and self._chunks and all(c.channels for c in self._chunks if c.end_ns)
        return None if known and self._indexed(start) else ""

    def _indexed(self, end: int) -> bool:
        """Whether all messages are in chunks that the summary names: no others stand before or between them."""
        ends = {chunk.at: chunk.end for chunk in self._chunks}
        at = len(MAGIC)
        while at + _RECORD.size <= end:
            kind, length = _RECORD.unpack(self._read(_RECORD.size, at))
            if kind in (Opcode.MESSAGE, Opcode.CHUNK) and at not in ends:
                return False
            at = max(ends.get(at, 0), at + _RECORD.size + length)
        return True

    def _take(self, kind: int, data: bytes) -> None:
        """Note what a record of these kinds says, passing over others, and over names that are no text."""
        stream = ReadDataStream(io.BytesIO(data))
        with contextlib.suppress(UnicodeDecodeError):  # whoever needs that topic will miss it
            if kind == Opcode.SCHEMA:
                schema = records.Schema.read(stream)
                self._schemas[schema.id] = schema
            elif kind == Opcode.CHANNEL:
                channel = records.Channel.read(stream)
                self._described[channel.id] = channel
            elif kind == Opcode.STATISTICS:
                self.count = records.Statistics.read(stream).message_count
            elif kind == Opcode.CHUNK_INDEX:
                of = records.ChunkIndex.read(stream)
                end = of.chunk_start_offset + of.chunk_length + of.message_index_length
                place = (of.message_start_time, of.message_end_time, of.chunk_start_offset, end)
                self._chunks.append(_Chunk(*place, frozenset(of.message_index_offsets)))

    def _read_records(self) -> int:
        """Go through the file record by record; returns where its complete records end."""
        self._forget()
        at, self.count, self.ended = len(MAGIC), 0, False
        while at + _RECORD.size <= self._size:
            head = os.pread(self._file.fileno(), _MESSAGE.size, at).ljust(_MESSAGE.size, b"\0")
            kind, length, channel, _, time, _ = _MESSAGE.unpack(head)
            end = at + _RECORD.size + length
            self.ended = kind in (Opcode.DATA_END, Opcode.FOOTER)
            if self.ended or end > self._size or not kind or (kind == Opcode.MESSAGE and end < at + _MESSAGE.size):
                break
            if kind in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._take(kind, self._read(length, at + _RECORD.size))
            elif kind == Opcode.MESSAGE:
                self._add_loose(channel, time, at, end)
            elif kind == Opcode.CHUNK:
                try:
                    self._add_chunk(at, end)
                except Exception:  # a power cut leaves zeros in what was written last
                    if not self._chunks:
                        raise
                    break
            at = end
        if at == len(MAGIC):
            raise ValueError("no record of it is complete")
        return at

    def _add_chunk(self, at: int, end: int) -> None:
        """Note a chunk, and the schemas and channels in it."""
        chunk = _Chunk(*struct.unpack("<QQ", self._read(16, at + _RECORD.size)), at, end)
        channels = []
        for kind, start, stop in _split(data := self._unpacked(chunk)):
            self._take(kind, data[start:stop] if kind != Opcode.MESSAGE else b"")
            channels += struct.unpack_from("<H", data, start) if kind == Opcode.MESSAGE else ()
        self.count += len(channels)
        self._chunks.append(chunk._replace(channels=frozenset(channels)))

    def _add_loose(self, channel: int, time: int, at: int, end: int) -> None:
        """Note a message that is in no chunk, together with those before it."""
        run = self._chunks.pop() if self._chunks else None
        if run and not (run.loose and end - run.at <= RUN):
            self._chunks.append(run)
            run = None
        start_ns, end_ns, at, _, channels, _ = run or (time, time, at, end, set(), True)
        channels.add(channel)
        self._chunks.append(_Chunk(min(start_ns, time), max(end_ns, time), at, end, channels, True))
        self.count += 1

    def span(self) -> tuple[int, int] | None:
        """First and last time of reception, ns; None without messages."""
        times = [chunk[:2] for chunk in self._chunks if chunk.channels]
        return (min(start for start, _ in times), max(end for _, end in times)) if times else None

    def messages(
        self, topics: Collection[str], start_ns: int | None, stop_ns: int | None, heads: Collection[str] = ()
    ) -> Iterator[Stored]:
        """Messages of these topics received in [start, stop), in order of reception; see ``Bag.messages``."""
        wanted = {channel.id: channel.topic for channel in self.channels if channel.topic in topics}
        short = {channel.id for channel in self.channels if channel.topic in heads}
        low, high = -1 if start_ns is None else start_ns, 2**64 if stop_ns is None else stop_ns
        sources = [
            self._within(chunk, wanted, short, low, high)
            for chunk in self._chunks
            if low <= chunk.end_ns and chunk.start_ns < high and chunk.channels & wanted.keys()
        ]
        for _, message in heapq.merge(*sources, key=lambda found: found[0]):
            if message is not None:
                yield message

    def _within(
        self, chunk: _Chunk, wanted: dict[int, str], short: set[int], low: int, high: int
    ) -> Iterator[tuple[int, Stored | None]]:
        # Nothing is read before its time has come: the merge asks for the first entry of every chunk at once.
        yield chunk.start_ns, None
        found = (
            (time, Stored(wanted[channel], time, data))
            for channel, time, data in self._records(chunk, wanted, short)
            if low <= time < high
        )
        yield from sorted(found, key=lambda entry: entry[0])

    def written_times(self) -> Iterator[tuple[int, int]]:
        """First and last time of reception, ns, of consecutive parts of the file, in the order they were written.

        Only the first chunk is looked into: a jump in a later one shows as a beginning before the last one's end.
        """
        for number, chunk in enumerate(sorted(self._chunks, key=lambda chunk: chunk.at)):
            if not number:
                yield from ((time, time) for _, time, _ in self._records(chunk, self._described, self._described))
            elif chunk.channels:
                yield chunk.start_ns, chunk.end_ns

    def _records(
        self, chunk: _Chunk, wanted: Collection[int], short: Collection[int]
    ) -> Iterator[tuple[int, int, bytes | memoryview]]:
        """Channel, time of reception and data of a chunk's messages, as they were written."""
        place, size, compression, _, _ = self._contents(chunk)
        if not compression and (short or chunk.loose):
            yield from self._beginnings(place, place + size, wanted, short)
            return
        data = self._unpacked(chunk)
        view = data if len(data) > LARGE_CHUNK else memoryview(data)
        for kind, at, end in _split(data):
            if kind == Opcode.MESSAGE:
                _, _, channel, _, time, _ = _MESSAGE.unpack_from(data, at - _RECORD.size)
                if channel in wanted:
                    yield channel, time, view[at - _RECORD.size + _MESSAGE.size : end]

    def _beginnings(
        self, at: int, end: int, wanted: Collection[int], short: Collection[int]
    ) -> Iterator[tuple[int, int, bytes]]:
        """The messages between two places, read one by one, those of the channels ``short`` not to their end."""
        while at < end:
            record = os.pread(self._file.fileno(), _MESSAGE.size + HEAD, at)
            kind, length, channel, _, time, _ = _MESSAGE.unpack_from(record.ljust(_MESSAGE.size, b"\0"))
            size = length - (_MESSAGE.size - _RECORD.size)
            if kind == Opcode.MESSAGE and channel in wanted:
                whole = size > HEAD and (channel not in short or record.startswith(ZSTD_MAGIC, _MESSAGE.size))
                rest = record[_MESSAGE.size : _MESSAGE.size + max(size, 0)]
                yield channel, time, self._read(size, at + _MESSAGE.size) if whole else rest
            at += _RECORD.size + length
        if at != end:
            raise ValueError(f"a record that should end at {end} at the latest ends at {at}")

    def _contents(self, chunk: _Chunk) -> tuple[int, int, str, int, int]:
        """Place and size of a chunk's records in the file, their compression, size when unpacked, and checksum."""
        if chunk.loose:
            return chunk.at, chunk.end - chunk.at, "", 0, 0
        kind, _, _, _, unpacked, checksum, name = struct.unpack("<BQQQQII", self._read(41, chunk.at))
        if kind != Opcode.CHUNK or name > 16:
            raise ValueError(f"there is no chunk at {chunk.at}, where one should be")
        compression = self._read(name, chunk.at + 41).decode(errors="replace")
        (size,) = struct.unpack("<Q", self._read(8, chunk.at + 41 + name))
        return chunk.at + 49 + name, size, compression, unpacked, checksum

    def _unpacked(self, chunk: _Chunk) -> bytes:
        place, size, compression, unpacked, checksum = self._contents(chunk)
        return decompress(self._read(size, place), compression, unpacked, checksum)

    def _read(self, size: int, at: int) -> bytes:
        data = os.pread(self._file.fileno(), size, at) if 0 <= at <= at + size <= self._size else b""
        if len(data) != size:
            raise ValueError(f"a record of {size} bytes at {at} is not within the file")
        return data


def _split(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind of every record, and where what it holds begins and ends."""
    at = 0
    while at < len(data):
        kind, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data) or (kind == Opcode.MESSAGE and length < _MESSAGE.size - _RECORD.size):
            raise ValueError(f"a record of {length} bytes does not fit where it stands")
        yield kind, at, at + length
        at += length
