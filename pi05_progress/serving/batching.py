"""The thread that asks the responder: what waits when it is free is answered together, first come first served.

A request is prepared (read and checked) by a few threads beside it; by itself, if it has nothing else to do: the change
of threads would cost more. Only the event loop touches answers, so that a request and its answer wake one thread each.
A policy's exceptions are answers like others. Whatever else ends the thread is told to all who wait and to the server,
which cannot go on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .policy_responder import PolicyResponder
from .wire import AnswerError, RequestError

PREPARING_THREADS = 4
log = logging.getLogger(__name__)


class QueueFullError(RuntimeError):
    """As many requests wait as may."""


class InferenceEndedError(UserError):
    """The inference thread has ended, which it must not; the message says by what."""


@dataclass(frozen=True)
class Answer:
    """A reply and its place in the order in which noise was drawn, from 0."""

    reply: dict[str, Any]
    index: int


class InferenceQueue:
    """See the module's docstring; it is made and used in the event loop.

    Args:
        responder: only the thread uses its ``answer``.
        limit: how many requests may wait, those that are being computed not counted.
        computed: called in the event loop after every batch with its size and the seconds it took.
        died: called by the thread if it ends without having been told to.
    """

    def __init__(
        self,
        responder: PolicyResponder,
        limit: int,
        computed: Callable[[int, float], None],
        died: Callable[[InferenceEndedError], None],
    ) -> None:
        self._responder, self._limit, self._computed, self._died = responder, limit, computed, died
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Future[Answer], Callable[[], Any]] = {}
        self._order: queue.SimpleQueue[asyncio.Future[Answer] | None] = queue.SimpleQueue()  # None ends the thread
        self._computing: list[asyncio.Future[Answer]] = []
        self.failed_batches = 0  # one after the other that gave no answer, for reasons that are not the requests'
        self._closing = threading.Lock()  # nothing is queued behind the end
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

    def submit(self, prepare: Callable[[], Any]) -> asyncio.Future[Answer]:
        """Queue a request; who cancels its answer calls ``forget``, and before its turn it costs nothing.

        ``prepare`` gives what the responder's ``answer`` needs of it; its exceptions become the answer. The message of
        a ``QueueFullError`` says how many wait.
        """
        self._check()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        if self._idle and not self._waiting:
            self._put(answer, prepare)
        else:
            self._threads.submit(self._prepare, answer, prepare)
        return answer

    def forget(self, answer: asyncio.Future[Answer]) -> None:
        """Nobody waits for it: its place is for others."""
        self._waiting.pop(answer, None)

    def _check(self) -> None:
        if self._closed:
            raise QueueFullError("the server is shutting down")
        if len(self._waiting) >= self._limit:
            raise QueueFullError(f"{len(self._waiting)} requests are waiting already; try again later")

    def _put(self, answer: asyncio.Future[Answer], prepare: Callable[[], Any]) -> None:
        with self._closing:
            self._check()
            self._waiting[answer] = prepare
            self._order.put(answer)
        if answer.cancelled():  # meanwhile, in the event loop
            self.forget(answer)

    def _prepare(self, answer: asyncio.Future[Answer], prepare: Callable[[], Any]) -> None:
        """In one of the threads beside."""
        if answer.cancelled():
            return
        try:
            prepared = prepare()
            self._put(answer, lambda: prepared)
        except Exception as error:
            self._tell([(answer, _logged(error))])

    def close(self, timeout_s: float) -> bool:
        """Take no more, answer what waits; returns whether the thread has ended in time."""
        with self._closing:
            self._closed = True
            self._order.put(None)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._compute()
        except BaseException as error:  # a policy that calls sys.exit, say; RuntimeErrors of it come as answers
            log.critical("the inference thread has ended", exc_info=True)
            ended = InferenceEndedError(f"the inference thread has ended: {type(error).__name__}: {error}")
            with self._closing:
                self._closed, waiting = True, [*self._waiting]
                self._waiting.clear()
            self._tell([(answer, ended) for answer in [*self._computing, *waiting]])
            self._died(ended)

    def _compute(self) -> None:
        while taken := self._take():
            batch: list[tuple[asyncio.Future[Answer], Any]] = []
            for answer, prepare in taken:
                try:
                    batch.append((answer, prepare()))
                except Exception as error:
                    self._tell([(answer, _logged(error))])
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
            self._tell([(answer, result) for (answer, _), result in zip(batch, results, strict=True)], seconds)

    def _take(self) -> list[tuple[asyncio.Future[Answer], Callable[[], Any]]]:
        """Wait for a request; it and what waits behind it, as far as a batch goes. Nothing at the end."""
        taken: list[tuple[asyncio.Future[Answer], Callable[[], Any]]] = []
        self._idle = True
        while len(taken) < self._responder.batch_sizes[-1] and not (taken and self._order.empty()):
            if (answer := self._order.get()) is None:
                self._order.put(None)  # for the next time, if there is something to compute first
                break
            prepare = self._waiting.pop(answer, None)
            if prepare is not None and not answer.cancelled():
                taken.append((answer, prepare))
        self._idle = False
        self._computing = [answer for answer, _ in taken]
        return taken

    def _tell(self, results: Sequence[tuple[asyncio.Future[Answer], Answer | Exception]], seconds: float = 0.0) -> None:
        """Hand results to who waits for them, and the seconds that a batch took to who counts."""
        with contextlib.suppress(RuntimeError):  # the event loop has ended: nobody waits
            self._loop.call_soon_threadsafe(self._deliver, results, seconds)

    def _deliver(self, results: Sequence[tuple[asyncio.Future[Answer], Answer | Exception]], seconds: float) -> None:
        """In the event loop."""
        for answer, result in results:
            if answer.done():  # the client is gone
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        if seconds:
            self._loop.call_soon(self._computed, len(results), seconds)  # only when the answers are on their way

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
    return RuntimeError("StopIteration") if type(error) is StopIteration else error  # which no future takes
