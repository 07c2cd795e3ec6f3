"""Video packets -> pictures: ``FFMPEGPacket`` messages of H.264 or H.265, decoded in process with PyAV.

Packets of an inter-frame codec need those before them: every packet is decoded, in order, from a key frame on, whatever
is used of it. Messages are duck-typed. PyAV is imported when the first decoder is made.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .joints import MessageError

H264, HEVC = "h264", "hevc"
_NAMES = {"264": H264, "avc": H264, "265": HEVC, "hevc": HEVC}
Box = tuple[float, float, float, float]
_COUNTED = 3  # equal steps of pts in a row after which they are taken for a count; steps of one are at once
_REORDERED = 17  # packets among which B-frames may change the order of pts
_HELD = 64  # packets at most whose pictures a decoder may still hold
# How FFmpeg says that a picture builds upon one that is missing; it goes on with another in its place.
_MISSING = ("could not find ref", "reference picture missing", "missing reference picture", "frame num gap")
_UNIT = re.compile(rb"\x00\x00\x01(?=(.))", re.DOTALL)  # a start code, and the first byte of the unit's head


def codec_of(encoding: str) -> str:
    """``h264`` or ``hevc`` from a message's encoding, such as ``hevc_nvenc`` or ``libx264;yuv420p``; a ``MessageError``
    for another codec."""
    name = encoding.partition(";")[0].lower()
    if (codec := next((codec for part, codec in _NAMES.items() if part in name), None)) is None:
        raise MessageError(f"packets of encoding {encoding!r}; H.264 and H.265 are understood")
    return codec


def is_key_packet(message: Any) -> bool:
    """Whether decoding can begin at a packet: by what is in it, or where it has no start codes by its flag."""
    data = np.asarray(message.data, np.uint8).tobytes()
    codec = codec_of(message.encoding)
    if not (heads := [match[1][0] for match in _UNIT.finditer(data[:4096])]):
        return bool(message.flags & 1)
    return any(16 <= head >> 1 & 0x3F <= 21 if codec == HEVC else head & 0x1F == 5 for head in heads)


@dataclass(frozen=True)
class VideoPicture:
    """A decoded picture in the codec's own colours: converted only if it is used."""

    stamp_ns: int  # of the packet that it came with
    frame: Any  # PyAV's
    box: Box | None = None  # the part of it that is meant: fractions (left, top, right, bottom)

    def brightness(self) -> np.ndarray:
        """uint8 (h, w), a view of its first plane."""
        plane = self.frame.planes[0]
        return crop(np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width], self.box)

    def rgb(self) -> np.ndarray:
        """uint8 (h, w, 3); a frame of several cameras is converted once."""
        return frame_to_rgb(self.frame) if self.box is None else crop(_shared_rgb(self.frame), self.box)


