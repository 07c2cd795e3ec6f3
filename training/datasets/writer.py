"""Writes a LeRobot v3.0 data set from episodes that lie ready as files: tables and metadata; videos are joined."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pi05_progress.files.output_file import output_file
from pi05_progress.robots.profile import RobotProfile

from . import layout
from .progress_meta import EpisodeMeta, Outcome, ProgressMeta, save_progress_meta
from .statistics import Stats, feature_stats, flattened, pool_episodes, save_stats
from .video import VideoOptions, join, video_info

MEGABYTE = 2**20
ROWS = 2048  # of a row group at most: what is held while writing does not grow with an episode
EPISODES_PER_FILE = 1000  # rows of one file of meta/episodes
VECTOR_FILES = {layout.STATE: "state.f32", layout.ACTION: "action.f32"}


@dataclass(frozen=True)
class EpisodeFiles:
    """An episode that lies ready: ``<camera>.mp4``, the files of ``VECTOR_FILES``, float32, row after row, and further
    columns as ``<feature>.npy``."""

    folder: Path
    frames: int
    task: str
    meta: EpisodeMeta
    picture_stats: Mapping[str, Stats]  # per camera


def features_of(profile: RobotProfile, sizes: Mapping[str, tuple[int, int]]) -> dict[str, layout.Feature]:
    """Features of a data set of one robot, without the default ones; sizes are (height, width)."""
    vector = layout.vector(profile.layout.vector_names(profile.vector_size))
    features = {layout.STATE: vector, layout.ACTION: dict(vector)}
    for camera, (height, width) in sizes.items():
        names = ["height", "width", "channels"]
        features[layout.IMAGES + camera] = {"dtype": "video", "shape": [height, width, 3], "names": names}
    return features | {layout.DONE: layout.scalar("bool"), layout.SUCCESS: layout.scalar("bool")}


def write_dataset(
    root: Path,
    episodes: Sequence[EpisodeFiles],
    profile: RobotProfile,
    sizes: Mapping[str, tuple[int, int]],
    fps: int,
    video: VideoOptions,
    columns: dict[str, layout.Feature],
) -> None:
    """Write all files of a data set into ``root``, which is there; sizes are (height, width), columns further ones."""
    features = features_of(profile, sizes) | columns
    tasks = list(dict.fromkeys(episode.task for episode in episodes))
    rows = _Rows(root, features, list(columns))
    places: list[dict[str, object]] = []
    stats: list[dict[str, Stats]] = []
    for index, episode in enumerate(episodes):
        placed, of_episode = rows.write(index, episode, tasks.index(episode.task), fps)
        of_episode |= {layout.IMAGES + camera: s for camera, s in episode.picture_stats.items()}
        places.append({"episode_index": index, "tasks": [episode.task], "length": episode.frames, **placed})
        stats.append(of_episode)
    rows.close()
    for camera in sizes:
        key = layout.IMAGES + camera
        for index, placed in enumerate(_write_videos(root, camera, episodes, fps)):
            places[index] |= placed
        first = root / layout.VIDEO_PATH.format(video_key=key, chunk_index=0, file_index=0)
        features[key]["info"] = video_info(first, fps, video)
    for row, of_episode in zip(places, stats, strict=True):
        row |= flattened(of_episode)
    _write_episodes(root, places)
    pq.write_table(layout.tasks_table(tasks), root / layout.TASKS)
    save_stats(root, pool_episodes(stats))
    save_progress_meta(root, ProgressMeta({index: episode.meta for index, episode in enumerate(episodes)}))
    total = sum(episode.frames for episode in episodes)
    info = layout.info(
        features, fps=fps, robot_type=profile.name, total_episodes=len(episodes), total_frames=total,
        total_tasks=len(tasks),
    )  # fmt: skip
    (root / layout.INFO).write_text(json.dumps(info, indent=4), encoding="utf-8")


class _Rows:
    """The data files: a row group per episode, or several for a long one; another file beyond LeRobot's size."""

    def __init__(self, root: Path, features: Mapping[str, layout.Feature], further: Sequence[str]) -> None:
        self._root, self._further = root, further
        self._schema = layout.arrow_schema({**features, **layout.DEFAULT_FEATURES})
        self._file, self._total = -1, 0
        self._writer: pq.ParquetWriter | None = None
        self._path = root

    def write(
        self, index: int, episode: EpisodeFiles, task_index: int, fps: int
    ) -> tuple[dict[str, object], dict[str, Stats]]:
        """Append an episode's rows; returns where they are and their statistics."""
        if self._writer is None or self._path.stat().st_size > layout.DATA_FILE_MB * MEGABYTE:
            self._next_file()
        columns = self._columns(index, episode, task_index, fps)
        for start in range(0, episode.frames, ROWS):
            arrays = [_arrow(columns[field.name][start : start + ROWS], field.type) for field in self._schema]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        placed: dict[str, object] = {f"data/{name}": value for name, value in _place(self._file).items()}
        placed |= {"dataset_from_index": self._total, "dataset_to_index": self._total + episode.frames}
        self._total += episode.frames
        return placed, {name: _stats(values) for name, values in columns.items()}

    def close(self) -> None:
        """Finish the last file."""
        if self._writer is not None:
            self._writer.close()

    def _next_file(self) -> None:
        self.close()
        self._file += 1
        self._path = self._root / layout.DATA_PATH.format(**_place(self._file))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._path, self._schema, **layout.compression(self._schema))

    def _columns(self, index: int, episode: EpisodeFiles, task_index: int, fps: int) -> dict[str, np.ndarray]:
        n, frames = episode.frames, np.arange(episode.frames)
        last = frames == n - 1
        return {
            name: np.memmap(episode.folder / file, np.float32, "r").reshape(n, -1)  # read as it is needed
            for name, file in VECTOR_FILES.items()
        } | {
            **{name: np.load(episode.folder / f"{name}.npy", mmap_mode="r") for name in self._further},
            layout.DONE: last,
            layout.SUCCESS: last & (episode.meta.outcome == Outcome.SUCCESS),
            "timestamp": (frames / fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(n, index),
            "index": frames + self._total,
            "task_index": np.full(n, task_index),
        }


def _stats(values: np.ndarray) -> Stats:
    """``feature_stats``, of vectors a few columns at a time."""
    if values.ndim == 1:
        return feature_stats(values)
    parts = [feature_stats(values[:, at : at + 4]) for at in range(0, values.shape[1], 4)]
    return {key: parts[0][key] if key == "count" else np.concatenate([p[key] for p in parts]) for key in parts[0]}


def _arrow(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), kind.value_type), type=kind)
    return pa.array(values, kind)


