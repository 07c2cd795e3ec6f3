"""Pictures of a data set at the size the model reads, decoded when they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from pi05_progress.models.config import View
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.transforms import seen

from ..datasets import layout
from ..datasets.frames import FrameReader
from ..datasets.reader import Dataset
from .config import DataConfigError


class Pictures(Protocol):
    """Where pictures of a data set come from. Thread-safe, and goes to other processes by pickling."""

    def read(self, episode: int, frame: int) -> dict[str, UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "n w"]]:
        """The pictures of a frame by the model's camera keys, or what a vision tower made of them."""


def camera_features(dataset: Dataset, profile: RobotProfile, cameras: tuple[str, ...]) -> dict[str, str]:
    """The data set's feature, a video, for each of the model's cameras that is used; unknown ones are refused."""
    if unknown := [key for key in cameras if key not in profile.cameras]:
        raise DataConfigError(
            f"cameras: {', '.join(unknown)} is not in robot profile {profile.name}; it has {', '.join(profile.cameras)}"
        )
    used = {key: camera for key, camera in profile.cameras.items() if not cameras or key in cameras}
    features = {camera.model_input: layout.IMAGES + key for key, camera in used.items()}
    for name in features.values():
        if name not in dataset.features:
            has = [key for key in profile.cameras if layout.IMAGES + key in dataset.features]
            remedy = f"choose --data.cameras {' '.join(has)} to train without it" if has else "this needs pictures"
            raise DataConfigError(
                f"{dataset.root / layout.INFO}: no feature {name}; {remedy}, or take the profile of the robot that "
                "recorded it (--data.robot)"
            )
        if (kind := dataset.features[name]["dtype"]) != "video":
            raise DataConfigError(
                f"{dataset.root / layout.INFO}: {name} is stored as {kind}, expected video; convert the data set to "
                "video with LeRobot's lerobot-edit-dataset"
            )
    return features


class DecodedPictures:
    """Decodes the videos of a data set, ``features`` by the model's cameras, as it sees them (``views``); every thread
    has decoders of its own."""

    def __init__(self, dataset: Dataset, features: Mapping[str, str], views: Mapping[str, View]) -> None:
        self._dataset, self._features, self._views = dataset, dict(features), dict(views)
        self._local = threading.local()

    def read(self, episode: int, frame: int) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
        """See ``Pictures``."""
        return {key: self.read_one(key, episode, frame) for key in self._features}

    def read_one(self, key: str, episode: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of one camera."""
        if not hasattr(self._local, "reader"):
            self._local.reader = FrameReader(self._dataset.fps)
        span = self._dataset.episodes[episode].videos[self._features[key]]
        return seen(self._local.reader.read(span, frame), *self._views[key])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())
