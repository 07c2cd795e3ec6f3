"""Pictures of a data set at the size the model reads, or what is made of them, kept on disk: made once.

<cache>/<key>/<camera>.u8      uint8 (frames, height, width, 3), row after row of the data set, nothing else
<cache>/<key>/cache.json       what it was made from, sizes, and check sums of a few pictures; written last
<cache>/<key>.lock             held by the process that builds it

The key is a hash of all that decides the pictures, so a cache is never out of date: another one is made instead, and
the old one may be deleted. A folder has its name only when it is complete.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pi05_progress.files.fingerprint import fingerprint
from pi05_progress.files.json_file import read_json
from pi05_progress.files.lock import locked
from pi05_progress.files.output_folder import OutputFolderError, output_folder
from pi05_progress.files.progress_bar import Advance, progress_bar
from pi05_progress.models.config import View

from ..datasets.reader import Dataset
from .config import DataConfigError
from .pictures import DecodedPictures

FORMAT = 2  # of the files; part of the key
INFO = "cache.json"
CHECKED = 16  # pictures per camera whose check sums are looked at when a cache is opened
SPARE_BYTES = 2**28  # that a build leaves free on the disk
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """What is kept of every frame and camera."""

    shapes: Mapping[str, tuple[int, ...]]  # by the model's name of the camera
    dtype: Any
    ending: str  # of the files' names
    option: str  # of the command line, which names the cache

    def bytes_each(self, camera: str) -> int:
        """Of one array."""
        return math.prod(self.shapes[camera]) * np.dtype(self.dtype).itemsize

    def file(self, folder: Path, camera: str) -> Path:
        """Where a camera's arrays are."""
        return folder / f"{camera}.{self.ending}"


class Cached:
    """Arrays of a cache, mapped into memory; processes share them. For ``starts`` see ``Dataset``."""

    def __init__(self, folder: Path, form: Form, starts: np.ndarray) -> None:
        self._args = (folder, form, starts)
        self._starts = starts
        self._files = {
            key: np.memmap(form.file(folder, key), form.dtype, "r", shape=(int(starts[-1]), *shape))
            for key, shape in form.shapes.items()
        }

    def read(self, episode: int, frame: int) -> dict[str, np.ndarray]:
        """See ``Pictures``; the arrays are views into the files."""
        row = self._starts[episode] + frame
        return {key: file[row] for key, file in self._files.items()}

    def __reduce__(self) -> tuple:
        return Cached, self._args


def cached_pictures(cache: Path, dataset: Dataset, features: Mapping[str, str], views: Mapping[str, View]) -> Cached:
    """Open the cache of a data set's pictures; see ``cached`` and ``DecodedPictures``."""
    form = Form({key: (*views[key].size, 3) for key in features}, np.uint8, "u8", "--data.cache")
    starts = dataset.starts

    def decode(folder: Path, advance: Advance) -> None:
        for key in features:
            pictures = DecodedPictures(dataset, features, views)
            _decode(form.file(folder, key), key, pictures, starts, form.bytes_each(key), advance)

    return cached(cache, dataset, form, picture_source(dataset, features, views), decode)


def cached(
    cache: Path, dataset: Dataset, form: Form, source: Mapping[str, Any], make: Callable[[Path, Advance], None]
) -> Cached:
    """Open the cache of a data set; it is built first if there is none. Several processes may do so at once.

    Args:
        source: all that decides what is in it, as plain values.
        make: writes the files into a folder, and says how many arrays are done.
    """
    key = fingerprint(source)
    folder, starts = cache / key, dataset.starts
    if not folder.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            text = "another process builds the cache %s; waiting for it"
            with locked(cache / f"{key}.lock", lambda: log.warning(text, folder)):
                if not folder.exists():  # another process may have built it meanwhile
                    _build(folder, dataset, form, source, make)
        except (OSError, OutputFolderError) as error:
            raise DataConfigError(f"{form.option} {cache}: cannot be written: {error}") from error
    _check(folder, form, int(starts[-1]))
    return Cached(folder, form, starts)


