"""The thread that asks the responder: what waits when it is free is answered together, first come first served.

A request is prepared (read and checked) by a few threads beside it; by itself, if it has nothing else to do: the change
of threads would cost more. Any thread may use ``submit`` and the properties, ``_run`` is the inference thread;
``_ready`` guards the queue. A policy's exceptions are answers like others. Whatever else ends the thread is told to all
who wait and to the server, which cannot go on without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .core import AnswerError, RequestError, Responder

PREPARING_THREADS = 4
log = logging.getLogger(__name__)


class QueueFullError(RuntimeError):
    """As many requests wait as may."""


class InferenceEndedError(RuntimeError):
    """The inference thread has ended, which it must not; the message says by what."""


@dataclass(frozen=True)
class Answer:
    """A reply and its place in the order in which noise was drawn, from 0."""

    reply: dict[str, Any]
    index: int


class InferenceQueue:
    """See the module's docstring.

    Args:
        responder: only the thread uses its ``answer``.
        limit: how many requests may wait, those that are being computed not counted.
        computed: called by the thread after every batch with its size and the seconds it took.
        died: called by the thread if it ends without having been told to.
    """

    def __init__(
        self,
        responder: Responder,
        limit: int,
        computed: Callable[[int, float], None],
        died: Callable[[InferenceEndedError], None],
    ) -> None:
        self._responder, self._limit, self._computed, self._died = responder, limit, computed, died
        self._waiting: OrderedDict[Future[Answer], Callable[[], Any]] = OrderedDict()
        self._computing: list[Future[Answer]] = []
        self.failed_batches = 0  # one after the other that gave no answer, for reasons that are not the requests'
        self._ready = threading.Condition()
        self._closed = False
        self._count = 0
        self._idle = False
        self._busy_since_s: float | None = None
        self._threads = ThreadPoolExecutor(PREPARING_THREADS, "prepare")
        # A daemon: a device that never answers must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def busy_s(self) -> float:
        """For how long the present batch has been computed, s; 0 between batches."""
        since = self._busy_since_s
        return 0.0 if since is None else time.monotonic() - since

    def submit(self, prepare: Callable[[], Any]) -> Future[Answer]:
        """Queue a request; cancelled before its turn it costs nothing.

        Args:
            prepare: what the responder's ``answer`` needs of the request; its exceptions become the answer.

        Raises:
            QueueFullError: the message says how many wait.
        """
        future: Future[Answer] = Future()
        with self._ready:
            self._check()
            idle = self._idle and not self._waiting
            if idle:
                self._put(future, prepare)
        if not idle:
            self._threads.submit(self._prepare, future, prepare)
        return future

    def _check(self) -> None:
        if self._closed:
            raise QueueFullError("the server is shutting down")
        if len(self._waiting) >= self._limit:
            raise QueueFullError(f"{len(self._waiting)} requests are waiting already; try again later")

    def _put(self, future: Future[Answer], prepare: Callable[[], Any]) -> None:
        with self._ready:
            self._check()
            self._waiting[future] = prepare
            future.add_done_callback(self._forget)  # cancelled, it gives its place to others
            self._ready.notify()

    def _forget(self, future: Future[Answer]) -> None:
        with self._ready:
            self._waiting.pop(future, None)

    def _prepare(self, future: Future[Answer], prepare: Callable[[], Any]) -> None:
        """In one of the threads beside."""
        if future.cancelled():
            return
        try:
            prepared = prepare()
            self._put(future, lambda: prepared)
        except Exception as error:
            if future.set_running_or_notify_cancel():
                future.set_exception(_logged(error))

    def close(self, timeout_s: float) -> bool:
        """Take no more, answer what waits; returns whether the thread has ended in time."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._compute()
        except BaseException as error:  # a policy that calls sys.exit, say; RuntimeErrors of it come as answers
            log.critical("the inference thread has ended", exc_info=True)
            ended = InferenceEndedError(f"the inference thread has ended: {type(error).__name__}: {error}")
            with self._ready:
                self._closed = True
                waiting = [future for future in [*self._waiting] if future.set_running_or_notify_cancel()]
                self._waiting.clear()
            for future in [*(future for future in self._computing if not future.done()), *waiting]:
                future.set_exception(ended)
            self._died(ended)

    def _compute(self) -> None:
        most = self._responder.batch_sizes[-1]
        while True:
            with self._ready:
                self._idle = True
                self._ready.wait_for(lambda: self._waiting or self._closed)
                self._idle = False
                if not self._waiting:
                    return
                taken = [self._waiting.popitem(last=False) for _ in range(min(most, len(self._waiting)))]
                taken = [(future, prepare) for future, prepare in taken if future.set_running_or_notify_cancel()]
                self._computing = [future for future, _ in taken]
            batch: list[tuple[Future[Answer], Any]] = []
            for future, prepare in taken:
                try:
                    batch.append((future, prepare()))
                except Exception as error:
                    future.set_exception(_logged(error))
            if not batch:
                continue
            started = self._busy_since_s = time.monotonic()
            try:
                results = self._answers([prepared for _, prepared in batch])
            finally:
                self._busy_since_s = None
            seconds = time.monotonic() - started
            if any(isinstance(result, Answer) for result in results):
                self.failed_batches = 0
            elif not all(isinstance(result, RequestError) for result in results):
                self.failed_batches += 1
            for (future, _), result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
            self._computed(len(batch), seconds)  # only now: meanwhile the event loop's thread wakes

    def _answers(self, batch: Sequence[Any]) -> list[Answer | Exception]:
        """One result each; when a batch fails each is tried alone, so that one cannot spoil the others."""
        try:
            replies = self._responder.answer(batch)
            if len(replies) != len(batch):
                raise RuntimeError(f"{len(replies)} replies to {len(batch)} requests")
        except Exception as error:  # whatever a policy raises: the server lives on
            if len(batch) > 1:
                return [result for prepared in batch for result in self._answers([prepared])]
            return [_logged(error)]
        results: list[Answer | Exception] = []
        for reply in replies:
            if isinstance(reply, AnswerError):
                log.error("%s", reply)
                results.append(reply)
            else:
                results.append(Answer(reply, self._count))
            self._count += 1
        return results


def _logged(error: Exception) -> Exception:
    """An error that becomes an answer; a mistake of the policy's is logged with its traceback."""
    if not isinstance(error, RequestError | QueueFullError):
        log.error("the policy failed", exc_info=error)
    return error
