"""Pictures of a data set at the size the model reads, decoded once and kept on disk.

<cache>/<key>/<camera>.u8      uint8 (frames, height, width, 3), row after row of the data set, nothing else
<cache>/<key>/cache.json       what it was made from, sizes, and check sums of a few pictures; written last
<cache>/<key>.lock             held by the process that builds it

The key is a hash of all that decides the pictures, so a cache is never out of date: another one is made instead, and
the old one may be deleted. A folder has its name only when it is complete.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pi05_progress.files.fingerprint import fingerprint
from pi05_progress.files.json_file import read_json
from pi05_progress.files.lock import locked
from pi05_progress.files.output_folder import OutputFolderError, output_folder
from pi05_progress.files.progress_bar import progress_bar

from ..datasets.reader import Dataset
from .config import DataConfigError
from .pictures import DecodedPictures

FORMAT = 1  # of the files; part of the key
INFO = "cache.json"
CHECKED = 16  # pictures per camera whose check sums are looked at when a cache is opened
SPARE_BYTES = 2**28  # that a build leaves free on the disk
log = logging.getLogger(__name__)


class CachedPictures:
    """Pictures of a cache, mapped into memory; processes share them.

    Args:
        starts: row of each episode's first frame, and their number at the end.
    """

    def __init__(self, folder: Path, cameras: tuple[str, ...], size: tuple[int, int], starts: np.ndarray) -> None:
        self._args = (folder, cameras, size, starts)
        self._starts = starts
        shape = (int(starts[-1]), *size, 3)
        self._files = {key: np.memmap(_file(folder, key), np.uint8, "r", shape=shape) for key in cameras}

    def read(self, episode: int, frame: int) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
        """See ``Pictures``; the arrays are views into the files."""
        row = self._starts[episode] + frame
        return {key: file[row] for key, file in self._files.items()}

    def __reduce__(self) -> tuple:
        return CachedPictures, self._args


def cached_pictures(
    cache: Path, dataset: Dataset, features: Mapping[str, str], size: tuple[int, int]
) -> CachedPictures:
    """Open the cache of a data set; it is built first if there is none. Several processes may do so at once.

    Args:
        features: the data set's feature for each of the model's cameras.
        size: (height, width) of the model's pictures.

    Raises:
        DataConfigError: the cache is damaged, or cannot be written.
        PictureError: a video is missing, damaged or too short.
    """
    source = _source(dataset, features, size)
    key = fingerprint(source)
    folder = cache / key
    starts = np.cumsum([0, *(episode.length for episode in dataset.episodes)])
    if not folder.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            text = "another process builds the cache %s; waiting for it"
            with locked(cache / f"{key}.lock", lambda: log.warning(text, folder)):
                if not folder.exists():  # another process may have built it meanwhile
                    _build(folder, dataset, features, size, starts, source)
        except (OSError, OutputFolderError) as error:
            raise DataConfigError(f"--data.cache {cache}: cannot be written: {error}") from error
    _check(folder, tuple(features), size, int(starts[-1]))
    return CachedPictures(folder, tuple(features), size, starts)


def _source(dataset: Dataset, features: Mapping[str, str], size: tuple[int, int]) -> dict[str, Any]:
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
    return {"format": FORMAT, "size": list(size), "fps": dataset.fps, "episodes": episodes, "files": files}


def _file(folder: Path, camera: str) -> Path:
    return folder / f"{camera}.u8"


def _build(
    folder: Path,
    dataset: Dataset,
    features: Mapping[str, str],
    size: tuple[int, int],
    starts: np.ndarray,
    source: Mapping[str, Any],
) -> None:
    frames, bytes_each = int(starts[-1]), size[0] * size[1] * 3
    total = frames * bytes_each * len(features)
    free = shutil.disk_usage(folder.parent).free
    if total + SPARE_BYTES > free:
        raise DataConfigError(
            f"--data.cache {folder.parent}: the pictures of {dataset.root} take {total / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free there; choose another disk, or do without a cache"
        )
    log.info("cache of %s: %d frames, %.2f GB, in %s", dataset.root, frames, total / 1e9, folder)
    with output_folder(folder) as partial:
        what = f"cache, {total / 1e9:.1f} GB"
        with progress_bar(what, frames * len(features), "pictures") as advance:
            for key in features:
                _decode(_file(partial, key), key, DecodedPictures(dataset, features, size), starts, bytes_each, advance)
        spots = np.unique(np.linspace(0, frames - 1, min(frames, CHECKED)).round().astype(int)).tolist()
        sums = {key: {str(row): _sum(_file(partial, key), row, bytes_each) for row in spots} for key in features}
        info = {"made_from": str(dataset.root), "source": source, "frames": frames, "check_sums": sums}
        (partial / INFO).write_text(json.dumps(info), encoding="utf-8")  # the folder is brought to the disk as a whole


def _decode(path: Path, key: str, pictures: DecodedPictures, starts: np.ndarray, bytes_each: int, advance: Any) -> None:
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


def _check(folder: Path, cameras: tuple[str, ...], size: tuple[int, int], frames: int) -> None:
    """Refuse a cache that is damaged, as far as sizes and a few pictures tell."""
    bytes_each = size[0] * size[1] * 3
    remedy = f"the cache is damaged; delete {folder}, it will be built anew"
    try:
        sums = read_json(folder / INFO)["check_sums"]
        for key in cameras:
            path = _file(folder, key)
            if (found := path.stat().st_size) != frames * bytes_each:
                raise DataConfigError(f"{path}: {found} bytes, expected {frames * bytes_each}; {remedy}")
            if wrong := [row for row, known in sums[key].items() if _sum(path, int(row), bytes_each) != known]:
                raise DataConfigError(f"{path}: picture {', '.join(wrong)} is not what was written; {remedy}")
    except DataConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataConfigError(f"{folder}: {error!r}; {remedy}") from error
