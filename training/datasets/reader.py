"""Opening a LeRobot v3.0 data set and streaming its tables, one episode in memory at a time. Files are only read.

Videos are located, not decoded; see ``frames.py``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError, model_validator

from pi05_progress.errors import UserError
from pi05_progress.files.json_file import read_json
from pi05_progress.files.validation import problems

from . import layout

ROWS = 8192  # read at a time
LFS_REMEDY = "it is a Git LFS pointer, not the file: fetch the files with `git lfs pull`"


class DatasetError(UserError):
    """A data set is missing something or contradicts itself; the message names file and remedy."""


class VideoSpan(NamedTuple):
    """Where an episode lies in a camera's video file, in seconds from the file's start."""

    path: Path
    from_s: float
    to_s: float


@dataclass(frozen=True)
class Episode:
    """One episode as ``meta/episodes`` has it."""

    index: int
    length: int  # frames
    tasks: tuple[str, ...]  # instructions that occur in it, mostly one
    videos: dict[str, VideoSpan]  # per camera feature

    @property
    def task(self) -> str:
        """All its instructions as one text."""
        return "; ".join(self.tasks)


@dataclass(frozen=True)
class Dataset:
    """A data set's metadata. Make it with ``open_dataset``."""

    root: Path
    info: dict[str, Any]  # contents of ``meta/info.json``
    tasks: tuple[str, ...]  # instruction by task index
    episodes: tuple[Episode, ...]  # in the order of their index

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.info["fps"]

    @property
    def features(self) -> dict[str, layout.Feature]:
        """Features by name: dtype, shape, names."""
        return self.info["features"]

    @property
    def frame_count(self) -> int:
        """Frames of all episodes."""
        return sum(episode.length for episode in self.episodes)

    @property
    def starts(self) -> np.ndarray:
        """The row of each episode's first frame, and the number of rows at the end."""
        return np.cumsum([0, *(episode.length for episode in self.episodes)])

    @property
    def cameras(self) -> list[str]:
        """Names of the features that are videos."""
        return [name for name, feature in self.features.items() if feature["dtype"] == "video"]

    def chosen(self, indices: Collection[int]) -> list[int]:
        """These episodes in order, or all if none is given; a ``UserError`` says which are not there."""
        count = len(self.episodes)
        if unknown := [index for index in indices if not 0 <= index < count]:
            raise UserError(f"--episodes: there is no episode {unknown}; the data set has 0 to {count - 1}")
        return sorted(set(indices)) or list(range(count))

    def data_files(self) -> list[Path]:
        """The Parquet files with frames, in order."""
        return _parquet_files(self.root / layout.DATA)

    def missing_videos(self) -> list[Path]:
        """Video files that the metadata promises and that are not there."""
        paths = {span.path: None for episode in self.episodes for span in episode.videos.values()}
        return [path for path in paths if not path.is_file()]

    def require(self, names: Sequence[str]) -> None:
        """Refuse a data set that lacks one of these features; those that are there are named."""
        if missing := [name for name in names if name not in self.features]:
            raise DatasetError(f"{self.root}: no feature {', '.join(missing)}; it has {', '.join(self.features)}")

    def frames(
        self, columns: Sequence[str], episodes: Collection[int] | None = None
    ) -> Iterator[tuple[Episode, dict[str, np.ndarray]]]:
        """Columns of one episode after the other, in the order of the files.

        Args:
            columns: features that have columns.
            episodes: only these indices; all if None.

        Yields:
            An episode, and per column (n, d), or (n,) for features of one number, in the order of frames.

        Raises:
            DatasetError: a column is missing, the rows of an episode are not its frames 0 to ``length - 1``, or an
                episode is there twice or, as only the end can tell, not at all.
        """
        self.require(columns)
        wanted = ["episode_index", "frame_index", *columns]
        seen: set[int] = set()
        for path in self.data_files():
            with open_parquet(path) as file:
                if missing := [name for name in wanted if name not in file.schema_arrow.names]:
                    raise DatasetError(f"{path}: no column {', '.join(missing)}, which {layout.INFO} promises")
                for episode, table in self.tables(path, file, list(dict.fromkeys(wanted))):
                    if episode.index in seen:
                        raise DatasetError(f"{path}: rows of episode {episode.index} are there twice; copy it anew")
                    seen.add(episode.index)
                    if episodes is None or episode.index in episodes:
                        yield episode, {name: array_of(table[name], f"{path}: {name}") for name in columns}
        self.refuse_missing(seen, episodes)

    def refuse_missing(self, seen: Collection[int], wanted: Collection[int] | None = None) -> None:
        """Refuse a data set of which an episode was not seen: a data file is missing."""
        missing = [e.index for e in self.episodes if e.index not in seen and (wanted is None or e.index in wanted)]
        if missing:
            named = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
            raise DatasetError(
                f"{self.root / layout.DATA}: no rows of {len(missing)} of {len(self.episodes)} episodes ({named}); a "
                "file is missing, so copy the data set anew"
            )

    def tables(
        self, path: Path, file: pq.ParquetFile, columns: list[str] | None = None
    ) -> Iterator[tuple[Episode, pa.Table]]:
        """Rows of an opened data file, whole ones without ``columns``, one episode after the other; see ``frames``."""
        by_index = {episode.index: episode for episode in self.episodes}
        parts: list[pa.Table] = []
        current: Episode | None = None
        for batch in _batches(path, file, columns):
            indices = batch["episode_index"].to_numpy()
            starts = np.flatnonzero(np.diff(indices, prepend=indices[0] - 1))
            for start, stop in zip(starts, [*starts[1:], len(indices)], strict=True):
                if parts and indices[start] != current.index:
                    yield current, _checked(path, current, parts)
                    parts = []
                if (current := by_index.get(int(indices[start]))) is None:
                    raise DatasetError(
                        f"{path}: rows of episode {indices[start]}, which {layout.EPISODES} does not list"
                    )
                parts.append(batch.slice(start, stop - start))
        if parts:
            yield current, _checked(path, current, parts)


