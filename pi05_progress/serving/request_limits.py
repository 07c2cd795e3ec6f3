"""What strangers may cost the server: connections, time, memory and frames are bounded before a request is complete.

The library times handshakes (``open_timeout``), bounds one message (``max_size``) and asks whether a client is alive
(``ping_interval``). It bounds neither how many connections stand in their handshake, nor how long a message may take to
come, nor what all messages hold together, nor how many frames come, each of which costs more to read than to send.
Where room is needed the oldest goes: a good client is done within milliseconds. All of it runs in the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.exceptions import ProtocolError
from websockets.frames import DATA_OPCODES, Frame
from websockets.server import ServerProtocol

OPEN_TIMEOUT_S = 5.0  # for the handshake of TLS, and for that of the WebSocket
MESSAGE_TIMEOUT_S = 10.0  # from a message's first byte to its last
SMALL_FRAME = 1024  # bytes; requests, which hold pictures, are larger
MOST_SMALL_FRAMES = 250  # of one client in a second: 3 ms of work
LAST_WORDS_S = 1.0  # for a client that is cut to read why
log = logging.getLogger(__name__)


class FloodError(ProtocolError):
    """A client sends more frames than anybody needs."""


class Guard:
    """The bounds that all connections of a server share.

    Args:
        most_connections: at once, of all kinds.
        most_bytes: that all messages hold together, from their first byte until they are answered.
        tls: whether connections are encrypted.
        refused: called for every connection that is ended, with the reason: ``unfinished``, ``slow`` or ``memory``.
    """

    def __init__(self, most_connections: int, most_bytes: int, tls: bool, refused: Callable[[str], None]) -> None:
        self._most_connections, self._most_bytes, self._refused = most_connections, most_bytes, refused
        self.tls = tls
        self._begun: deque[float] = deque(maxlen=most_connections)
        self.connections: set[GuardedConnection] = set()
        self.opening: dict[GuardedConnection, None] = {}  # in their handshake, oldest first
        self.coming: dict[GuardedConnection, float] = {}  # with an incomplete message, and since when, s; oldest first
        self.held = 0  # bytes that messages hold

    def pace(self, now_s: float) -> None:
        """Note a connection whose handshake of TLS begins: it cannot be reached to be ended before that is over.

        A ``ConnectionRefusedError``: as many have begun within the time of a handshake as may be there.
        """
        if len(self._begun) == self._begun.maxlen and self._begun[0] > now_s - OPEN_TIMEOUT_S:
            self._refused("unfinished")
            raise ConnectionRefusedError
        self._begun.append(now_s)

    def enter(self, connection: GuardedConnection) -> None:
        """Note a connection whose handshake begins; the oldest unfinished one goes if there is no room."""
        self.connections.add(connection)
        self.opening[connection] = None
        if len(self.connections) > self._most_connections:
            self.cut(next(iter(self.opening)), "unfinished")

    def leave(self, connection: GuardedConnection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self.opening.pop(connection, None)
        self.weigh(connection, 0, False, 0.0)

    def weigh(self, connection: GuardedConnection, held: int, coming: bool, now_s: float) -> None:
        """Note what a connection's messages hold and whether one is incomplete; if all hold too much, one goes."""
        self.held += held - connection.held
        connection.held = held
        if coming:
            self.coming.setdefault(connection, now_s)
        else:
            self.coming.pop(connection, None)
        while self.held > self._most_bytes and self.coming:
            self.cut(next(iter(self.coming)), "memory", "the messages of all clients take too much memory")

    def cut_late(self, now_s: float) -> None:
        """End connections whose message takes too long; to be called every second."""
        while self.coming and next(iter(self.coming.values())) < now_s - MESSAGE_TIMEOUT_S:
            self.cut(next(iter(self.coming)), "slow", f"its message did not end within {MESSAGE_TIMEOUT_S:g} s")

    def cut(self, connection: GuardedConnection, reason: str, text: str = "") -> None:
        """End a connection at once, and free what it holds."""
        self._refused(reason)
        if text:
            log.warning("%s: disconnected: %s", name(connection), text)
        connection.transport.abort()
        connection.protocol.reader.discard()
        self.leave(connection)


class GuardedConnection(ServerConnection):
    """A client's connection within the bounds."""

    def __init__(self, guard: Guard, protocol: ServerProtocol, server: Server, **options: Any) -> None:
        super().__init__(protocol, server, **options)
        if guard.tls:
            guard.pace(self.loop.time())
        self._guard = guard
        self.held = 0  # bytes of its messages that are not answered
        self.answer: asyncio.Future | None = None  # that it waits for; cancelled when the client is gone
        self._in_frames = 0  # bytes of ``held`` that are in complete frames
        self._small, self._second = 0, 0
        self._recv_frame, protocol.recv_frame = protocol.recv_frame, self._check_frame

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        self._guard.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_lost(exc)
        self._guard.leave(self)
        if self.answer is not None:
            self.answer.cancel()

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        super().data_received(data)
        self._weigh()
        if isinstance(self.protocol.parser_exc, FloodError):
            self.transport.pause_reading()
            self.loop.call_later(LAST_WORDS_S, self.transport.abort)

    def opened(self) -> None:
        """The handshake is done."""
        self._guard.opening.pop(self, None)

    def answered(self, size: int) -> None:
        """A message of so many bytes is no longer needed."""
        self._in_frames -= size
        self._weigh()

    def _weigh(self) -> None:
        unread = len(self.protocol.reader.buffer)
        coming = unread > 0 or self.protocol.current_size is not None
        self._guard.weigh(self, unread + self._in_frames, coming, self.loop.time())

    def _check_frame(self, frame: Frame) -> None:
        """Called by the protocol for every frame, before anything is done for it."""
        if len(frame.data) < SMALL_FRAME:
            second = int(self.loop.time())
            self._small = self._small + 1 if second == self._second else 1
            self._second = second
            if self._small > MOST_SMALL_FRAMES:
                raise FloodError(f"more than {MOST_SMALL_FRAMES} frames below {SMALL_FRAME} bytes within a second")
        if frame.opcode in DATA_OPCODES:
            self._in_frames += len(frame.data)
            if frame.fin:
                self._guard.coming.pop(self, None)  # the next one begins anew
        self._recv_frame(frame)


def name(connection: ServerConnection) -> str:
    """A client's address and port."""
    return "{}:{}".format(*(connection.remote_address or ("?", "?")))
