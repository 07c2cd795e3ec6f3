"""The second pass: one episode of a recording becomes videos and a table, in one reading and in bounded memory.

The reading thread makes the table and hands pictures to one thread per camera, which decodes, chooses and encodes; a
short queue in between blocks when it is full, so nothing is dropped and little is held. No camera waits for another:
the times of all frames are known beforehand.
"""

from __future__ import annotations

import base64
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pi05_progress.robots.profile import RobotProfile
from training.datasets.layout import ACTION, STATE
from training.datasets.statistics import Stats, picture_stats, sample_frames
from training.datasets.video import VideoFile, VideoOptions
from training.datasets.writer import VECTOR_FILES

from .episodes import Candidate
from .first_pass import Scan
from .message_types import Stored
from .pictures import Pictures
from .reading import Bag
from .samples import GapError, SendersError, TrackCounts
from .segments import Gap, PlanOptions, Segment, plan_segments
from .table import Table
from .timeline import message_time_ns

SLACK_NS = 100_000_000  # how far messages of one topic may be out of order
QUEUE = 4  # messages waiting for a camera's thread
THUMBNAILS = 5  # per camera and episode
THUMBNAIL_HEIGHT = 96
MAX_REPLANS = 100  # gaps that only the second pass finds, in one episode


@dataclass(frozen=True)
class ConvertOptions:
    """How episodes are made.

    Attributes:
        profile: the robot.
        plan: times of frames and gaps.
        sizes: (height, width) of each camera's pictures as they are stored.
        resize: whether pictures are brought to these sizes.
        video: how they are encoded.
    """

    profile: RobotProfile
    plan: PlanOptions
    sizes: Mapping[str, tuple[int, int]]
    resize: bool
    video: VideoOptions


@dataclass
class Part:
    """One episode of the data set, as files in a folder: ``<camera>.mp4`` and those of ``VECTOR_FILES``.

    Attributes:
        folder: name of the folder.
        start_ns: of the first frame.
        frames: number of frames.
        part, parts: which piece of a split episode.
        milestones: label and frame.
        ends: whether it reaches the episode's end, so that the outcome is its own.
        inputs: per input what its samples were like.
        thumbnails: per camera JPEG pictures, base64.
        picture_stats: per camera, see ``picture_stats``.
    """

    folder: str
    start_ns: int
    frames: int
    part: int
    parts: int
    milestones: list[tuple[str, int]]
    ends: bool
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    thumbnails: dict[str, list[str]] = field(default_factory=dict)
    picture_stats: dict[str, dict[str, list]] = field(default_factory=dict)


@dataclass
class Converted:
    """What became of an episode: its parts, or why there are none."""

    parts: list[Part]
    reasons: list[str]
    notes: list[str]


def convert_episode(bag: Bag, scan: Scan, candidate: Candidate, options: ConvertOptions, folder: Path) -> Converted:
    """Make an episode's files in ``folder``, which is there.

    A gap that only turns up now, from samples that cannot be used, drops or splits the episode as one known before.

    Args:
        bag: the recording, open.
        scan: of it.
        candidate: the episode.
        options: how.
        folder: for its parts' folders.
    """
    found: list[Gap] = []
    for _ in range(MAX_REPLANS):
        plan = plan_segments(candidate, scan, options.plan, found)
        notes = list(plan.notes)
        try:
            parts = []
            for segment in plan.segments:
                parts.append(_convert_segment(bag, scan, candidate, segment, options, folder))
            return Converted(parts, list(plan.reasons), notes)
        except GapError as gap:
            frames = (segment.grid.start_ns, segment.grid.time_ns(segment.grid.count - 1))
            found.append(Gap(segment.stretch, frames, gap.start_ns, gap.stop_ns, gap.name, gap.why))
        except SendersError as error:
            return Converted([], [str(error)], notes)
    return Converted([], [*plan.reasons, f"more than {MAX_REPLANS} gaps"], notes)


def _convert_segment(
    bag: Bag, scan: Scan, candidate: Candidate, segment: Segment, options: ConvertOptions, folder: Path
) -> Part:
    grid, sources = segment.grid, scan.inputs.sources
    out = folder / f"part_{segment.part:03d}"
    out.mkdir(exist_ok=True)
    max_gap = options.plan.max_gap_ns
    failed = threading.Event()
    cameras: dict[str, _CameraThread] = {}
    for source in scan.inputs.of_role("camera"):
        pictures = Pictures(
            source, options.profile.cameras[source.name], grid, bag.deserialize, options.sizes[source.name],
            options.resize, max_gap, SLACK_NS,
        )  # fmt: skip
        cameras[source.name] = _CameraThread(pictures, out / f"{source.name}.mp4", grid.fps, options.video, failed)
    with (out / VECTOR_FILES[STATE]).open("wb") as state, (out / VECTOR_FILES[ACTION]).open("wb") as action:

        def write(of_state: np.ndarray, of_action: np.ndarray) -> None:
            state.write(of_state.tobytes())
            action.write(of_action.tobytes())

        table = Table(options.profile, dict(sources), scan.changes, grid, write, bag.deserialize, max_gap, SLACK_NS)
        try:
            _read(bag, scan, segment, table, cameras, failed)
        except BaseException:
            failed.set()
            raise
        finally:
            for thread in cameras.values():
                thread.close()
        for thread in cameras.values():
            if thread.error is not None:
                raise thread.error
        table.close()
    ends = _reaches_end(candidate, segment, max_gap)
    return Part(
        out.name, grid.start_ns, grid.count, segment.part, segment.parts, _milestones(candidate, segment), ends,
        {name: _facts(counts) for name, counts in _all_counts(table, cameras).items()},
        {name: thread.thumbnails for name, thread in cameras.items()},
        {name: {k: np.asarray(v).tolist() for k, v in thread.stats.items()} for name, thread in cameras.items()},
    )  # fmt: skip


