"""One client's connection: openpi's protocol, request by request.

The server speaks first: a binary frame with metadata. Then a binary frame with a request, a binary frame with the
reply, and so on. What goes wrong is told in a text frame, then the connection is closed with 1011 (1013 if the server
is busy); openpi's client raises a RuntimeError with the text. All of it runs in the event loop; preparing requests and
computing has ``batching.py``'s threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Mapping
from functools import partial
from typing import Any

from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.protocol import State

from ..errors import one_line
from .batching import Answer, InferenceEndedError, InferenceQueue, QueueFullError
from .metrics import Metrics, Outcome
from .policy_responder import PolicyResponder
from .recording import Exchange, Recorder
from .request_limits import GuardedConnection, name
from .wire import AnswerError, RequestError, WireError, pack, unpack

OPENPI_REASON = "Internal server error. Traceback included in previous frame."
REASON = "The request failed. The reason is in the previous frame."
SEND_TIMEOUT_S = 20.0  # for a client that does not read
log = logging.getLogger(__name__)


class Refusal(Exception):
    """The connection must end; what to tell the client, and with which code."""

    def __init__(
        self, outcome: Outcome, text: str, code: CloseCode = CloseCode.INTERNAL_ERROR, reason: str = REASON
    ) -> None:
        super().__init__(text)
        self.outcome, self.text, self.code, self.reason = outcome, text, code, reason


class Vanished(Exception):
    """The client was gone before its answer."""


class ConnectionHandler:
    """Answers clients' requests by the queue in front of a responder; with ``debug`` errors come with a traceback."""

    def __init__(
        self,
        responder: PolicyResponder,
        inference: InferenceQueue,
        metrics: Metrics,
        recorder: Recorder | None,
        debug: bool,
    ) -> None:
        self._responder, self._inference = responder, inference
        self._metrics, self._recorder, self._debug = metrics, recorder, debug
        self._metadata = pack(dict(responder.metadata))
        self.busy: set[GuardedConnection] = set()  # connections whose request is being answered
        self.stopping = False  # whether connections end after the present answer

    async def __call__(self, connection: GuardedConnection) -> None:
        """Serve one client until it or the server ends the connection."""
        connection.opened()
        who = name(connection)
        log.info("%s is connected", who)
        try:
            with self._metrics.connections.track_inprogress():
                await connection.send(self._metadata)
                await self._serve(connection)
        except Refusal as refusal:
            self._metrics.count(refusal.outcome)
            log.warning("%s: %s", who, refusal.text)
            await _end(connection, refusal)
        except Vanished:
            self._metrics.count("vanished")
        except ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code in (CloseCode.MESSAGE_TOO_BIG, CloseCode.PROTOCOL_ERROR):
                self._metrics.count("bad_request")
                log.warning("%s: %s", who, one_line(closed.sent.reason))
        except Exception:  # a mistake of this program's, or of the responder's
            self._metrics.count("failed")
            log.exception("%s: the server failed", who)
            await _end(connection, Refusal("failed", "the server failed; its log says why"))
        finally:
            self.busy.discard(connection)
            log.info("%s is gone", who)

    async def _serve(self, connection: GuardedConnection) -> None:
        previous_s: float | None = None
        while not self.stopping:
            began = time.monotonic()
            message = await connection.recv()
            self.busy.add(connection)
            arrived = time.monotonic()
            answer = await self._answer(connection, message)
            server_timing = {"infer_ms": 1e3 * (time.monotonic() - arrived)}
            if previous_s is not None:
                server_timing["prev_total_ms"] = 1e3 * previous_s
            try:
                data = pack(answer.reply | {"server_timing": server_timing})
            except WireError as error:
                raise self._refusal("failed", f"the policy's answer cannot be sent: {error}", error) from error
            await _send(connection, data)
            self.busy.discard(connection)
            # Only now: writing a line takes longer than anything else that is done for a reply.
            connection.answered(len(message))
            self._metrics.count("ok")
            progress = answer.reply.get("progress")
            if isinstance(progress, int | float):
                log.info("Task progress: %.1f%%", 100 * progress)
            elif progress is None:
                self._metrics.without_progress.inc()
            self._metrics.seconds.observe(time.monotonic() - arrived)
            if self._recorder:
                self._recorder.add(Exchange(answer.index, time.time(), bytes(message), data))
            previous_s = time.monotonic() - began
        await connection.close(CloseCode.GOING_AWAY, "the server is shutting down")

    async def _answer(self, connection: GuardedConnection, message: str | bytes) -> Answer:
        if isinstance(message, str):
            raise Refusal("bad_request", "a request is a binary frame (MessagePack), this was a text frame")
        try:
            connection.answer = self._inference.submit(partial(self._prepared, message))
            return await connection.answer
        except asyncio.CancelledError:
            self._inference.forget(connection.answer)
            if connection.state is not State.CLOSED:
                raise
            raise Vanished from None
        except QueueFullError as error:
            text = f"the server is busy: {error}"
            raise Refusal("refused", text, CloseCode.TRY_AGAIN_LATER, "Try again later.") from error
        except RequestError as error:
            raise self._refusal("bad_request", str(error), error) from error
        except (AnswerError, InferenceEndedError) as error:
            raise self._refusal("failed", str(error), error) from error
        except Exception as error:
            raise self._refusal("failed", f"the policy failed: {type(error).__name__}: {error}", error) from error

    def _prepared(self, message: bytes) -> Any:
        """In a thread: what the responder needs of a request."""
        try:
            request = unpack(message)
        except WireError as error:
            raise RequestError(str(error)) from error
        if not isinstance(request, Mapping):
            raise RequestError(f"a request is a dictionary, this was {type(request).__name__}")
        return self._responder.prepare(request)

    def _refusal(self, outcome: Outcome, text: str, error: Exception) -> Refusal:
        if not self._debug:
            return Refusal(outcome, one_line(" ".join(text.split()) if outcome == "failed" else text))
        return Refusal(outcome, "".join(traceback.format_exception(error)), reason=OPENPI_REASON)


async def _send(connection: GuardedConnection, data: bytes) -> None:
    """Send a reply; a client that has not read the one before must do so first, within a time."""
    if connection.state is State.OPEN and not connection.transport.get_write_buffer_size():
        broadcast([connection], data)  # which cannot wait, and costs a third of what can
        return
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await connection.send(data)
    except TimeoutError:
        log.warning("%s does not read its replies: disconnected", name(connection))
        connection.transport.abort()
        raise Vanished from None


async def _end(connection: GuardedConnection, refusal: Refusal) -> None:
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await connection.send(refusal.text)
            await connection.close(refusal.code, refusal.reason)
    except (ConnectionClosed, TimeoutError):
        connection.transport.abort()
