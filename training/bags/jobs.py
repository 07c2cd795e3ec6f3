"""Many recordings, many episodes, one process per core; each episode is kept as soon as it is made.

Everything is written under ``<output>.partial``: episodes in ``work``, one folder each, which appears complete or not
at all. A conversion that was killed goes on with what is missing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pi05_progress.errors import UserError
from pi05_progress.files.output_file import write_file
from pi05_progress.files.output_folder import OutputFolderError, Pending, check_target, claim, finish
from pi05_progress.files.worker_process import end_with_parent
from training.datasets import layout
from training.datasets.video import VideoError

from .convert import Converted, ConvertOptions, Part, convert_episode
from .episodes import Candidate
from .faults import BagError
from .reading import Bag
from .scan import Scan, ScanOptions, scan_bag

WORK, SCRATCH, SETTINGS = "work", "scratch", "conversion.json"
RESULT = "result.json"
REPLACES, ASSEMBLED = "_replaces", "_assembled"  # in the settings' file, no settings themselves
POLL_S = 0.2
KILLED = (
    "a worker process was ended by force, most likely for want of memory; give the same command with --resume and "
    "fewer --workers"
)
KEPT = "finished episodes are kept: make room, then go on with --resume"


@dataclass(frozen=True)
class Job:
    """One episode to be made.

    Attributes:
        key: name of its folder.
        scan: of its recording.
        candidate: the episode.
    """

    key: str
    scan: Scan
    candidate: Candidate


@dataclass
class Workplace:
    """The folder in which a data set is made; see ``workplace``.

    Attributes:
        folder: where.
        assembled: whether the data set in it is complete, and only its way into place is left.
        pending: the hold on the folder; None where nothing is kept, as in a dry run.
    """

    folder: Path
    assembled: bool = False
    pending: Pending | None = None

    @property
    def work(self) -> Path:
        """Where episodes are kept."""
        return self.folder / WORK

    @property
    def scratch(self) -> Path:
        """Where compressed recordings are unpacked."""
        return self.folder / SCRATCH


@contextmanager
def workplace(output: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Workplace]:
    """Prepare the folder beside ``output`` and hold it against a second conversion; what is in it stays.

    Args:
        output: the data set.
        settings: what decides about the result; a conversion goes on only with the same.
        resume: go on with an unfinished conversion.
        overwrite: replace a finished data set, and begin an unfinished conversion again.

    Raises:
        OutputFolderError: something is there already, or nothing can be written.
    """
    pending = claim(output)
    try:
        place = _prepared(pending, output, settings, resume, overwrite)
        try:
            yield place
        except BaseException:
            if not place.assembled and not any(place.work.glob(f"*/{RESULT}")):
                pending.abandon()  # nothing in it is worth going on with
            raise
    finally:
        pending.release()


def _prepared(pending: Pending, output: Path, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> Workplace:
    """The folder cleared or as it was left; whatever is decided in here is decided under its lock."""
    folder = pending.path
    begun = json.loads((folder / SETTINGS).read_text()) if (folder / SETTINGS).exists() else {}
    replaces = layout.MARKERS if overwrite or (resume and begun.get(REPLACES)) else None
    try:
        check_target(output, replaces)
    except OutputFolderError:
        if not begun:
            pending.abandon()
        raise
    if begun and not resume and not overwrite:
        raise OutputFolderError(
            f"{folder}: an unfinished conversion is there; go on with --resume, or begin again with --overwrite"
        )
    if begun and resume:
        _compare(begun, json.loads(json.dumps(settings)), folder)
    else:
        begun = {}
        pending.clear()
        _write_json(folder / SETTINGS, {**settings, REPLACES: overwrite})
    place = Workplace(folder, bool(begun.get(ASSEMBLED)), replace(pending, replaces=replaces))
    place.work.mkdir(exist_ok=True)
    for leftover in place.work.glob("*.partial"):
        shutil.rmtree(leftover)
    return place


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    different = [key for key in {**before, **now} if key[0] != "_" and before.get(key) != now.get(key)]
    if different:
        raise OutputFolderError(
            f"--resume: {folder} was begun with other {', '.join(sorted(different))}; give the same as then, or begin "
            "again with --overwrite"
        )


def finish_workplace(place: Workplace) -> None:
    """Leave only the data set in the folder, and move it into place.

    That it is complete is written down first: killed in here, the conversion needs nothing but the rest of this.
    """
    settings = json.loads((place.folder / SETTINGS).read_text())
    _write_json(place.folder / SETTINGS, {**settings, ASSEMBLED: True})
    shutil.rmtree(place.work, ignore_errors=True)
    shutil.rmtree(place.scratch, ignore_errors=True)
    finish(place.pending)
    (place.pending.folder / SETTINGS).unlink(missing_ok=True)


def _write_json(path: Path, data: object) -> None:
    write_file(path, json.dumps(data, indent=1) + "\n", durable=True)  # hours of work go on from it


# --- the pool ---


@dataclass(frozen=True)
class _Shared:
    """What a worker process is given once."""

    work: Path
    scratch: Path
    scan: ScanOptions


_shared: _Shared | None = None  # one per worker process
_frames: Any = None
_bag: Bag | None = None  # the recording that was used last, open


def _start_worker(shared: _Shared, frames: Any) -> None:
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    end_with_parent()
    cv2.setNumThreads(1)
    _share(shared, frames)


def _share(shared: _Shared | None, frames: Any) -> None:
    global _shared, _frames
    _shared, _frames = shared, frames
    _close_bag()


def _close_bag() -> None:
    global _bag
    if _bag is not None:
        _bag.__exit__()
    _bag = None


def _scan(path: Path) -> Scan | str:
    try:
        return scan_bag(path, _shared.scan, _shared.scratch)
    except BagError as error:
        return str(error)


def _open(path: Path) -> Bag:
    global _bag
    if _bag is None or _bag.path != path:
        _close_bag()
        _bag = Bag(path, _shared.scratch).__enter__()
    return _bag


def _convert(job: Job, options: ConvertOptions) -> Converted:
    """Make one episode's folder; a problem of the recording is a result, one of the disk is not."""
    partial = _shared.work / f"{job.key}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    progress = _Progress()
    try:
        converted = convert_episode(_open(job.scan.path), job.scan, job.candidate, options, partial, progress)
    except BagError as error:
        progress.undo()
        converted = Converted([], [str(error)], [])
    progress.flush()
    for extra in partial.iterdir():
        if extra.name not in {part.folder for part in converted.parts}:
            shutil.rmtree(extra)
    _write_json(partial / RESULT, asdict(converted))
    os.replace(partial, _shared.work / job.key)
    return converted


