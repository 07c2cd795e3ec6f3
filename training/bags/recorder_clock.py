"""Where the recorder's clock was set back, by the times of reception in the order in which they were written."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from rosbags.rosbag2.storage_mcap import McapReader

BACK_NS = 500_000_000  # messages are stored in order of arrival up to this; further back is a jump of the clock


def jumps_back(storages: Iterable[Any]) -> list[tuple[int, int]]:
    """Receive times, ns, that were recorded twice because the recorder's clock was set back: (from, to).

    Args:
        storages: readers of the single files, in order.
    """
    jumps: list[tuple[int, int]] = []
    newest = -(2**63)
    for start, end in (times for storage in storages for times in _stored_order(storage)):
        if start < newest - BACK_NS:
            until = newest
            if jumps and start <= jumps[-1][1]:  # still the same jump
                before = jumps.pop()
                start, until = min(start, before[0]), max(until, before[1])
            jumps.append((start, until))
        newest = max(newest, end)
    return jumps


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
