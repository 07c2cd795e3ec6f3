"""Videos of a data set: pictures in, one encoded frame each, nothing dropped; files joined without encoding again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from pi05_progress.errors import UserError

Codec = Literal["h264", "hevc", "av1"]
ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
PRESETS = {"h264": "superfast", "hevc": "ultrafast", "av1": "10"}
CRFS = {"h264": 23, "hevc": 25, "av1": 30}
PIXELS = "yuv420p"


@dataclass(frozen=True)
class VideoOptions:
    """How pictures are encoded."""

    codec: Codec = "h264"  # decodes fastest and everywhere
    preset: str = ""  # of the encoder; empty for the usual one
    crf: int | None = None  # quality, smaller is better; None for the usual one
    gop: int = 10  # frames from one key frame to the next: to read any frame at most so many are decoded

    def resolved(self) -> tuple[str, int]:
        """Preset and quality that are used."""
        return self.preset or PRESETS[self.codec], CRFS[self.codec] if self.crf is None else self.crf

    def encoder_options(self) -> dict[str, str]:
        """Options of the encoder. No B-frames: frames leave in the order they came, and files join without gaps."""
        preset, crf = self.resolved()
        options = {"preset": preset, "crf": str(crf), "g": str(self.gop)}
        if self.codec == "h264":
            return options | {"bf": "0"}
        if self.codec == "hevc":
            quiet = f"log-level=error:bframes=0:pools=1:frame-threads=1:keyint={self.gop}"
            return options | {"x265-params": quiet}
        return options | {"svtav1-params": "lp=1"}


class VideoFile:
    """A video that is being written. Use it as a context manager: at its end the frames are counted."""

    def __init__(self, path: Path, fps: int, options: VideoOptions) -> None:
        self.path, self.count = path, 0
        self._fps, self._options = fps, options
        self._stream: Any = None

    def __enter__(self) -> VideoFile:
        self._container = av.open(str(self.path), "w", format="mp4")
        return self

    def write(self, image: np.ndarray) -> None:
        """Encode one picture, uint8 (h, w, 3) RGB; all of one size, both numbers even."""
        if self._stream is None:
            self._start(*image.shape[:2])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=PIXELS)
        frame.pts, frame.time_base = self.count, Fraction(1, self._fps)
        self._encode(frame)
        self.count += 1

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            with _naming(self.path):
                self._container.mux(self._stream.encode(frame))
        except av.error.FFmpegError as error:
            raise UserError(f"{self.path.name}: cannot be encoded with {self._options}: {error}") from error

    def _start(self, height: int, width: int) -> None:
        os.environ.setdefault("SVT_LOG", "1")  # errors only
        stream = self._container.add_stream(
            ENCODERS[self._options.codec], self._fps, options=self._options.encoder_options()
        )
        stream.width, stream.height, stream.pix_fmt = width, height, PIXELS
        stream.time_base = stream.codec_context.time_base = Fraction(1, self._fps)
        stream.codec_context.thread_count = 1  # the cores are shared by cameras and episodes
        self._stream = stream

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None and self._stream is not None:
                self._encode(None)
        finally:
            with _naming(self.path):
                self._container.close()  # writes what is still buffered, and the index
        if kind is None:
            check_count(self.path, self.count)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Names the file in errors of the system, a full disk in the first place."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_count(path: Path, expected: int) -> None:
    """Refuse a file that does not hold so many frames."""
    if (found := frame_count(path)) != expected:
        raise UserError(f"{path}: holds {found} frames, {expected} were put into it")


def frame_count(path: Path) -> int:
    """Frames in a video file, counted packet by packet."""
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def join(parts: Sequence[tuple[Path, int]], path: Path, fps: int) -> None:
    """One file of several, given with their numbers of frames, frame after frame: none encoded again, none lost."""
    if len(parts) == 1:
        try:
            os.link(parts[0][0], path)
        except OSError:  # a file system without hard links
            shutil.copyfile(parts[0][0], path)
        check_count(path, parts[0][1])
        return
    before = 0
    with av.open(str(path), "w", format="mp4") as target:
        stream = None
        for part, count in parts:
            with av.open(str(part)) as source:
                if stream is None:
                    stream = target.add_stream_from_template(source.streams.video[0], opaque=True)  # copied as it is
                    stream.time_base = source.streams.video[0].time_base
                for packet in source.demux(video=0):
                    if packet.dts is None:
                        continue
                    shift = Fraction(before, fps) / packet.time_base
                    packet.pts, packet.dts = packet.pts + int(shift), packet.dts + int(shift)
                    packet.stream = stream
                    target.mux(packet)
            before += count
    check_count(path, before)


def video_info(path: Path, fps: int, options: VideoOptions) -> dict[str, Any]:
    """What LeRobot keeps about a camera's videos in ``meta/info.json``."""
    preset, crf = options.resolved()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": options.codec,
            "video.pix_fmt": stream.pix_fmt,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
            "video.g": options.gop,
            "video.crf": crf,
            "video.preset": int(preset) if preset.isdigit() else preset,
            "video.fast_decode": 0,
            "video.video_backend": "pyav",
            "video.extra_options": {},
            "is_depth_map": False,
        }
