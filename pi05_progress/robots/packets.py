"""Video packets -> pictures: ``FFMPEGPacket`` messages of H.264 or H.265, decoded in process with PyAV.

Packets of an inter-frame codec need those before them: every packet is decoded, in order, from a key frame on, whatever
is used of it. Messages are duck-typed. PyAV (extra ``data``) is imported when the first decoder is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from .joints import MessageError

H264, HEVC = "h264", "hevc"
_NAMES = {"264": H264, "avc": H264, "265": HEVC, "hevc": HEVC}
_COUNTED = 10  # packets in a row after which pts is taken for a count
_START = b"\x00\x00\x01"


def codec_of(encoding: str) -> str:
    """``h264`` or ``hevc`` from a message's encoding, such as ``hevc_nvenc`` or ``libx264;yuv420p``.

    Raises:
        MessageError: another codec.
    """
    name = encoding.partition(";")[0].lower()
    for part, codec in _NAMES.items():
        if part in name:
            return codec
    raise MessageError(f"packets of encoding {encoding!r}; H.264 and H.265 are understood")


def is_key_packet(message: Any) -> bool:
    """Whether decoding can begin at a packet: by what is in it, or where it has no start codes by its flag."""
    data = np.asarray(message.data, np.uint8).tobytes()
    codec = codec_of(message.encoding)
    kinds = _unit_kinds(data[:4096], codec)
    if not kinds:
        return bool(message.flags & 1)
    return any(16 <= kind <= 21 for kind in kinds) if codec == HEVC else 5 in kinds


def _unit_kinds(data: bytes, codec: str) -> list[int]:
    """Kinds of the access unit's parts that begin within ``data``."""
    kinds, at = [], data.find(_START)
    while at >= 0 and at + 3 < len(data):
        first = data[at + 3]
        kinds.append(first >> 1 & 0x3F if codec == HEVC else first & 0x1F)
        at = data.find(_START, at + 3)
    return kinds


class PacketDecoder:
    """Decodes one camera's packets.

    After a packet that is lost, cannot be decoded, or whose picture is damaged, nothing comes until the next key frame:
    what follows in between is built upon the damage.
    """

    def __init__(self, what: str) -> None:
        self._what, self._decoder, self._encoding = what, None, ""
        self._stamps: dict[int, int] = {}
        self._sent = 0
        self._last_pts, self._counted = -1, 0  # packets whose pts counted up by one, lately
        self.waiting = True  # for a key frame
        self.problems: dict[str, int] = {}

    def decode(self, message: Any, stamp_ns: int) -> list[tuple[int, Any]]:
        """Stamps and PyAV frames that are complete with this packet: none, one, or several.

        Raises:
            MessageError: not a codec that is understood.
        """
        if message.encoding != self._encoding:
            self._decoder, self._encoding = None, message.encoding
            self.waiting = True
        codec = codec_of(message.encoding)
        key = is_key_packet(message)
        if self._has_hole(int(message.pts)):
            self._lose("holes in the count of packets")
        if self.waiting and not key:
            self._note("packets without the key frame they build upon")
            return []
        if self._decoder is None or self.waiting:
            self._decoder = _decoder(codec)
            self._stamps.clear()
            self.waiting = False
        self._stamps[self._sent] = stamp_ns
        return list(self._frames(self._packet(np.asarray(message.data, np.uint8).tobytes())))

    def flush(self) -> list[tuple[int, Any]]:
        """What the decoder still holds at the end."""
        if self._decoder is None or self.waiting:
            return []
        frames = list(self._frames(None))
        self._decoder, self.waiting = None, True
        return frames

    def _has_hole(self, pts: int) -> bool:
        """Whether packets are missing before this one: known where senders count them, as the usual one does."""
        step, self._last_pts = pts - self._last_pts, pts
        lost = self._counted >= _COUNTED and step > 1
        self._counted = self._counted + 1 if step == 1 else 0
        return lost

    def _packet(self, data: bytes) -> Any:
        import av

        packet = av.Packet(data)
        packet.pts = packet.dts = self._sent
        packet.time_base = Fraction(1, 1000)
        self._sent += 1
        return packet

    def _frames(self, packet: Any) -> Iterator[tuple[int, Any]]:
        import av

        try:
            for frame in self._decoder.decode(packet):
                stamp = self._stamps.pop(frame.pts, None)
                if frame.is_corrupt:
                    self._lose("damaged pictures")
                    return
                if stamp is not None:
                    yield stamp, frame
        except (av.error.FFmpegError, ValueError) as error:
            self._lose(f"packets that cannot be decoded ({error})")

    def _lose(self, why: str) -> None:
        self._note(why)
        self.waiting = True

    def _note(self, why: str) -> None:
        self.problems[why] = self.problems.get(why, 0) + 1


def _decoder(codec: str) -> Any:
    import av

    decoder = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1  # automatic threading holds frames back
    decoder.options = {"err_detect": "explode"}
    return decoder


def frame_to_rgb(frame: Any) -> np.ndarray:
    """uint8 (h, w, 3) of a PyAV frame."""
    return frame.to_ndarray(format="rgb24")