def _read(
    bag: Bag,
    scan: Scan,
    segment: Segment,
    table: Table,
    cameras: Mapping[str, _CameraThread],
    failed: threading.Event,
) -> None:
    by_topic = {source.topic: source for source in scan.inputs.sources.values()}
    for message in bag.messages(scan.inputs.topics(), *segment.read):
        if failed.is_set():
            return
        source = by_topic[message.topic]
        stamp = message_time_ns(message, source.has_header, scan.clock_offset_ns)
        if source.role == "camera":
            cameras[source.name].put(stamp, message)
            continue
        table.push(source.name, stamp, message)
        table.advance()


class _CameraThread:
    """Makes one camera's video from the messages it is given."""

    def __init__(
        self, pictures: Pictures, path: Path, fps: int, options: VideoOptions, failed: threading.Event
    ) -> None:
        self.pictures = pictures
        self.thumbnails: list[str] = []
        self.stats: Stats = {}
        self.error: BaseException | None = None
        self._path, self._fps, self._options, self._failed = path, fps, options, failed
        self._queue: queue.Queue[tuple[int, Stored] | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._run, name=path.stem)
        self._thread.start()

    def put(self, stamp_ns: int, message: Stored) -> None:
        """Hand over a message; waits while the thread has enough to do."""
        while not self._failed.is_set():
            try:
                self._queue.put((stamp_ns, message), timeout=0.1)
                return
            except queue.Full:
                continue

    def close(self) -> None:
        """No more messages will come; wait for the end."""
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        self._thread.join()

    def _run(self) -> None:
        try:
            with VideoFile(self._path, self._fps, self._options) as video:
                self.stats = picture_stats(self._encoded(video))
        except _AbandonedError:
            pass
        except BaseException as error:  # handed to the reading thread
            self.error = error
            self._failed.set()

    def _encoded(self, video: VideoFile) -> Iterator[np.ndarray]:
        """Encodes every picture, yields those that statistics are made of."""
        count = self.pictures.count
        sampled = set(sample_frames(count))
        shown = {round(i * (count - 1) / (THUMBNAILS - 1)) for i in range(THUMBNAILS)}
        for index, image in enumerate(self.pictures.frames(self._messages())):
            video.write(image)
            if index in shown:
                self.thumbnails.append(_thumbnail(image))
            if index in sampled:
                yield image

    def _messages(self) -> Iterator[tuple[int, Stored]]:
        while (item := self._queue.get()) is not None:
            if self._failed.is_set():
                raise _AbandonedError
            yield item
        if self._failed.is_set():
            raise _AbandonedError


class _AbandonedError(Exception):
    """Another input has failed; there is no use in going on."""


def _thumbnail(image: np.ndarray) -> str:
    height, width = image.shape[:2]
    size = (max(1, round(width * THUMBNAIL_HEIGHT / height)), THUMBNAIL_HEIGHT)
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
    return base64.b64encode(jpeg.tobytes()).decode()


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


def _all_counts(table: Table, cameras: Mapping[str, _CameraThread]) -> dict[str, TrackCounts]:
    counts = {name: thread.pictures.track.counts for name, thread in cameras.items()}
    return counts | {name: track.counts for name, track in table.tracks.items()}


def _facts(counts: TrackCounts) -> dict[str, Any]:
    """A track's counts as the report shows them."""
    facts = asdict(counts)
    seconds = (counts.last_ns - counts.first_ns) * 1e-9
    rate = (counts.received - counts.duplicates - 1) / seconds if seconds > 0 else 0.0
    return {
        "rate_hz": round(rate, 2),
        "largest_gap_s": round(counts.largest_gap_ns * 1e-9, 4),
        "mean_skew_ms": round(counts.skew_sum_ns * 1e-6 / max(facts["frames"], 1), 3),
        "max_skew_ms": round(counts.skew_max_ns * 1e-6, 3),
        **{key: facts[key] for key in ("received", "used", "held", "duplicates", "late", "bad", "first_problem")},
    }
