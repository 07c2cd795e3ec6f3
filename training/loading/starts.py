"""How the episodes of data sets begin, for the checkpoint that is trained on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pi05_progress.checkpoints.starts import MOST, SIZE, Starts
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.transforms import resize_with_pad

from ..datasets import layout
from ..datasets.frames import FrameReader
from ..datasets.reader import Dataset
from .pictures import camera_features


def gather_starts(datasets: Sequence[Dataset], profile: RobotProfile, cameras: tuple[str, ...] = ()) -> Starts:
    """First frames of about ``MOST`` episodes, as many of each data set; pictures only where all its videos are there,
    and of these cameras, by their keys in the profile; all if none is given."""
    pictures: dict[str, list[np.ndarray]] = {}
    states, tasks = [], set[str]()
    for dataset in datasets:
        tasks.update(dataset.tasks)
        count = min(len(dataset.episodes), -(-MOST // len(datasets)))
        chosen = {round(i) for i in np.linspace(0, len(dataset.episodes) - 1, count)}
        states += [of[layout.STATE][0] for _, of in dataset.frames([layout.STATE], chosen)]
        if dataset.missing_videos():
            continue
        with FrameReader(dataset.fps) as reader:
            for key, feature in camera_features(dataset, profile, cameras).items():
                spans = (dataset.episodes[i].videos[feature] for i in sorted(chosen))
                pictures.setdefault(key, []).extend(resize_with_pad(reader.read(span, 0), *SIZE) for span in spans)
    return Starts.of(profile, {key: np.stack(of) for key, of in pictures.items()}, np.stack(states), tasks)
