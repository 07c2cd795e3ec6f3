"""Pictures of a data set's videos by time: any of them, one after the other, or the nearest that costs little."""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from jaxtyping import UInt8

from pi05_progress.errors import UserError

from .reader import VideoSpan, remedy

try:
    import av
except ModuleNotFoundError:  # as on rented GPU machines without a network, whose OpenCV decodes H.264 and HEVC, too
    av = None

FORWARD = 10  # frames: a picture at most so far ahead is reached by decoding on, others from their key frame
OPEN_FILES = 8  # of a reader; each holds a decoder with a few pictures
TOLERANCE_S = 1e-3  # times in files are rounded
QUALITY = 70  # of small pictures as JPEG, of 100


class PictureError(UserError):
    """A video is missing or cannot be decoded; the message names the file."""


class VideoReader:
    """Reads the pictures of one video file. Not thread-safe; close it."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (OSError, IndexError, UnicodeDecodeError, av.FFmpegError) as error:  # damaged names, too
            raise PictureError(f"{path}: cannot be opened: {error}; {remedy(path)}") from error
        if self._stream.codec_context is None:
            self._container.close()
            raise PictureError(f"{path}: cannot be opened: no decoder knows its video; copy the data set anew")
        self._stream.codec_context.thread_count = 1  # pictures are read by several threads already
        self._frames = iter(())
        self._last = -np.inf  # time of the last picture decoded, s

    def read(self, time_s: float) -> UInt8[np.ndarray, "h w 3"]:
        """The picture at a time, in seconds from the file's start, RGB; times within half a frame are the same."""
        early = 0.5 / self._fps
        if not self._last + early < time_s <= self._last + (FORWARD + 0.5) / self._fps:
            self._seek(time_s + early / 2)
        for frame in self._decoded(time_s):
            if frame.time < time_s - early:
                continue
            if frame.time > time_s + early:
                break
            return frame.to_ndarray(format="rgb24")
        self._last = -np.inf
        raise PictureError(f"{self._path}: no picture at {time_s:.3f} s, the data set contradicts itself; copy it anew")

    def near(self, time_s: float, not_before_s: float) -> av.VideoFrame:
        """The key frame before a time, unless it lies before another one; else the picture at that time."""
        self._seek(time_s + TOLERANCE_S)
        for frame in self._decoded(time_s):
            is_first_choice = frame.key_frame and frame.time >= not_before_s - TOLERANCE_S
            if is_first_choice or frame.time >= time_s - 0.5 / self._fps:
                return frame
        raise PictureError(f"{self._path}: no picture at {time_s:.3f} s, the video ends before; copy the data set anew")

    def _decoded(self, time_s: float) -> Iterator[av.VideoFrame]:
        """Pictures from where the reader is; ``time_s`` is the time that is looked for."""
        try:
            for frame in self._frames:
                self._last = frame.time
                yield frame
        except (OSError, av.FFmpegError) as error:
            self._last = -np.inf
            raise PictureError(f"{self._path}: cannot be decoded at {time_s:.3f} s: {error}") from error

    def _seek(self, time_s: float) -> None:
        try:
            self._container.seek(max(0, int(time_s / self._stream.time_base)), stream=self._stream)
        except (OSError, av.FFmpegError) as error:
            raise PictureError(f"{self._path}: cannot be decoded at {time_s:.3f} s: {error}") from error
        self._frames = self._container.decode(self._stream)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class OpenCvReader:
    """The same by OpenCV, for machines without PyAV: slower where frames are skipped. Not thread-safe; close it."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps, self._next = path, fps, 0
        # One thread each: pictures are read by several threads already.
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise PictureError(f"{path}: cannot be opened by OpenCV; {remedy(path)}, or install PyAV (av)")

    def read(self, time_s: float) -> UInt8[np.ndarray, "h w 3"]:
        """See ``VideoReader.read``."""
        wanted = round(time_s * self._fps)
        if not self._next <= wanted <= self._next + FORWARD:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, wanted)
            self._next = wanted
        there = all(self._capture.grab() for _ in range(self._next, wanted + 1))
        there, image = self._capture.retrieve() if there else (False, None)
        self._next = wanted + 1 if there else -FORWARD
        if not there:
            raise PictureError(
                f"{self._path}: no picture at {time_s:.3f} s for OpenCV; {remedy(self._path)}, or install PyAV (av), "
                "which knows more codecs"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


class FrameReader:
    """Reads pictures of many files, of which it keeps the last few open. Not thread-safe; use it as a context."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._open: OrderedDict[Path, VideoReader | OpenCvReader] = OrderedDict()

    def read(self, span: VideoSpan, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """Picture ``frame`` of the episode that lies at ``span``, counted from 0, RGB."""
        if span.path not in self._open:
            self._open[span.path] = (OpenCvReader if av is None else VideoReader)(span.path, self._fps)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(span.path)
        return self._open[span.path].read(span.from_s + frame / self._fps)

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        while self._open:
            self._open.popitem()[1].close()


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, and when it was taken, in seconds from the episode's start."""

    time_s: float
    image: UInt8[np.ndarray, "h w 3"]

    def data_url(self) -> str:
        """The picture as a JPEG inside a URL."""
        _, data = cv2.imencode(".jpg", self.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def thumbnails(span: VideoSpan, fps: float, count: int, height: int) -> list[Thumbnail]:
    """About ``count`` evenly spaced pictures of an episode, in order, of a height in pixels.

    The key frame before each wanted time is taken if it is the episode's and not taken yet; only otherwise frames are
    decoded up to the wanted one.
    """
    frames = max(1, round((span.to_s - span.from_s) * fps))
    wanted = np.unique(np.linspace(0, frames - 1, min(count, frames)).round()) / fps + span.from_s
    found: list[Thumbnail] = []
    taken = span.from_s - 1.0
    with VideoReader(span.path, fps) as video:
        for time in wanted:
            frame = video.near(time, max(span.from_s, taken + 0.5 / fps))
            taken = float(frame.time)
            width = max(2, round(frame.width * height / frame.height))
            image = frame.reformat(width, height, "rgb24").to_ndarray()
            found.append(Thumbnail(max(0.0, taken - span.from_s), image))
    return found
