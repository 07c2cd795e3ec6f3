"""Frames of a recorded episode as the policy gets them on the robot; pictures are decoded one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from pi05_progress.observation import RobotFrame
from pi05_progress.robots.profile import RobotProfile

from ..datasets import layout
from ..datasets.frames import FrameReader
from ..datasets.reader import Episode


def robot_frames(
    episode: Episode, states: Float32[np.ndarray, "n d"], profile: RobotProfile, fps: float, frames: Sequence[int]
) -> Iterator[RobotFrame]:
    """What the robot sensed in these frames, given in rising order.

    The pictures of a data set are already cropped and turned, as those of ``robots/messages.py`` are.

    Args:
        states: of all its frames.
        frames: from 0.

    Raises:
        PictureError: a video is missing, damaged, or lacks one of the frames.
    """
    with FrameReader(fps) as videos:
        for frame in frames:
            images = {key: videos.read(episode.videos[layout.IMAGES + key], frame) for key in profile.cameras}
            stamps = dict.fromkeys(images, round(frame / fps * 1e9))
            yield RobotFrame(images, np.asarray(states[frame], np.float32), stamps)