def _place(number: int) -> dict[str, int]:
    chunk, file = divmod(number, layout.CHUNK_SIZE)
    return {"chunk_index": chunk, "file_index": file}


def _write_videos(root: Path, camera: str, episodes: Sequence[EpisodeFiles], fps: int) -> Iterator[dict[str, object]]:
    """Join one camera's videos into files of LeRobot's size; yields where each episode is."""
    key = layout.IMAGES + camera
    files: list[list[EpisodeFiles]] = []
    size = math.inf
    for episode in episodes:
        own = (episode.folder / f"{camera}.mp4").stat().st_size
        if size + own > layout.VIDEO_FILE_MB * MEGABYTE:
            files.append([])
            size = 0
        files[-1].append(episode)
        size += own
    for number, within in enumerate(files):
        path = root / layout.VIDEO_PATH.format(video_key=key, **_place(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        join([(episode.folder / f"{camera}.mp4", episode.frames) for episode in within], path, fps)
        before = 0
        for episode in within:
            times = {"from_timestamp": before / fps, "to_timestamp": (before + episode.frames) / fps}
            yield {f"videos/{key}/{name}": value for name, value in {**_place(number), **times}.items()}
            before += episode.frames


def _write_episodes(root: Path, columns: Sequence[dict[str, object]]) -> None:
    for number, start in enumerate(range(0, len(columns), EPISODES_PER_FILE)):
        place = _place(number)
        path = root / layout.EPISODES_PATH.format(**place)
        own = {f"meta/episodes/{name}": value for name, value in place.items()}
        rows = [{**row, **own} for row in columns[start : start + EPISODES_PER_FILE]]
        with output_file(path) as partial:
            pq.write_table(pa.Table.from_pylist(rows), partial)
