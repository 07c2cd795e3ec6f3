"""Worker processes that each have an object of their own, which does the work, and end when their parent does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

_make: Callable[[], Any] | None = None  # of a worker process
_own: Any = None  # made at first use, so that what is wrong is told as an error and not as a death


def worker_pool(workers: int, make: Callable[[], Any]) -> ProcessPoolExecutor:
    """So many processes, each with the object that ``make`` gives there; submit ``in_worker`` to it.

    Ctrl-C is the parent's business. When that has ended, even if it was killed and could tell nobody, they end, too:
    without it workers wait for work forever, since they hold both ends of the queue themselves.
    """
    context = multiprocessing.get_context("spawn")  # OpenGL and the threads of video libraries do not survive a fork
    return ProcessPoolExecutor(workers, context, _start, (make,))


def in_worker(method: str, *arguments: Any) -> Any:
    """What a method of the process's own object answers."""
    global _own
    if _own is None:
        _own = _make()
    return getattr(_own, method)(*arguments)


def _start(make: Callable[[], Any]) -> None:
    global _make
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    _make = make


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