def _batches(path: Path, file: pq.ParquetFile, columns: list[str] | None) -> Iterator[pa.Table]:
    try:
        for batch in file.iter_batches(batch_size=ROWS, columns=columns):
            if batch.num_rows:
                yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read: {error}; copy it anew") from error


def _checked(path: Path, episode: Episode, parts: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables(parts)
    frames = table["frame_index"].to_numpy()
    if not np.array_equal(frames, np.arange(episode.length)):
        raise DatasetError(
            f"{path}: episode {episode.index} has {len(frames)} rows with frame_index {frames[0]} to {frames[-1]}, "
            f"expected 0 to {episode.length - 1} in order as {layout.EPISODES} says; the data set contradicts itself"
        )
    return table


def array_of(column: pa.ChunkedArray, what: str) -> np.ndarray:
    """A column as an array: (n, d) from lists of one length, else (n,); nulls and several axes are refused."""
    if column.null_count:
        raise DatasetError(f"{what}: {column.null_count} empty values")
    if not pa.types.is_nested(column.type):
        return column.to_numpy()
    lengths, values = pc.unique(pc.list_value_length(column)).to_pylist(), pc.list_flatten(column)
    if len(lengths) != 1 or values.null_count or pa.types.is_nested(values.type):
        raise DatasetError(f"{what}: expected lists of one length with numbers, found {column.type}, lengths {lengths}")
    return values.to_numpy().reshape(len(column), -1)


def _parquet_files(folder: Path) -> list[Path]:
    if not (files := sorted(folder.glob("*/*.parquet"))):
        raise DatasetError(f"{folder}: no Parquet files; the data set is incomplete")
    return files


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file, opened for reading; one that is missing or damaged is refused."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise DatasetError(f"{path}: is missing; the data set is incomplete") from None
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: not a readable Parquet file: {error}; {remedy(path)}") from error


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git left a pointer in the file's place."""
    with path.open("rb") as file:
        return file.read(20).startswith(b"version https://git")


def remedy(path: Path) -> str:
    """What to do about a file that cannot be read."""
    return LFS_REMEDY if path.is_file() and is_lfs_pointer(path) else "copy it anew"


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A whole Parquet file; see ``open_parquet`` for errors."""
    with open_parquet(path) as file:
        try:
            return file.read(columns)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: cannot be read: {error}; copy it anew") from error


class _Feature(BaseModel):
    dtype: str
    shape: list[int]


class _Info(BaseModel):
    """What is needed of ``meta/info.json``."""

    fps: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
    features: dict[str, _Feature]
    total_episodes: int
    total_frames: int
    video_path: str | None = None

    @model_validator(mode="after")
    def _videos_have_a_place(self) -> _Info:
        if self.video_path is None and any(feature.dtype == "video" for feature in self.features.values()):
            raise ValueError("video_path is missing, though there are videos among the features")
        return self


def open_dataset(root: Path) -> Dataset:
    """Read a data set's metadata; what is no data set, of another version, or incomplete is refused."""
    root = root.absolute()  # pyarrow and FFmpeg take "run:1/data" for an address
    info, tasks = _info(root), _tasks(root / layout.TASKS)
    episodes = sorted(_episodes(root, info), key=lambda episode: episode.index)
    if [episode.index for episode in episodes] != list(range(len(episodes))) or not episodes:
        raise DatasetError(
            f"{root / layout.EPISODES}: episode_index is {[e.index for e in episodes]}, expected 0, 1, 2 ... without "
            "gaps; take the data set as it was, and remove episodes with lerobot-edit-dataset, which numbers the others"
        )
    frames = sum(episode.length for episode in episodes)
    if (len(episodes), frames) != (info["total_episodes"], info["total_frames"]):
        raise DatasetError(
            f"{root / layout.EPISODES}: {len(episodes)} episodes with {frames} frames, but {layout.INFO} says "
            f"{info['total_episodes']} and {info['total_frames']}; the data set is incomplete"
        )
    return Dataset(root, info, tasks, tuple(episodes))


def named_folders(text: str) -> list[str]:
    """The folders in a list that is separated by commas; a comma may also be in the name of one that is there."""
    parts, names = text.split(","), []
    while parts:
        several = (n for n in range(len(parts), 1, -1) if Path(",".join(parts[:n]).strip()).expanduser().is_dir())
        count = next(several, 1)
        names.append(",".join(parts[:count]).strip())
        parts = parts[count:]
    return [name for name in names if name]


def _tasks(path: Path) -> tuple[str, ...]:
    table = read_parquet(path)
    text = next((name for name in ("task", "__index_level_0__") if name in table.column_names), "")  # LeRobot's own
    if not text or "task_index" not in table.column_names:
        raise DatasetError(f"{path}: it needs columns task and task_index, and has {', '.join(table.column_names)}")
    tasks = dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))
    if set(tasks) != set(range(len(tasks))):
        raise DatasetError(
            f"{path}: task_index is {list(tasks)}, expected 0 to {len(tasks) - 1} without gaps; take the data set as "
            "it was, and remove episodes with lerobot-edit-dataset, which numbers tasks anew"
        )
    return tuple(tasks[index] for index in range(len(tasks)))


