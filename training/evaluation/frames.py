"""Frames of a recorded episode as the policy gets them on the robot; pictures are decoded one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import av
import numpy as np
from jaxtyping import Float32

from pi05_progress.observation import RobotFrame
from pi05_progress.robots.profile import RobotProfile

from ..datasets import layout
from ..datasets.reader import Dataset, DatasetError, Episode, VideoSpan
from ..datasets.thumbnails import PictureError


def check_robot(dataset: Dataset, profile: RobotProfile) -> None:
    """Refuse a data set of another robot than the profile's.

    Raises:
        DatasetError: it says so itself, or cameras or the state's layout differ.
    """
    recorded = dataset.info.get("robot_type")
    if recorded not in (None, "", "unknown", profile.name):
        raise DatasetError(
            f"{dataset.root}: recorded with robot {recorded!r} ({layout.INFO}), the policy is for {profile.name!r}; "
            "evaluate on data of that robot"
        )
    dataset.require([layout.STATE, *(layout.IMAGES + key for key in profile.cameras)])
    size = dataset.features[layout.STATE]["shape"][0]
    if size not in profile.layout.vector_sizes:
        raise DatasetError(
            f"{dataset.root}: {layout.STATE} has {size} numbers, robot {profile.name} has "
            f"{' or '.join(map(str, profile.layout.vector_sizes))}; evaluate on data of that robot"
        )


def pictures(span: VideoSpan, fps: float, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """Pictures uint8 (h, w, 3) RGB of an episode's frames, which are given in rising order.

    Raises:
        PictureError: the file is missing, damaged, or lacks one of the frames.
    """
    wanted = iter(frames)
    index = next(wanted, None)
    try:
        with av.open(str(span.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            container.seek(max(0, int((span.from_s + 1e-3) / stream.time_base)), stream=stream)
            for picture in container.decode(stream):
                if index is None:
                    return
                number = round((picture.time - span.from_s) * fps)
                if number > index:
                    break
                if number == index:
                    yield picture.to_ndarray(format="rgb24")
                    index = next(wanted, None)
    except (OSError, IndexError, av.FFmpegError) as error:
        raise PictureError(f"{span.path}: cannot be decoded: {error}") from error
    if index is not None:
        raise PictureError(f"{span.path}: no frame {index} of the episode that begins at {span.from_s:.3f} s")


def robot_frames(
    episode: Episode, states: Float32[np.ndarray, "n d"], profile: RobotProfile, fps: float, frames: Sequence[int]
) -> Iterator[RobotFrame]:
    """What the robot sensed in these frames, given in rising order.

    The pictures of a data set are already cropped and turned, as those of ``robots/messages.py`` are.

    Args:
        episode: where its videos are.
        states: of all its frames.
        profile: names the cameras.
        fps: of the recording.
        frames: from 0.

    Raises:
        PictureError: see ``pictures``.
    """
    streams = {key: pictures(episode.videos[layout.IMAGES + key], fps, frames) for key in profile.cameras}
    try:
        for frame, *images in zip(frames, *streams.values(), strict=True):
            stamp_ns = round(frame / fps * 1e9)
            stamps = dict.fromkeys(streams, stamp_ns)
            yield RobotFrame(dict(zip(streams, images, strict=True)), np.asarray(states[frame], np.float32), stamps)
    finally:
        for stream in streams.values():
            stream.close()
