"""H.265 over RTP (RFC 7798), both ways: datagrams to access units, and access units to datagrams. No sockets in here.

What FFmpeg's own receiver hides is seen here: who sends, what was lost, where an access unit begins. One that is not
known to be whole is not handed on.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

HEADER = struct.Struct("!BBHII")
AGGREGATION, FRAGMENT = 48, 49  # kinds of payload; those below are NAL units themselves
MAX_PAYLOAD = 1400  # bytes sent in one datagram
REORDERED, REORDERED_S = 64, 0.05  # packets, and how long, within which a missing one may still come
SILENT_S = 1.0  # after which a sender is taken to have gone
LARGEST = 4 * 2**20  # bytes of an access unit: a picture of any camera here takes far fewer
_START = b"\x00\x00\x00\x01"
Sender = tuple[str, int]  # address and port


class _BrokenError(ValueError):
    """A payload is not as RFC 7798 has it."""


@dataclass(frozen=True)
class AccessUnit:
    """All of one picture, with start codes."""

    data: bytes
    number: int  # counts up by one; where something was lost before it, there is a hole
    arrived_ns: int  # of its first packet, as given


@dataclass(frozen=True)
class _Packet:
    payload: bytes
    last: bool  # of its access unit
    timestamp: int
    arrived_s: float
    arrived_ns: int


class Depacketizer:
    """Takes datagrams of the first sender that comes; those of others are refused.

    After a second of silence, another stream from the same address is the sender's restart. A sender of whom nothing
    whole has come within a second gives way to any other.

    Attributes:
        problems: how often each has happened.
        refused: address and port of the newest datagram that another sender sent.
        heard_s: when the newest packet came that was not refused.
    """

    def __init__(self, payload_type: int) -> None:
        self._payload_type = payload_type
        self.problems: Counter[str] = Counter()
        self.refused: Sender | None = None
        self._source: tuple[Sender, int] | None = None  # with the SSRC
        self._accepted_s, self._proven = 0.0, False  # when the source was, and whether a whole access unit has come
        self.heard_s, self._late, self._number, self._arrived_ns = 0.0, 0, 0, 0
        self._begin()

    def push(self, datagram: bytes, sender: Sender, now_s: float, now_ns: int) -> list[AccessUnit]:
        """A datagram has come; returns what is complete with it. ``now_ns`` is only handed on."""
        if len(datagram) < HEADER.size or datagram[0] >> 6 != 2:
            self.problems["datagrams that are no RTP"] += 1
            return []
        flags, kind, sequence, timestamp, ssrc = HEADER.unpack_from(datagram)
        if kind & 0x7F != self._payload_type:
            self.problems[f"packets of payload type {kind & 0x7F} instead of {self._payload_type}"] += 1
            return []
        if not self._accept(sender, ssrc, sequence, now_s):
            self.problems["packets of another sender, refused"] += 1
            self.refused = sender
            return []
        if self._next is None:
            self._next = sequence
        if sequence - self._next & 0xFFFF > 0x7FFF:
            self.problems["packets that came twice or too late"] += 1
            self._late += 1
            if self._late <= REORDERED:
                return []
            self._begin()  # a sender that counts anew
            self._next = sequence
        self._late = 0
        at = HEADER.size + 4 * (flags & 0x0F)
        if flags & 0x10:
            at += 4 + 4 * int.from_bytes(datagram[at + 2 : at + 4])
        end = len(datagram) - (datagram[-1] if flags & 0x20 else 0)
        payload = datagram[at : max(at, end)]
        self._waiting[sequence] = _Packet(payload, bool(kind & 0x80), timestamp, now_s, now_ns)
        return self.take(now_s)

    def take(self, now_s: float) -> list[AccessUnit]:
        """What is complete by now, though nothing has come: a missing packet is waited for only so long."""
        done: list[AccessUnit] = []
        while self._waiting:
            if (packet := self._waiting.pop(self._next, None)) is not None:
                self._next = self._next + 1 & 0xFFFF
                done += self._add(packet)
                continue
            waited_s = now_s - min(packet.arrived_s for packet in self._waiting.values())
            if len(self._waiting) <= REORDERED and waited_s < REORDERED_S:
                break
            missing = min(sequence - self._next & 0xFFFF for sequence in self._waiting)
            self.problems["RTP packets lost"] += missing
            self._next = self._next + missing & 0xFFFF
            self._lose()
        return done

    def _accept(self, sender: Sender, ssrc: int, sequence: int, now_s: float) -> bool:
        silent, same = now_s - self.heard_s > SILENT_S, (sender, ssrc) == self._source
        if not same and self._source is not None:
            restarted = silent and sender[0] == self._source[0][0]
            if not restarted and (self._proven or now_s - self._accepted_s <= SILENT_S):
                return False
        if not same or (silent and sequence != self._next):  # one that paused goes on where it was
            if self._source is not None:
                self.problems["senders that began anew"] += 1
            self._begin()
        if not same:
            self._accepted_s, self._proven = now_s, False
        self._source, self.heard_s = (sender, ssrc), now_s
        return True

    def _begin(self) -> None:
        self._next: int | None = None  # sequence number
        self._waiting: dict[int, _Packet] = {}
        self._lose()

    def _lose(self) -> None:
        """Something is missing before the next packet: where an access unit begins is not known any more."""
        self._timestamp: int | None = None
        self._units: list[bytes] = []
        self._fragment: list[bytes] = []
        self._size = 0  # bytes of both
        self._whole = False  # whether the present access unit is, so far
        self._number += 1

    def _add(self, packet: _Packet) -> Iterator[AccessUnit]:
        if packet.timestamp != self._timestamp:
            yield from self._finish(self._whole or self._timestamp is not None)
            self._timestamp, self._arrived_ns = packet.timestamp, packet.arrived_ns
        try:
            if self._whole:
                self._unpack(packet.payload)
        except (_BrokenError, IndexError):
            self.problems["RTP packets that cannot be read"] += 1
            self._lose()
            self._timestamp = packet.timestamp
        if packet.last:
            yield from self._finish(True)

    def _finish(self, next_is_whole: bool) -> Iterator[AccessUnit]:
        if self._whole and self._units and not self._fragment:
            data = b"".join(_START + unit for unit in self._units)
            self._number += 1
            self._proven = True
            yield AccessUnit(data, self._number, self._arrived_ns)
        elif self._whole and self._fragment:
            self._lose()
        self._timestamp, self._units, self._fragment, self._size, self._whole = None, [], [], 0, next_is_whole

    def _unpack(self, payload: bytes) -> None:
        kind = payload[0] >> 1 & 0x3F
        self._size += len(payload)
        shortest = 3 if kind >= AGGREGATION else 2
        if kind > FRAGMENT or (self._fragment and kind != FRAGMENT) or len(payload) < shortest or self._size > LARGEST:
            raise _BrokenError
        if kind == AGGREGATION:
            at = 2
            while at < len(payload):
                size = int.from_bytes(payload[at : at + 2])
                if size < 2 or at + 2 + size > len(payload):
                    raise _BrokenError
                self._units.append(payload[at + 2 : at + 2 + size])
                at += 2 + size
        elif kind == FRAGMENT:
            first, last = payload[2] & 0x80, payload[2] & 0x40
            if bool(first) == bool(self._fragment):
                raise _BrokenError
            header = bytes([payload[0] & 0x81 | (payload[2] & 0x3F) << 1, payload[1]]) if first else b""
            self._fragment.append(header + payload[3:])
            if last:
                self._units.append(b"".join(self._fragment))
                self._fragment = []
        else:
            self._units.append(payload)


def packetize(data: bytes, sequence: int, timestamp: int, ssrc: int, payload_type: int) -> list[bytes]:
    """An access unit with start codes as datagrams, of which the first has this sequence number."""
    payloads = []
    for unit in filter(None, re.split(rb"\x00\x00+\x01", data)):
        if len(unit) <= MAX_PAYLOAD:
            payloads.append(unit)
            continue
        head, kind = bytes([unit[0] & 0x81 | FRAGMENT << 1, unit[1]]), unit[0] >> 1 & 0x3F
        parts = [unit[at : at + MAX_PAYLOAD] for at in range(2, len(unit), MAX_PAYLOAD)]
        for number, part in enumerate(parts):
            ends = 0x80 * (number == 0) | 0x40 * (number == len(parts) - 1)
            payloads.append(head + bytes([ends | kind]) + part)
    return [
        HEADER.pack(
            0x80,
            payload_type | 0x80 * (number == len(payloads) - 1),
            sequence + number & 0xFFFF,
            timestamp & 0xFFFFFFFF,
            ssrc,
        )
        + payload
        for number, payload in enumerate(payloads)
    ]