class PacketDecoder:
    """Decodes one camera's packets, by ``hardware``, as PyAV names it, if that can; empty for none.

    After a packet that is lost, cannot be decoded, or whose picture is damaged, nothing comes until the next key frame:
    what follows in between is built upon the damage.
    """

    def __init__(self, hardware: str = "") -> None:
        self._decoder, self._size = None, (0, 0)
        self._hardware, self.decoder = hardware, ""  # the latter is what decodes, for people
        self.encoding = ""  # as the newest packet names it
        self._stamps: dict[int, int] = {}
        self._sent = 0
        self._forget_count()
        self.waiting = True  # for a key frame
        self.problems: dict[str, int] = {}  # how often each has happened

    def decode(self, message: Any, stamp_ns: int) -> list[tuple[int, Any]]:
        """Stamps and PyAV frames that are complete with this packet: none, one, or several; raises as ``codec_of``."""
        codec = codec_of(message.encoding)
        data = np.asarray(message.data, np.uint8).tobytes()
        self._watch_format(message.encoding, (message.width, message.height))
        key = bool(data) and is_key_packet(message)
        if gap := self._gap(int(message.pts), key):
            self.lose(gap)
        if not data:
            self.lose("packets without data")
            return []
        if self.waiting and not key:
            self._note("packets without the key frame they build upon")
            return []
        if self._decoder is None:
            self._decoder, self.decoder = _decoder(codec, self._hardware)
        elif self.waiting:
            self._decoder.flush_buffers()  # pictures are forgotten; parameter sets, which may not come again, are not
        self.waiting = False
        self._stamps[self._sent] = stamp_ns
        if len(self._stamps) > _HELD:  # of packets that gave no picture
            del self._stamps[next(iter(self._stamps))]
        return self._frames(self._packet(data))

    def flush(self) -> list[tuple[int, Any]]:
        """What the decoder still holds at the end."""
        if self._decoder is None or self.waiting:
            return []
        frames = self._frames(None)
        self._decoder, self.waiting = None, True
        return frames

    def lose(self, why: str) -> None:
        """What comes before the next key frame is of no use, for this reason."""
        self._note(why)
        self.waiting = True
        self._stamps.clear()

    def _watch_format(self, encoding: str, size: tuple[int, int]) -> None:
        if (encoding, size) == (self.encoding, self._size):
            return
        if self.encoding:
            same = encoding == self.encoding
            self.lose(f"changes of the {f'size, now {size[0]}x{size[1]}' if same else f'encoding, now {encoding}'}")
            self._decoder = None
        self._forget_count()
        self.encoding, self._size = encoding, size

    def _forget_count(self) -> None:
        self._pts: deque[int] = deque(maxlen=_REORDERED)
        self._step, self._counted = 0, 0  # of pts, and how often it was that, lately

    def _gap(self, pts: int, key: bool) -> str:
        """What pts tells against decoding on. It goes back among a few packets only, and a count has no hole."""
        found, step = "", pts - self._pts[-1] if self._pts else 0
        full, forward = len(self._pts) == _REORDERED, all(a <= b for a, b in itertools.pairwise(self._pts))
        counts = forward and (self._counted >= _COUNTED or self._step == 1)
        if step < 0 and (key or counts or (full and pts < min(self._pts))):
            found = "counts of packets that began anew: the sender was restarted, or there are two"
            self._forget_count()
        elif counts and 2 * step >= 3 * self._step:  # clocks are rounded
            found = "holes in the count of packets"
        self._counted = self._counted + 1 if step == self._step and step > 0 else 0
        self._step = step
        self._pts.append(pts)
        return found

    def _packet(self, data: bytes) -> Any:
        import av

        packet = av.Packet(data)
        packet.pts = packet.dts = self._sent
        packet.time_base = Fraction(1, 1000)
        self._sent += 1
        return packet

    def _frames(self, packet: Any) -> list[tuple[int, Any]]:
        import av

        try:
            # FFmpeg paints over what is missing and tells it in its log only.
            with av.logging.Capture(local=True) as said:
                frames = self._decoder.decode(packet)
        except (av.error.FFmpegError, ValueError) as error:
            self.lose(f"packets that cannot be decoded ({getattr(error, 'strerror', None) or error})")
            return []
        if any(words in text.lower() for _, _, text in said for words in _MISSING):
            self.lose("pictures that build upon one that is missing")
            return []
        if any(frame.is_corrupt for frame in frames):
            self.lose("damaged pictures")
            return []
        stamped = [(self._stamps.pop(frame.pts, None), frame) for frame in frames]
        return [(stamp, frame) for stamp, frame in stamped if stamp is not None]

    def _note(self, why: str) -> None:
        self.problems[why] = self.problems.get(why, 0) + 1


def _decoder(codec: str, hardware: str) -> tuple[Any, str]:
    """One for the codec, and what it decodes with."""
    try:
        import av
        import av.logging
    except ImportError as error:
        raise MessageError(
            f"video packets are decoded by PyAV, which cannot be imported ({error}): pip install av"
        ) from None
    if av.logging.get_level() is None:
        av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # a second loss like the first would not be told
    decoder, by = None, "software"
    if hardware:
        from av.codec.hwaccel import HWAccel

        try:
            decoder = av.CodecContext.create(codec, "r", HWAccel(hardware, allow_software_fallback=True))
            by = hardware if decoder.is_hwaccel else f"software, as PyAV has no {codec} by {hardware}"
        except (av.error.FFmpegError, RuntimeError, ValueError) as error:
            by = f"software, as {hardware} cannot be used ({error})"
    decoder = decoder or av.CodecContext.create(codec, "r")
    decoder.thread_count = 1  # automatic threading holds frames back
    # A gap in H.264's frame numbers is told for debugging only; this raises what this one decoder says to errors.
    louder = {"log_level_offset": str(av.logging.ERROR - av.logging.DEBUG)} if codec == H264 else {}
    decoder.options = {"err_detect": "explode"} | louder
    return decoder, by


def video_size(data: bytes) -> tuple[int, int] | None:
    """Width and height by the parameter sets that an access unit of H.265 begins with; None if it has none."""
    import av

    decoder = av.CodecContext.create(HEVC, "r")
    decoder.extradata = data[:4096]
    try:
        decoder.open()
    except av.error.FFmpegError:
        return None
    return (decoder.width, decoder.height) if decoder.width else None


def crop(image: np.ndarray, box: Box | None) -> np.ndarray:
    """A view of the part of a picture (h, w, ...) within ``box``, fractions (left, top, right, bottom); None: all."""
    if box is None:
        return image
    height, width = image.shape[:2]
    left, top, right, bottom = box
    return image[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]


def frame_to_rgb(frame: Any) -> np.ndarray:
    """uint8 (h, w, 3) of a PyAV frame."""
    return frame.to_ndarray(format="rgb24")


_shared_rgb = functools.lru_cache(maxsize=1)(frame_to_rgb)
