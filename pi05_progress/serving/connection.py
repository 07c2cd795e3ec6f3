"""One client's connection: openpi's protocol, request by request.

The server speaks first: a binary frame with metadata. Then a binary frame with a request, a binary frame with the
reply, and so on. What goes wrong is told in a text frame, then the connection is closed with 1011 (1013 if the server
is busy); openpi's client raises a RuntimeError with the text. All of it runs in the event loop; unpacking and checking
requests has threads of its own, computing has ``batching.py``'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from .batching import Answer, InferenceEndedError, InferenceQueue, QueueFullError
from .core import AnswerError, RequestError, Responder
from .metrics import Metrics, Outcome
from .recording import Exchange, Recorder
from .server_facts import is_number
from .wire import WireError, pack, unpack

FAILED, BUSY, GOING_AWAY, TOO_BIG = 1011, 1013, 1001, 1009
OPENPI_REASON = "Internal server error. Traceback included in previous frame."
REASON = "The request failed. The reason is in the previous frame."
LONGEST_TEXT = 500  # characters of an error, for clients and the log
SEND_TIMEOUT_S = 20.0  # for a client that does not read
log = logging.getLogger(__name__)


class Refusal(Exception):
    """The connection must end; what to tell the client, and with which code."""

    def __init__(self, outcome: Outcome, text: str, code: int = FAILED, reason: str = REASON) -> None:
        super().__init__(text)
        self.outcome, self.text, self.code, self.reason = outcome, text, code, reason


class Vanished(Exception):
    """The client was gone before its answer."""


class ConnectionHandler:
    """Answers clients' requests.

    Args:
        responder: see ``Responder``.
        inference: the queue in front of it.
        threads: to unpack and check requests in.
        metrics: counts everything.
        recorder: writes exchanges, if given.
        debug: whether errors are told with a traceback.

    Attributes:
        busy: connections whose request is being answered.
        stopping: whether connections end after the present answer.
    """

    def __init__(
        self,
        responder: Responder,
        inference: InferenceQueue,
        threads: Executor,
        metrics: Metrics,
        recorder: Recorder | None = None,
        debug: bool = False,
    ) -> None:
        self._responder, self._inference, self._threads = responder, inference, threads
        self._metrics, self._recorder, self._debug = metrics, recorder, debug
        self._metadata = pack(dict(responder.metadata))
        self.busy: set[ServerConnection] = set()
        self.stopping = False

    async def __call__(self, connection: ServerConnection) -> None:
        """Serve one client until it or the server ends the connection."""
        who = name(connection)
        log.info("%s is connected", who)
        gone = asyncio.create_task(connection.wait_closed())
        try:
            with self._metrics.connections.track_inprogress():
                await connection.send(self._metadata)
                await self._serve(connection, gone)
        except Refusal as refusal:
            self._metrics.count(refusal.outcome)
            log.warning("%s: %s", who, refusal.text)
            await _end(connection, refusal)
        except Vanished:
            self._metrics.count("vanished")
        except ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code == TOO_BIG:
                self._metrics.count("bad_request")
                log.warning("%s: %s", who, closed.sent.reason)
        except Exception:  # a mistake of this program's, or of the responder's
            self._metrics.count("failed")
            log.exception("%s: the server failed", who)
            await _end(connection, Refusal("failed", "the server failed; its log says why"))
        finally:
            self.busy.discard(connection)
            gone.cancel()
            log.info("%s is gone", who)

    async def _serve(self, connection: ServerConnection, gone: asyncio.Task) -> None:
        previous_s: float | None = None
        while not self.stopping:
            began = time.monotonic()
            message = await connection.recv()
            self.busy.add(connection)
            arrived = time.monotonic()
            answer = await self._answer(message, gone)
            server_timing = {"infer_ms": 1e3 * (time.monotonic() - arrived)}
            if previous_s is not None:
                server_timing["prev_total_ms"] = 1e3 * previous_s
            data = self._packed(answer.reply | {"server_timing": server_timing})
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await connection.send(data)
            except TimeoutError:
                log.warning("%s does not read its replies: disconnected", name(connection))
                connection.transport.abort()
                raise Vanished from None
            self.busy.discard(connection)
            # Only now: writing a line takes longer than anything else that is done for a reply.
            self._metrics.count("ok")
            progress = answer.reply.get("progress")
            if is_number(progress):
                log.info("Task progress: %.1f%%", 100 * progress)
            elif progress is None:
                self._metrics.without_progress.inc()
            self._metrics.seconds.observe(time.monotonic() - arrived)
            if self._recorder and not self._recorder.add(Exchange(answer.index, time.time(), bytes(message), data)):
                self._metrics.unrecorded.inc()
            previous_s = time.monotonic() - began
        await connection.close(GOING_AWAY, "the server is shutting down")

    async def _answer(self, message: str | bytes, gone: asyncio.Task) -> Answer:
        if isinstance(message, str):
            raise Refusal("bad_request", "a request is a binary frame (MessagePack), this was a text frame")
        try:
            self._inference.check()  # before any work is done for it
            loop = asyncio.get_running_loop()
            future = asyncio.wrap_future(await loop.run_in_executor(self._threads, self._submit, message))
        except QueueFullError as error:
            raise Refusal("refused", f"the server is busy: {error}", BUSY, "Try again later.") from error
        except (RequestError, WireError) as error:
            raise self._refusal("bad_request", str(error), error) from error
        except Exception as error:
            log.exception("a request could not be prepared")
            raise self._refusal("failed", f"the request failed: {_named(error)}", error) from error
        await asyncio.wait({future, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            future.cancel()  # it costs nothing if it has not begun
            raise Vanished
        try:
            return future.result()
        except RequestError as error:
            raise self._refusal("bad_request", str(error), error) from error
        except (AnswerError, InferenceEndedError) as error:
            raise self._refusal("failed", str(error), error) from error
        except Exception as error:
            raise self._refusal("failed", f"the policy failed: {_named(error)}", error) from error

    def _submit(self, message: bytes) -> Future[Answer]:
        """In a thread: check a request and queue it, at once, without a turn of the event loop in between."""
        request = unpack(message)
        if not isinstance(request, Mapping):
            raise RequestError(f"a request is a dictionary, this was {type(request).__name__}")
        return self._inference.submit(self._responder.prepare(request))

    def _packed(self, reply: Mapping[str, Any]) -> bytes:
        try:
            return pack(reply)
        except WireError as error:
            raise self._refusal("failed", f"the policy's answer cannot be sent: {error}", error) from error

    def _refusal(self, outcome: Outcome, text: str, error: Exception) -> Refusal:
        if not self._debug:
            return Refusal(outcome, one_line(text))
        return Refusal(outcome, "".join(traceback.format_exception(error)), reason=OPENPI_REASON)


def name(connection: ServerConnection) -> str:
    """A client's address and port."""
    return "{}:{}".format(*(connection.remote_address or ("?", "?")))


def one_line(text: str) -> str:
    """A text that may hold anything a client has sent, without what could forge lines of a log or fill it."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: LONGEST_TEXT + 1])
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 4] + " ..."


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


async def _end(connection: ServerConnection, refusal: Refusal) -> None:
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await connection.send(refusal.text)
            await connection.close(refusal.code, refusal.reason)
    except (ConnectionClosed, TimeoutError):
        connection.transport.abort()