def picture_source(dataset: Dataset, features: Mapping[str, str], views: Mapping[str, View]) -> dict[str, Any]:
    """All that decides the pictures: where episodes lie in which video files, and those files' sizes and times."""
    episodes, files = [], {}
    for episode in dataset.episodes:
        spans = {key: episode.videos[name] for key, name in features.items()}
        for span in spans.values():
            try:
                found = span.path.stat()
            except OSError as error:
                raise DataConfigError(f"{span.path}: {error.strerror}; the data set is incomplete") from error
            files[str(span.path.relative_to(dataset.root))] = [found.st_size, found.st_mtime_ns]
        places = {key: [str(s.path.relative_to(dataset.root)), s.from_s] for key, s in spans.items()}
        episodes.append([episode.length, places])
    seen = {key: views[key] for key in features}
    return {"format": FORMAT, "seen": seen, "fps": dataset.fps, "episodes": episodes, "files": files}


def _build(
    folder: Path, dataset: Dataset, form: Form, source: Mapping[str, Any], make: Callable[[Path, Advance], None]
) -> None:
    frames = dataset.frame_count
    total = frames * sum(map(form.bytes_each, form.shapes))
    free = shutil.disk_usage(folder.parent).free
    if total + SPARE_BYTES > free:
        raise DataConfigError(
            f"{form.option} {folder.parent}: the pictures of {dataset.root} take {total / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free there; choose another disk, or do without a cache"
        )
    log.info("cache of %s: %d frames, %.2f GB, in %s", dataset.root, frames, total / 1e9, folder)
    with output_folder(folder) as partial:
        with progress_bar(f"cache, {total / 1e9:.1f} GB", frames * len(form.shapes), "pictures") as advance:
            make(partial, advance)
        spots = np.unique(np.linspace(0, frames - 1, min(frames, CHECKED)).round().astype(int)).tolist()
        sums = {
            key: {str(row): _sum(form.file(partial, key), row, form.bytes_each(key)) for row in spots}
            for key in form.shapes
        }
        info = {"made_from": str(dataset.root), "source": source, "frames": frames, "check_sums": sums}
        (partial / INFO).write_text(json.dumps(info), encoding="utf-8")  # the folder is brought to the disk as a whole


def _decode(
    path: Path, key: str, pictures: DecodedPictures, starts: np.ndarray, bytes_each: int, advance: Advance
) -> None:
    """Decode all pictures of one camera, several episodes at once, each in order."""
    stop = threading.Event()

    def episode(file: int, index: int) -> None:
        for frame in range(starts[index + 1] - starts[index]):
            if stop.is_set():
                return
            data = pictures.read_one(key, index, frame).tobytes()
            if os.pwrite(file, data, int(starts[index] + frame) * bytes_each) != bytes_each:
                raise OSError(f"{path}: written in part only; the disk is full")
            advance(1)

    with path.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        os.posix_fallocate(file.fileno(), 0, int(starts[-1]) * bytes_each)  # a full disk shows now
        running = [pool.submit(episode, file.fileno(), index) for index in range(len(starts) - 1)]
        try:
            for done in wait(running, return_when=FIRST_EXCEPTION).done:
                done.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _sum(path: Path, row: int, bytes_each: int) -> int:
    with path.open("rb") as file:
        file.seek(row * bytes_each)
        return zlib.crc32(file.read(bytes_each))


def _check(folder: Path, form: Form, frames: int) -> None:
    """Refuse a cache that is damaged, as far as sizes and a few arrays tell."""
    remedy = f"the cache is damaged; delete {folder}, it will be built anew"
    try:
        sums = read_json(folder / INFO)["check_sums"]
        for key in form.shapes:
            path, each = form.file(folder, key), form.bytes_each(key)
            if (found := path.stat().st_size) != frames * each:
                raise DataConfigError(f"{path}: {found} bytes, expected {frames * each}; {remedy}")
            if wrong := [row for row, known in sums[key].items() if _sum(path, int(row), each) != known]:
                raise DataConfigError(f"{path}: picture {', '.join(wrong)} is not what was written; {remedy}")
    except DataConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataConfigError(f"{folder}: {error!r}; {remedy}") from error
