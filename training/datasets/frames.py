"""Pictures of a data set's videos by time: any of them, or one after the other."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from jaxtyping import UInt8

from .reader import VideoSpan
from .thumbnails import PictureError

FORWARD = 10  # frames: a picture at most so far ahead is reached by decoding on, others from their key frame
OPEN_FILES = 8  # of a reader; each holds a decoder with a few pictures


class VideoReader:
    """Reads the pictures of one video file. Not thread-safe; close it.

    Args:
        path: of the file.
        fps: frames per second.

    Raises:
        PictureError: the file is missing or not a video.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        try:
            self._container = av.open(str(path), metadata_errors="replace")  # of a damaged file: anything
            self._stream = self._container.streams.video[0]
        except (OSError, IndexError, av.FFmpegError) as error:
            raise PictureError(f"{path}: cannot be opened: {error}; copy the data set anew") from error
        if self._stream.codec_context is None:
            self._container.close()
            raise PictureError(f"{path}: cannot be opened: no decoder knows its video; copy the data set anew")
        self._stream.codec_context.thread_count = 1  # pictures are read by several threads already
        self._frames = iter(())
        self._last = -np.inf  # time of the last picture decoded, s

    def read(self, time_s: float) -> UInt8[np.ndarray, "h w 3"]:
        """The picture at a time, in seconds from the file's start, RGB; times within half a frame are the same.

        Raises:
            PictureError: there is none, or the file is damaged.
        """
        early = 0.5 / self._fps
        try:
            if not self._last + early < time_s <= self._last + (FORWARD + 0.5) / self._fps:
                self._seek(time_s + early / 2)  # times in files are rounded
            for frame in self._frames:
                self._last = frame.time
                if frame.time < time_s - early:
                    continue
                if frame.time > time_s + early:
                    break
                return frame.to_ndarray(format="rgb24")
        except (OSError, av.FFmpegError) as error:
            self._last = -np.inf
            raise PictureError(f"{self._path}: cannot be decoded at {time_s:.3f} s: {error}") from error
        self._last = -np.inf
        raise PictureError(f"{self._path}: no picture at {time_s:.3f} s, the data set contradicts itself; copy it anew")

    def _seek(self, time_s: float) -> None:
        self._container.seek(max(0, int(time_s / self._stream.time_base)), stream=self._stream)
        self._frames = self._container.decode(self._stream)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class FrameReader:
    """Reads pictures of many files, of which it keeps the last few open. Not thread-safe.

    Args:
        fps: frames per second.
    """

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._open: OrderedDict[Path, VideoReader] = OrderedDict()

    def read(self, span: VideoSpan, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """Picture ``frame`` of the episode that lies at ``span``, counted from 0, RGB.

        Raises:
            PictureError: see ``VideoReader``.
        """
        if span.path not in self._open:
            self._open[span.path] = VideoReader(span.path, self._fps)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(span.path)
        return self._open[span.path].read(span.from_s + frame / self._fps)
