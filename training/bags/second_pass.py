"""The second pass: one episode of a recording becomes videos and a table, in one reading and in bounded memory.

The reading thread makes the table and hands pictures to one thread per camera, which decodes, chooses and encodes; a
short queue in between blocks when it is full, so nothing is dropped and little is held. No camera waits for another:
the times of all frames are known beforehand.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.datasets.frames import Thumbnail
from training.datasets.layout import ACTION, DEMONSTRATION_VALID, STATE
from training.datasets.statistics import Stats, picture_stats, sample_frames
from training.datasets.video import VideoFile
from training.datasets.writer import VECTOR_FILES

from .columns import Columns, rows_of, within
from .episodes import Candidate
from .first_pass import Scan
from .message_types import Stored
from .options import Options
from .pictures import Pictures
from .reading import Bag
from .samples import GapError, SendersError, TrackCounts
from .segments import Gap, Segment, plan_segments
from .table import Table
from .timeline import message_time_ns

QUEUE = 4  # messages waiting for a camera's thread
THUMBNAILS = 5  # per camera and episode
THUMBNAIL_HEIGHT = 96
Sizes = Mapping[str, tuple[int, int]]  # (height, width) of the pictures that are stored, by camera
MAX_REPLANS = 100  # gaps that only the second pass finds, in one episode


@dataclass
class Part:
    """One episode of the data set, as files in a folder: ``<camera>.mp4`` and those of ``VECTOR_FILES``."""

    folder: str
    start_ns: int  # of the first frame
    frames: int
    part: int  # which piece of a split episode it is, counted from 0
    parts: int
    milestones: list[tuple[str, int]]  # label and frame
    ends: bool  # whether it reaches the episode's end, so that the outcome is its own
    not_to_imitate: int = 0  # frames
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # per input what its samples were like
    thumbnails: dict[str, list[str]] = field(default_factory=dict)  # per camera URLs that are pictures
    picture_stats: dict[str, dict[str, list]] = field(default_factory=dict)  # per camera, see ``picture_stats``


@dataclass
class Converted:
    """What became of an episode: its parts, or why there are none."""

    parts: list[Part]
    reasons: list[str]
    notes: list[str]


def convert_episode(
    bag: Bag, scan: Scan, candidate: Candidate, options: Options, sizes: Sizes, columns: Columns, folder: Path
) -> Converted:
    """Make an episode's files in ``folder``, which is there, with these further columns.

    A gap that only turns up now, from samples that cannot be used, drops or splits the episode as one known before.
    """
    found: list[Gap] = []
    for _ in range(MAX_REPLANS):
        plan = plan_segments(candidate, scan, options, found)
        try:
            parts = []
            for segment in plan.segments:
                out = folder / f"part_{segment.part:03d}"
                out.mkdir(exist_ok=True)
                parts.append(_made(bag, scan, candidate, segment, options, sizes, columns, out))
            return Converted(parts, plan.reasons, plan.notes)
        except GapError as gap:
            found.append(Gap(segment, gap))
        except SendersError as error:
            return Converted([], [str(error)], plan.notes)
    return Converted([], [*plan.reasons, f"more than {MAX_REPLANS} gaps"], plan.notes)


def _made(
    bag: Bag,
    scan: Scan,
    candidate: Candidate,
    segment: Segment,
    options: Options,
    sizes: Sizes,
    columns: Columns,
    folder: Path,
) -> Part:
    """Make a segment's files in a folder."""
    grid, failed = segment.grid, threading.Event()
    taken_over = within(candidate.taken_over if options.actions == "policy" else (), segment)
    cameras: dict[str, _Camera] = {}
    for source in scan.inputs.of_role("camera"):
        pictures = Pictures(source, options, grid, bag.deserialize, sizes[source.name])
        cameras[source.name] = _Camera(pictures, folder / f"{source.name}.mp4", options, failed)
    by_topic = scan.inputs.by_topic()
    state, action = (folder / VECTOR_FILES[name] for name in (STATE, ACTION))
    with state.open("wb") as states, action.open("wb") as actions, ThreadPoolExecutor(len(cameras)) as threads:
        table = Table(options, scan, grid, taken_over, states.write, actions.write, bag.deserialize)
        made = {name: threads.submit(camera.make) for name, camera in cameras.items()}
        try:
            for message in bag.messages(by_topic.keys(), *segment.read):
                if failed.is_set():
                    break
                for source in by_topic[message.topic]:
                    stamp = message_time_ns(message, source, scan.clock_offset_ns)
                    if source.role == "camera":
                        cameras[source.name].queue.put((stamp, message))  # waits while there is enough to do
                    else:
                        table.push(source.name, stamp, message)
                        table.advance()
        except BaseException:
            failed.set()
            raise
        finally:
            for camera in cameras.values():
                camera.queue.put(None)
        for camera in made.values():
            if (error := camera.exception()) and not isinstance(error, _AbandonedError):
                raise error
        table.close()
    counts = {name: camera.pictures.track.counts for name, camera in cameras.items()}
    counts |= {name: track.counts for name, track in table.tracks.items() if track.counts.received}
    rows = rows_of(columns, bag, scan.truth, candidate, segment, options.profile)
    valid = rows.get(DEMONSTRATION_VALID, np.ones(grid.count, bool))
    valid &= ~table.idle
    for name, values in rows.items():
        np.save(folder / f"{name}.npy", values)
    stats = {n: {key: np.asarray(v).tolist() for key, v in camera.result().items()} for n, camera in made.items()}
    return Part(
        folder.name,
        grid.start_ns,
        grid.count,
        segment.part,
        segment.parts,
        _milestones(candidate, segment),
        _reaches_end(candidate, segment, options.max_gap_ns),
        int((~valid).sum()) if DEMONSTRATION_VALID in rows else 0,
        inputs={name: _facts(of) for name, of in counts.items()},
        thumbnails={name: camera.thumbnails for name, camera in cameras.items()},
        picture_stats=stats,
    )


