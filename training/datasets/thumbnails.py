"""A few small pictures of an episode, at the cost of decoding little more than key frames."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from .frames import VideoReader
from .reader import VideoSpan


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
    taken = span.from_s - 1.0
    with VideoReader(span.path, fps) as video:
        for time in wanted:
            frame = video.near(time, max(span.from_s, taken + 0.5 / fps))
            taken = float(frame.time)
            width = max(2, round(frame.width * height / frame.height))
            image = frame.reformat(width, height, "rgb24").to_ndarray()
            found.append(Thumbnail(max(0.0, taken - span.from_s), image))
    return found
