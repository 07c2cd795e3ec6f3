"""The second pass: one episode of a recording becomes videos and a table, in one reading and in bounded memory.

The reading thread makes the table and hands pictures to one thread per camera, which decodes, chooses and encodes; a
short queue in between blocks when it is full, so nothing is dropped and little is held. No camera waits for another:
the times of all frames are known beforehand.
"""

from __future__ import annotations

import base64
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pi05_progress.robots.profile import RobotProfile
from training.datasets.layout import ACTION, STATE
from training.datasets.statistics import Stats, picture_stats, sample_frames
from training.datasets.vectors import VectorWriter
from training.datasets.video import VideoFile, VideoOptions
from training.datasets.writer import VECTOR_FILES

from .episodes import Candidate
from .pictures import Pictures
from .reading import Bag, Stored
from .scan import Scan
from .segments import Gap, PlanOptions, Segment, plan_segments
from .stretches import message_time_ns
from .table import Table
from .tracks import GapError, SendersError, TrackCounts

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


def convert_episode(
    bag: Bag,
    scan: Scan,
    candidate: Candidate,
    options: ConvertOptions,
    folder: Path,
    advanced: Callable[[int], None] = lambda frames: None,
) -> Converted:
    """Make an episode's files in ``folder``, which is there.

    A gap that only turns up now, from samples that cannot be used, drops or splits the episode as one known before.

    Args:
        bag: the recording, open.
        scan: of it.
        candidate: the episode.
        options: how.
        folder: for its parts' folders.
        advanced: called with the number of frames that were made since the last call; negative if they are thrown away.
    """
    found: list[Gap] = []
    for _ in range(MAX_REPLANS):
        plan = plan_segments(candidate, scan, options.plan, found)
        parts: list[Part] = []
        for segment in plan.segments:
            made = _Counter(advanced)
            try:
                part = _convert_segment(bag, scan, candidate, segment, options, folder, made)
            except GapError as gap:
                advanced(-made.frames - sum(p.frames for p in parts))
                found.append(_as_gap(gap, segment))
                break
            except SendersError as error:
                advanced(-made.frames - sum(p.frames for p in parts))
                return Converted([], [str(error)], list(plan.notes))
            parts.append(part)
        else:
            return Converted(parts, list(plan.reasons), list(plan.notes))
    return Converted([], [*plan.reasons, f"more than {MAX_REPLANS} gaps"], list(plan.notes))


class _Counter:
    def __init__(self, advanced: Callable[[int], None]) -> None:
        self._advanced, self.frames = advanced, 0

    def __call__(self) -> None:
        self.frames += 1
        self._advanced(1)


def _as_gap(gap: GapError, segment: Segment) -> Gap:
    grid = segment.grid
    first, last = grid.start_ns, grid.time_ns(grid.count - 1)
    start = first - 1 if gap.start_ns is None else gap.start_ns
    stop = last + 1 if gap.stop_ns is None else gap.stop_ns
    lasting = "to the end" if gap.stop_ns is None else f"of {(stop - start) * 1e-9:.2f} s"
    where = f"at {max(start - first, 0) * 1e-9:.2f} s"
    return segment.stretch, start, stop, f"{gap.name}: gap {lasting} {where}" + (f" ({gap.why})" if gap.why else "")


def _convert_segment(
    bag: Bag,
    scan: Scan,
    candidate: Candidate,
    segment: Segment,
    options: ConvertOptions,
    folder: Path,
    made: Callable[[], None],
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
    first = next(iter(cameras.values()))
    first.made = made  # one camera speaks for all in the progress bar
    size = options.profile.vector_size
    with (
        VectorWriter(out / VECTOR_FILES[STATE], size) as state,
        VectorWriter(out / VECTOR_FILES[ACTION], size) as action,
    ):

        def write(of_state: np.ndarray, of_action: np.ndarray) -> None:
            state.append(of_state)
            action.append(of_action)

        table = Table(options.profile, dict(sources), scan.changes, grid, write, bag.deserialize, max_gap, SLACK_NS)
        try:
            _read(bag, scan, segment, table, cameras, failed)
        finally:
            for thread in cameras.values():
                thread.close(abandon=failed.is_set())
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
        try:
            table.advance()
        except (GapError, SendersError):
            failed.set()
            raise


class _CameraThread:
    """Makes one camera's video from the messages it is given."""

    def __init__(
        self, pictures: Pictures, path: Path, fps: int, options: VideoOptions, failed: threading.Event
    ) -> None:
        self.pictures, self.made = pictures, lambda: None
        self.thumbnails: list[str] = []
        self.stats: Stats = {}
        self.error: BaseException | None = None
        self._path, self._fps, self._options, self._failed = path, fps, options, failed
        self._queue: queue.Queue[tuple[int, Stored] | None] = queue.Queue(QUEUE)
        self._abandoned = False
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

    def close(self, abandon: bool) -> None:
        """No more messages will come; wait for the end."""
        self._abandoned = abandon
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
            self.made()
            if index in shown:
                self.thumbnails.append(_thumbnail(image))
            if index in sampled:
                yield image

    def _messages(self) -> Iterator[tuple[int, Stored]]:
        while (item := self._queue.get()) is not None:
            if self._failed.is_set():
                raise _AbandonedError
            yield item
        if self._abandoned or self._failed.is_set():
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
