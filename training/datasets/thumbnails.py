"""A few small pictures of an episode, at the cost of decoding little more than key frames."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from .reader import VideoSpan

_TOLERANCE_S = 1e-3


class PictureError(ValueError):
    """A video is missing or cannot be decoded; the message names the file."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, and when it was taken, in seconds from the episode's start."""

    time_s: float
    image: UInt8[np.ndarray, "h w 3"]

    def data_url(self, quality: int = 70) -> str:
        """The picture as a JPEG inside a URL."""
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, "JPEG", quality=quality)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnails(span: VideoSpan, fps: float, count: int, height: int) -> list[Thumbnail]:
    """About evenly spaced pictures of an episode, in order.

    The key frame before each wanted time is taken if it is the episode's and not taken yet; only otherwise frames are
    decoded up to the wanted one.

    Args:
        span: where the episode is.
        fps: frames per second.
        count: how many pictures; fewer if the episode has fewer frames.
        height: of the pictures; the width keeps the aspect.

    Raises:
        PictureError: the file is missing, damaged or shorter than it should be.
    """
    frames = max(1, round((span.to_s - span.from_s) * fps))
    wanted = np.unique(np.linspace(0, frames - 1, min(count, frames)).round()) / fps + span.from_s
    found: list[Thumbnail] = []
    try:
        with av.open(str(span.path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            taken = span.from_s - 1.0
            for time in wanted:
                frame = _frame(container, stream, time, not_before=max(span.from_s, taken + 0.5 / fps), fps=fps)
                if frame is None:
                    raise PictureError(
                        f"{span.path}: no frame at {time:.3f} s, the episode is said to end at {span.to_s:.3f} s"
                    )
                taken = float(frame.time)
                width = max(2, round(frame.width * height / frame.height))
                image = frame.reformat(width, height, "rgb24").to_ndarray()
                found.append(Thumbnail(max(0.0, taken - span.from_s), image))
    except (OSError, IndexError, av.FFmpegError) as error:
        raise PictureError(f"{span.path}: cannot be decoded: {error}") from error
    return found


def _frame(
    container: av.container.InputContainer, stream: av.VideoStream, time: float, not_before: float, fps: float
) -> av.VideoFrame | None:
    """The key frame before ``time`` unless it lies before ``not_before``; else the frame nearest ``time``."""
    container.seek(max(0, int((time + _TOLERANCE_S) / stream.time_base)), stream=stream)
    for frame in container.decode(stream):
        is_first_choice = frame.key_frame and frame.time >= not_before - _TOLERANCE_S
        if is_first_choice or frame.time >= time - 0.5 / fps:
            return frame
    return None