class _Progress:
    """Adds frames to the parent's count, a few at a time."""

    def __init__(self) -> None:
        self._waiting = self._total = 0

    def __call__(self, frames: int) -> None:
        self._waiting += frames
        if abs(self._waiting) >= 10:
            self.flush()

    def flush(self) -> None:
        with _frames.get_lock():
            _frames.value += self._waiting
        self._total += self._waiting
        self._waiting = 0

    def undo(self) -> None:
        self._waiting = -self._total


def load_result(folder: Path) -> Converted | None:
    """What became of an episode, if it was finished."""
    try:
        data = json.loads((folder / RESULT).read_text())
    except FileNotFoundError:
        return None
    parts = [Part(**{**part, "milestones": [tuple(m) for m in part["milestones"]]}) for part in data["parts"]]
    return Converted(parts, data["reasons"], data["notes"])


class Pool:
    """Worker processes; a single worker, or a single task, needs none but this. Use it as a context manager.

    Args:
        place: where to write.
        scan: options of the first pass.
        workers: number of processes.
    """

    def __init__(self, place: Workplace, scan: ScanOptions, workers: int) -> None:
        self._context = multiprocessing.get_context("spawn")  # threads of video libraries do not survive a fork
        self._count = self._context.Value("q", 0)
        self._shared, self._workers = _Shared(place.work, place.scratch, scan), workers
        self._pool: ProcessPoolExecutor | None = None
        self._own = ThreadPoolExecutor(1)  # for a single task, which is not worth a process
        _share(self._shared, self._count)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._own.shutdown(wait=kind is None, cancel_futures=True)
        _share(None, None)
        if self._pool is None:
            return
        if kind is not None:  # nobody waits for work that is thrown away
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def scan(self, bags: Sequence[Path], done: Callable[[], None]) -> list[Scan | str]:
        """First pass over recordings; a text says why one cannot be used."""
        return self._all(_scan, [(bag,) for bag in bags], lambda frames: None, done)

    def convert(self, jobs: Sequence[Job], options: ConvertOptions, frames: Callable[[int], None]) -> list[Converted]:
        """Second pass; ``frames`` is called with how many are made so far."""
        return self._all(_convert, [(job, options) for job in jobs], frames, lambda: None)

    def _all(
        self, function: Callable, tasks: Sequence[tuple], frames: Callable[[int], None], done: Callable[[], None]
    ) -> list[Any]:
        try:
            pool: Executor = self._own if min(len(tasks), self._workers) <= 1 else self._processes()
            futures = [pool.submit(function, *task) for task in tasks]
            self._wait(futures, frames, done)
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise UserError(KILLED) from error
        except (VideoError, OSError) as error:
            raise _explained(error) from error

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            initial = (self._shared, self._count)
            self._pool = ProcessPoolExecutor(self._workers, self._context, _start_worker, initial)
        return self._pool

    def _wait(self, futures: Sequence[Future], frames: Callable[[int], None], done: Callable[[], None]) -> None:
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
            for future in finished:
                future.result()
                done()
            frames(self._count.value)


def _explained(error: Exception) -> UserError:
    """A fault of this machine, not of a recording: nothing can go on."""
    if isinstance(error, VideoError):
        return UserError(str(error))
    where = f"{error.filename}: " if getattr(error, "filename", None) else ""
    text = getattr(error, "strerror", None) or str(error)
    return UserError(f"{where}{text}; {KEPT}")
