"""Many recordings, many episodes, one process per core; each episode is kept as soon as it is made."""

from __future__ import annotations

import errno
import os
import shutil
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pi05_progress.errors import UserError
from pi05_progress.files.output_file import write_file
from pi05_progress.files.progress_bar import Advance
from pi05_progress.files.worker_process import in_worker, worker_pool

from .columns import Columns
from .episodes import Candidate
from .faults import BagError
from .first_pass import Scan, scan_bag
from .options import Options
from .reading import Bag
from .second_pass import Converted, Sizes, convert_episode
from .work_folder import RESULT, Workplace

KILLED = (
    "a worker process was ended by force, most likely for want of memory; give the same command with --resume and "
    "fewer --workers"
)
RESULTS = TypeAdapter(Converted)
KEPT = "finished episodes are kept: make room, then go on with --resume"
FILES = "finished episodes are kept: allow more open files (ulimit -n), then go on with --resume"


class _Worker:
    """What a process does; the recording that was used last stays open."""

    def __init__(self, work: Path, scratch: Path, options: Options) -> None:
        self._work, self._scratch, self._options = work, scratch, options
        self._bag: Bag | None = None

    def scan(self, path: Path) -> Scan | str:
        """First pass over a recording; a text says why it cannot be used."""
        return _or_why(lambda: scan_bag(path, self._options, self._scratch), f"{path}: ")

    def convert(self, key: str, scan: Scan, candidate: Candidate, sizes: Sizes, columns: Columns) -> Converted:
        """Make one episode's folder; a problem of the recording is a result, one of this machine is not."""
        partial = self._work / f"{key}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        converted = _or_why(
            lambda: convert_episode(self._open(scan.path), scan, candidate, self._options, sizes, columns, partial)
        )
        if isinstance(converted, str):
            converted = Converted([], [converted], [])
        for extra in partial.iterdir():
            if extra.name not in {part.folder for part in converted.parts}:
                shutil.rmtree(extra)
        write_file(partial / RESULT, RESULTS.dump_json(converted), durable=True)  # hours of work go on from it
        os.replace(partial, self._work / key)
        return converted

    def _open(self, path: Path) -> Bag:
        if self._bag is None or self._bag.path != path:
            self.close()
            self._bag = Bag(path, self._scratch).__enter__()
        return self._bag

    def close(self) -> None:
        """Close the recording that is open."""
        if self._bag is not None:
            self._bag.__exit__()
        self._bag = None


def _or_why[Result](work: Callable[[], Result], whose: str = "") -> Result | str:
    """What the work gives, or why the recording is to blame that it gives nothing; faults of this machine are raised.

    An error that nobody thought of is told with its place: one odd recording must not end the conversion of all.
    """
    try:
        return work()
    except BagError as error:
        return str(error)
    except (UserError, OSError):
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return f"{whose}cannot be converted: {type(error).__name__}: {error} ({place}; please report this)"


def _one_of_many(*arguments: Any) -> _Worker:
    """In a process of its own: the cores are shared by these, not by the threads of one of them."""
    import cv2

    cv2.setNumThreads(1)
    return _Worker(*arguments)


def load_result(folder: Path) -> Converted | None:
    """What became of an episode, if it was finished."""
    path = folder / RESULT
    return RESULTS.validate_json(path.read_bytes()) if path.exists() else None


class Pool:
    """Worker processes; a single worker, or a single task, needs none but this. Use it as a context manager."""

    def __init__(self, place: Workplace, options: Options) -> None:
        self.options, self._workers = options, options.workers
        self._arguments = (place.work, place.scratch, options)
        self._own = _Worker(*self._arguments)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._own.close()
        if self._pool is None:
            return
        if kind is not None:  # nobody waits for work that is thrown away
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def scan(self, bags: Sequence[Path], done: Advance) -> list[Scan | str]:
        """First pass over recordings, see ``_Worker.scan``; ``done`` is told of each that is read."""
        return self._all("scan", [(bag,) for bag in bags], done)

    def convert(self, jobs: Sequence[tuple[str, Scan, Candidate, Sizes, Columns]], done: Advance) -> list[Converted]:
        """Second pass, see ``_Worker.convert``; ``done`` is told of each job that is made."""
        return self._all("convert", jobs, done)

    def _all(self, task: str, arguments: Sequence[tuple], done: Advance) -> list[Any]:
        results = []
        try:
            if min(len(arguments), self._workers) > 1:
                if self._pool is None:
                    self._pool = worker_pool(self._workers, partial(_one_of_many, *self._arguments))
                futures = [self._pool.submit(in_worker, task, *of_task) for of_task in arguments]
                for future in as_completed(futures):
                    future.result()  # raises what went wrong, as soon as it did
                    done(1)
                return [future.result() for future in futures]
            for of_task in arguments:
                results.append(getattr(self._own, task)(*of_task))
                done(1)
            return results
        except BrokenProcessPool as error:
            raise UserError(KILLED) from error
        except OSError as error:  # a fault of this machine, not of a recording: nothing can go on
            where = f"{error.filename}: " if error.filename else ""
            kept = FILES if error.errno == errno.EMFILE else KEPT
            raise UserError(f"{where}{error.strerror or error}; {kept}") from error