class _Camera:
    """Makes one camera's video, in a thread of its own, from the messages in its ``queue``; None ends them."""

    def __init__(self, pictures: Pictures, path: Path, options: Options, failed: threading.Event) -> None:
        self.pictures = pictures
        self.thumbnails: list[str] = []
        self.queue: queue.Queue[tuple[int, Stored] | None] = queue.Queue(QUEUE)
        self._path, self._options, self._failed, self._ended = path, options, failed, False

    def make(self) -> Stats:
        """Statistics of the pictures, when the video is complete."""
        try:
            with VideoFile(self._path, self._options.fps, self._options.video) as video:
                return picture_stats(self._encoded(video))
        except BaseException:
            self._failed.set()
            raise
        finally:
            while not self._ended:  # the reading thread may be waiting for room
                self._ended = self.queue.get() is None

    def _encoded(self, video: VideoFile) -> Iterator[np.ndarray]:
        """Encodes every picture, yields those that statistics are made of."""
        count = self.pictures.count
        sampled = set(sample_frames(count))
        shown = {round(i * (count - 1) / (THUMBNAILS - 1)) for i in range(THUMBNAILS)}
        for index, image in enumerate(self.pictures.frames(self._messages())):
            video.write(image)
            if index in shown:
                width = max(1, round(image.shape[1] * THUMBNAIL_HEIGHT / image.shape[0]))
                small = cv2.resize(image, (width, THUMBNAIL_HEIGHT), interpolation=cv2.INTER_AREA)
                self.thumbnails.append(Thumbnail(index / self._options.fps, small).data_url())
            if index in sampled:
                yield image

    def _messages(self) -> Iterator[tuple[int, Stored]]:
        while not self._ended:
            item = self.queue.get()
            self._ended = item is None
            if self._failed.is_set():
                raise _AbandonedError
            if item is not None:
                yield item


class _AbandonedError(Exception):
    """Another input has failed; there is no use in going on."""


def _milestones(candidate: Candidate, segment: Segment) -> list[tuple[str, int]]:
    """Label and frame of those milestones that are within the segment."""
    grid = segment.grid
    last = grid.time_ns(grid.count - 1) + 10**9 // grid.fps
    return [
        (label, grid.index_at(stamp))
        for label, stretch, stamp in candidate.milestones
        if stretch == segment.stretch and (grid.start_ns <= stamp <= last or segment.parts == 1)
    ]


def _reaches_end(candidate: Candidate, segment: Segment, max_gap_ns: int) -> bool:
    """Whether the segment is the one in which the episode ends, so that its outcome is the segment's."""
    span, grid = candidate.spans[-1], segment.grid
    if segment.stretch != span.stretch or segment.part != segment.parts - 1:
        return False
    return span.stop_ns is None or span.stop_ns - grid.time_ns(grid.count) <= max_gap_ns


def _facts(counts: TrackCounts) -> dict[str, Any]:
    """A track's counts as the report shows them."""
    seconds = (counts.last_ns - counts.first_ns) * 1e-9
    rate = (counts.received - counts.duplicates - 1) / seconds if seconds > 0 else 0.0
    return {
        "rate_hz": round(rate, 2),
        "largest_gap_s": round(counts.largest_gap_ns * 1e-9, 4),
        "mean_skew_ms": round(counts.skew_sum_ns * 1e-6 / max(counts.frames, 1), 3),
        "max_skew_ms": round(counts.skew_max_ns * 1e-6, 3),
        **{
            key: getattr(counts, key)
            for key in ("received", "used", "held", "duplicates", "late", "bad", "first_problem")
        },
    }
