"""MCAP files whose end is missing, as a killed recorder or a full disk leaves them: every complete record is read."""

from __future__ import annotations

import struct
from typing import BinaryIO

from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_mcap import ChunkInfo

from .mcap import ChunkReader

MAGIC = b"\x89MCAP0\r\n"
HEADER, CHUNK, DATA_END, FOOTER = 0x01, 0x06, 0x0F, 0x02


class TruncatedMcapReader(ChunkReader):
    """Reads an MCAP file without its summary, up to the last complete record."""

    lost_bytes = 0  # after the last complete record
    ended = False  # whether all messages are there and only the summary after them cannot be used

    def _open(self) -> None:
        bio = self.bio
        size = bio.seek(0, 2)
        bio.seek(0)
        if bio.read(8) != MAGIC:
            raise ReaderError("File magic is invalid.")
        records, self.ended = _records(bio, size)
        if not records or records[0][0] != HEADER:
            raise ReaderError("no complete record in it")
        self.data_start = records[0][1] + 9 + records[0][2]
        self.data_end = records[-1][1] + 9 + records[-1][2]
        self.lost_bytes = size - self.data_end
        self.meta_scan()
        ids = [connection.id for connection in self.connections]
        self.chunks.extend(_chunk(bio, at, length, ids) for code, at, length in records if code == CHUNK)
        counts = self.statistics.channel_message_counts
        self.connections = [c._replace(msgcount=counts.get(c.id, 0)) for c in self.connections]
        if self.statistics.message_count:
            start, end = self.statistics.start_time, self.statistics.end_time
            self.metadata = self.metadata._replace(
                duration=end - start + 1, start_time=start, end_time=end + 1,
                message_count=self.statistics.message_count,
            )  # fmt: skip


def _records(bio: BinaryIO, size: int) -> tuple[list[tuple[int, int, int]], bool]:
    """Kind, place and length of every complete record of the data section, and whether the section's end was seen."""
    found, at = [], 8
    while at + 9 <= size:
        bio.seek(at)
        code, length = struct.unpack("<BQ", bio.read(9))
        if code in (DATA_END, FOOTER):
            return found, True
        if at + 9 + length > size or not 0 < code < 0x80:
            break
        found.append((code, at, length))
        at += 9 + length
    return found, False


def _chunk(bio: BinaryIO, at: int, length: int, channel_ids: list[int]) -> ChunkInfo:
    """What the missing summary would say of a chunk; any channel may be in it."""
    bio.seek(at + 9)
    start, end, uncompressed, _crc, name_length = struct.unpack("<QQQII", bio.read(32))
    compression = bio.read(name_length).decode()
    (compressed,) = struct.unpack("<Q", bio.read(8))
    counts = dict.fromkeys(channel_ids, 1)
    return ChunkInfo(start, end, at, 9 + length, {}, 0, compression, compressed, uncompressed, counts)
