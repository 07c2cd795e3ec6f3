"""The policy server: assembled, listening, and ended cleanly. ``pi05_progress/serve_policy.py`` is its program."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from ..errors import UserError
from ..files.file_limit import MOST_FILES, raise_file_limit
from .batching import InferenceEndedError, InferenceQueue
from .connection import ConnectionHandler
from .metrics import CONTENT_TYPE, Metrics
from .policy_responder import PolicyResponder
from .recording import Recorder
from .request_limits import OPEN_TIMEOUT_S, Guard, GuardedConnection, name
from .security import SCHEME, may_enter

GRACE_S = 10.0  # for what is being answered when the server is told to end
STUCK_S = 120.0  # a batch that takes longer means that the device hangs
FAILED_BATCHES = 5  # so many one after the other mean that no policy works here
UNFINISHED = 256  # connections that may stand in their handshake beside those that are open
BACKLOG = 100  # connections that are accepted at once, before the oldest can make room for them
OWN_FILES = 32  # that the server may still have to open: recordings, what a policy reads
HELD_BYTES = 256 * 2**20  # by messages of all clients; four of the longest, if that is more
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """Where and for whom a server is."""

    host: str = "127.0.0.1"  # address to listen on
    port: int = 8000  # 0 takes a free one
    key: str | None = None  # API key that clients must show; None lets everybody in
    tls: ssl.SSLContext | None = None  # for wss and https; None speaks plainly
    max_waiting: int = 64  # requests that may wait for the policy
    max_message_bytes: int = 32 * 2**20  # longest frame that a client may send
    max_connections: int = 128  # clients at once
    debug: bool = False  # tell errors with a traceback


class PolicyServer:
    """One responder, warmed up already, behind a WebSocket address; use it as an asynchronous context.

    A recorder stays the caller's to close.
    """

    def __init__(self, responder: PolicyResponder, settings: ServerSettings, recorder: Recorder | None = None) -> None:
        self._settings = settings
        self._metrics = Metrics(*(str(responder.metadata.get(key, "")) for key in ("model_id", "robot", "version")))
        self._inference = InferenceQueue(responder, settings.max_waiting, self._metrics.computed, self._died)
        self._metrics.waiting.set_function(lambda: len(self._inference))
        self._handler = ConnectionHandler(responder, self._inference, self._metrics, recorder, settings.debug)
        if recorder is not None:
            recorder.on_lost = self._metrics.unrecorded.inc
        self._guard: Guard | None = None
        self._watch: asyncio.Task | None = None
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.broken, self.why = asyncio.Event(), ""  # set when it can answer nothing any more, and the reason
        self.port = settings.port  # that it listens on

    async def __aenter__(self) -> PolicyServer:
        """Listen; a ``UserError`` if the address cannot be used."""
        s, self._loop = self._settings, asyncio.get_running_loop()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        free = (MOST_FILES if files == resource.RLIM_INFINITY else files) - len(os.listdir("/dev/fd")) - OWN_FILES
        backlog = max(1, min(BACKLOG, free // 2))
        self._guard = Guard(
            max(1, min(s.max_connections + UNFINISHED, free - backlog)),
            max(HELD_BYTES, 4 * s.max_message_bytes),
            s.tls is not None,
            lambda reason: self._metrics.refused_connections.labels(reason).inc(),
        )
        with _address(s.host, s.port):
            self._server = await serve(
                self._handler, s.host, s.port, ssl=s.tls, compression=None, max_size=s.max_message_bytes, max_queue=1,
                process_request=self._process_request, origins=[None],  # no web page may use it through a browser
                open_timeout=OPEN_TIMEOUT_S, create_connection=partial(GuardedConnection, self._guard),
                backlog=backlog,
                server_header=None, logger=logging.getLogger("websockets.server"),
            )  # fmt: skip
        self.port = self._server.sockets[0].getsockname()[1]
        self._watch = asyncio.create_task(self._cut_late())
        return self

    async def _cut_late(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._guard.cut_late(self._loop.time())

    async def __aexit__(self, *_: object) -> None:
        """Take no new requests, send the answers that are being computed, close."""
        server, handler = self._server, self._handler
        self._watch.cancel()
        handler.stopping = True
        server.close(close_connections=False)
        for connection in [*self._guard.opening, *self._guard.coming]:
            connection.transport.abort()  # nobody has asked anything there yet
        idle = [c for c in server.connections if c not in handler.busy]
        closing = [asyncio.create_task(c.close(CloseCode.GOING_AWAY, "the server is shutting down")) for c in idle]
        try:
            async with asyncio.timeout(GRACE_S):
                await server.wait_closed()
        except TimeoutError:
            log.warning("%d connections did not end within %g s: cut", len(server.connections), GRACE_S)
            for connection in server.all_connections:
                connection.transport.abort()
        for task in closing:
            task.cancel()
        if not self._inference.close(timeout_s=GRACE_S):
            log.warning("the policy is still computing and is left behind")

    def _died(self, error: InferenceEndedError) -> None:
        """In the inference thread, the last it does."""
        self.why = str(error)
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self.broken.set)

    def _unhealthy(self) -> str:
        """Why nothing can be expected from this server; empty if it works."""
        if self.why:
            return "the inference thread has ended"
        if (busy_s := self._inference.busy_s) > STUCK_S:
            return f"a batch has been computing for {busy_s:.0f} s"
        if self._inference.failed_batches >= FAILED_BATCHES:
            return f"the last {self._inference.failed_batches} batches failed; the log says why"
        return ""

    def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Plain HTTP, and who may open a WebSocket."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            if why := self._unhealthy():
                return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, why + "\n")
            return connection.respond(HTTPStatus.OK, "OK\n")
        headers = request.headers.get_all("Authorization")
        if not may_enter(headers[0] if len(headers) == 1 else None, self._settings.key):
            self._metrics.refused_connections.labels("key").inc()
            log.warning("%s: refused, %s API key", name(connection), "wrong" if headers else "no")
            text = f"This server needs an API key, in the header 'Authorization: {SCHEME} KEY'.\n"
            response = connection.respond(HTTPStatus.UNAUTHORIZED, text)
            response.headers["WWW-Authenticate"] = SCHEME
            return response
        if path == "/metrics":
            response = connection.respond(HTTPStatus.OK, self._metrics.text())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = CONTENT_TYPE
            return response
        if len(self._server.connections) >= self._settings.max_connections:
            self._metrics.refused_connections.labels("limit").inc()
            text = f"{self._settings.max_connections} clients are connected already; try again later.\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, text)
        return None


async def check_address(host: str, port: int) -> None:
    """Raise a ``UserError`` if no server could listen there, before anything slow is done; nothing listens."""
    with _address(host, port):
        bound = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
        bound.close()
        await bound.wait_closed()


@contextlib.contextmanager
def _address(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{host}:{port}: {error.strerror or error}") from error


async def run(
    responder: PolicyResponder,
    settings: ServerSettings,
    recorder: Recorder | None = None,
    listening: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. ``listening`` is told the port once it can be used.

    Raises:
        UserError: the address cannot be used.
        InferenceEndedError: the inference thread has ended; who was connected has been told.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        log.info("%s: finishing what is being answered", signal.Signals(number).name)
        loop.remove_signal_handler(number)  # and with it the patience
        stop.set()

    raise_file_limit()  # each connection is one
    async with PolicyServer(responder, settings, recorder) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        scheme = "wss" if settings.tls else "ws"
        log.info("listening on %s://%s:%d", scheme, settings.host, server.port)
        listening(server.port)
        _tell_systemd("READY=1")
        ends = [asyncio.create_task(event.wait()) for event in (stop, server.broken)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        _tell_systemd("STOPPING=1")
    if server.broken.is_set():
        raise InferenceEndedError(server.why)


def _tell_systemd(state: str) -> None:
    """For services of ``Type=notify``; does nothing elsewhere (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
