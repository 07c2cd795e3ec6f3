"""What a vision tower that no longer changes makes of all pictures: computed once, kept on disk, and loaded.

<cache>/<key>/<camera>.tokens  (frames, tokens, width) in the model's dtype, else as the cache of pictures

The key is a hash of what decides the pictures, of the tower's sizes and of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from pi05_progress.files.progress_bar import Advance
from pi05_progress.models.config import View

from ..datasets.reader import Dataset
from .cache import Cached, Form, cached, picture_source
from .mirror import MirroredPictures
from .pictures import Pictures

AT_ONCE = 128  # frames that go through the tower together


@dataclass(frozen=True)
class Tower:
    """A vision tower with its parameters."""

    name: str  # a hash of its sizes and parameters
    shape: tuple[int, int]  # of a picture's tokens
    dtype: Any  # of these
    # from pictures to tokens, by camera
    tokens: Callable[[Mapping[str, UInt8[np.ndarray, "b h w 3"]]], Mapping[str, Float[np.ndarray, "b n w"]]]


def cached_features(
    cache: Path,
    dataset: Dataset,
    features: Mapping[str, str],
    views: Mapping[str, View],
    pictures: Pictures,
    tower: Tower,
    threads: int,
) -> Cached:
    """Open the cache of a data set's tokens; they are computed first, in so many threads that read ``pictures``, if
    there is none. ``Cached.read`` gives them."""
    form = Form(dict.fromkeys(features, tower.shape), tower.dtype, "tokens", "--data.features")

    def make(folder: Path, advance: Advance) -> None:
        frames = [(episode.index, frame) for episode in dataset.episodes for frame in range(episode.length)]
        with ExitStack() as stack, ThreadPoolExecutor(threads) as pool:
            files = {key: stack.enter_context(form.file(folder, key).open("wb")) for key in form.shapes}
            for some in batched(frames, AT_ONCE):
                read = list(pool.map(lambda of: pictures.read(*of), some))
                read += read[:1] * (AT_ONCE - len(read))  # the last ones, too, in the shape that is compiled
                tokens = tower.tokens({key: np.stack([of[key] for of in read]) for key in form.shapes})
                for key, file in files.items():
                    file.write(np.asarray(tokens[key], form.dtype)[: len(some)].tobytes())
                advance(len(some) * len(files))

    source = {**picture_source(dataset, features, views), "tower": tower.name}
    if isinstance(pictures, MirroredPictures):
        source["mirror"] = True
    return cached(cache, dataset, form, source, make)