def _info(root: Path) -> dict[str, Any]:
    path = root / layout.INFO
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    if not path.is_file():
        raise DatasetError(f"{root}: not a LeRobot data set, {layout.INFO} is missing")
    try:
        info = read_json(path)
        version = info["codebase_version"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error!r}; {remedy(path)}") from error
    if version != layout.CODEBASE_VERSION:
        raise DatasetError(
            f"{path}: codebase_version is {version}, needed is {layout.CODEBASE_VERSION}; {_remedy(root, version)}"
        )
    try:
        _Info.model_validate(info)
    except ValidationError as error:
        raise DatasetError(f"{path}: {problems(error)}; correct it, or copy the data set anew") from error
    return info


def _remedy(root: Path, version: object) -> str:
    if version == "v2.1":
        root = root.resolve()
        name = re.sub(r"\W+", "_", root.name, flags=re.ASCII)  # of no matter with --root
        return (
            "convert it with LeRobot's own tool, in an environment with LeRobot: python -m "
            f"lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=local/{name} --root={shlex.quote(str(root))} "
            f"--push-to-hub=false (it works in place and keeps what was there as {root.name}_old beside it; no folder "
            "of that name may be there before)"
        )
    if str(version).startswith(("v1", "v2")):
        return "bring it to v2.1 with the tools of LeRobot 0.3, then to v3.0 as docs/convert.md says"
    return "it is of another LeRobot than this program knows; look for a newer version of this program"


def _episodes(root: Path, info: dict[str, Any]) -> Iterator[Episode]:
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    parts = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    wanted = ["episode_index", "length", "tasks", *(f"videos/{key}/{part}" for key in cameras for part in parts)]
    for path in _parquet_files(root / layout.EPISODES):
        with open_parquet(path) as file:
            if missing := [name for name in wanted if name not in file.schema_arrow.names]:
                raise DatasetError(f"{path}: no column {', '.join(missing)}")
        for row in read_parquet(path, wanted).to_pylist():
            if empty := [name for name, value in row.items() if value is None] + ["length"] * (row["length"] == 0):
                raise DatasetError(
                    f"{path}: {empty[0]} of episode {row['episode_index']} is missing or 0; remove the episode with "
                    "lerobot-edit-dataset, or copy the data set anew"
                )
            videos = {}
            for key in cameras:
                chunk, number, start, end = (row[f"videos/{key}/{part}"] for part in parts)
                name = info["video_path"].format(video_key=key, chunk_index=chunk, file_index=number)
                videos[key] = VideoSpan(root / name, start, end)
            yield Episode(row["episode_index"], row["length"], tuple(row["tasks"]), videos)
