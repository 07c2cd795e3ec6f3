"""What strangers may cost the server: connections that never finish, floods of frames, messages that never end."""

import contextlib
import logging
import os
import resource
import socket
import struct

import pytest
import websockets
from conftest import PATIENCE_S, wait_for
from serving_helpers import metric, open_connection, serving, stub, works

from pi05_progress.files.file_limit import raise_file_limit
from pi05_progress.serve_policy import Throttle
from pi05_progress.serving import request_limits
from pi05_progress.serving import server as server_module


def refused(server, reason):
    return float(metric(server, f'pi05_progress_refused_connections_total{{reason="{reason}"}}'))


def raw_connections(server, count, stack, data=b""):
    """Plain TCP connections that say no more than this."""
    made = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)) for _ in range(count)]
    for connection in made:
        connection.sendall(data)
    return made


def ended(connection):
    """Whether the other side has ended a plain connection."""
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "half a request"])
def test_of_connections_that_do_not_finish_their_handshake_the_oldest_go(monkeypatch, data):
    monkeypatch.setattr(server_module, "UNFINISHED", 6)
    with serving(stub(), max_connections=4) as server, contextlib.ExitStack() as stack:
        made = raw_connections(server, 40, stack, data)
        assert all(ended(connection) for connection in made[:20])
        assert len(server._guard.connections) <= 10
        assert works(server)
        assert refused(server, "unfinished") >= 30


def test_a_connection_that_does_not_finish_its_handshake_is_ended_in_time(monkeypatch):
    monkeypatch.setattr(server_module, "OPEN_TIMEOUT_S", 0.2)
    with serving(stub()) as server, contextlib.ExitStack() as stack:
        assert all(ended(connection) for connection in raw_connections(server, 2, stack, b"GET / HTTP/1.1\r\n"))


def test_no_more_connections_are_taken_than_there_are_files_for(monkeypatch):
    """Otherwise accepting fails, of which asyncio wrote 120,000 lines in ten seconds."""
    with monkeypatch.context() as limited:
        limited.setattr(server_module.resource, "getrlimit", lambda _: (len(os.listdir("/dev/fd")) + 50, -1))
        running = serving(stub())
        server = running.__enter__()
    with contextlib.ExitStack() as stack:
        stack.push(running)
        made = raw_connections(server, 60, stack)
        assert ended(made[0])
        assert len(server._guard.connections) < 20
        assert works(server)


def test_the_file_limit_is_raised():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
        raise_file_limit()
        raised, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised == (65536 if most == resource.RLIM_INFINITY else min(most, 65536))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(("first", "opcode"), [(b"", 0x89), (b"", 0x8A), (b"\x02\x80\0\0\0\0", 0)])
def test_a_flood_of_pings_pongs_or_fragments_is_cut_off_and_told(caplog, first, opcode):
    with serving(stub()) as server, open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        with contextlib.suppress(OSError):
            connection.socket.sendall(first + bytes([opcode, 0x80, 0, 0, 0, 0]) * 40_000)
        assert works(server)
        with pytest.raises(websockets.ConnectionClosed):
            connection.recv(PATIENCE_S)
        wait_for(lambda: "more than 250 frames below 1024 bytes" in caplog.text, what="a word about it")
        wait_for(lambda: not server._guard.connections, what="its end")


def test_a_few_pings_are_answered():
    with serving(stub()) as server, open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        assert all(connection.ping().wait(PATIENCE_S) for _ in range(20))


def half_sent(server, stack, size, fragments):
    """A connection that has sent so many bytes of a message that is announced to be longer."""
    connection = open_connection(server).__enter__()
    stack.callback(connection.close_socket)
    connection.recv(PATIENCE_S)
    with contextlib.suppress(OSError):
        if fragments:
            for index in range(10):
                part = struct.pack("!BBQ4x", 0 if index else 2, 0x80 | 127, size // 10) + bytes(size // 10)
                connection.socket.sendall(part)
        else:
            connection.socket.sendall(struct.pack("!BBQ4x", 0x82, 0x80 | 127, size + 10_000) + bytes(size))
    return connection


@pytest.mark.parametrize("fragments", [False, True])
def test_what_messages_hold_together_is_bounded(monkeypatch, fragments):
    monkeypatch.setattr(server_module, "HELD_BYTES", 1_000_000)
    with serving(stub(), max_message_bytes=250_000) as server, contextlib.ExitStack() as stack:
        connections = [half_sent(server, stack, 200_000, fragments) for _ in range(12)]
        wait_for(lambda: refused(server, "memory") >= 7, what="some that are ended")
        assert server._guard.held <= 1_000_000
        assert works(server)
        with pytest.raises(websockets.ConnectionClosed):
            connections[0].recv(PATIENCE_S)
    assert server._guard.held == 0


@pytest.mark.parametrize("fragments", [False, True])
def test_a_message_that_does_not_end_is_cut_off(monkeypatch, caplog, fragments):
    monkeypatch.setattr(request_limits, "MESSAGE_TIMEOUT_S", 0.1)
    with serving(stub()) as server, contextlib.ExitStack() as stack:
        connection = half_sent(server, stack, 1_000, fragments)
        with pytest.raises(websockets.ConnectionClosed):
            connection.recv(PATIENCE_S)
        assert "its message did not end within 0.1 s" in caplog.text
        assert refused(server, "slow") == 1


def test_answered_messages_hold_nothing_however_long_the_connection():
    with serving(stub()) as server, open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        for _ in range(3):
            assert works(server)
        wait_for(lambda: server._guard.held == 0, what="nothing held")


def test_what_asyncio_says_thousands_of_times_is_said_once(caplog, monkeypatch):
    logger, throttle = logging.getLogger("asyncio"), Throttle()
    monkeypatch.setattr(logger, "filters", [throttle])  # a server that was run in this process has left its own
    for _ in range(1000):
        logger.warning("socket.send() raised exception.")
        logger.error("socket.accept() out of system resource\nsocket: %s", "x")
    throttle._seconds = 0
    logger.warning("socket.send() raised exception.")
    assert [record.getMessage().partition("\n")[0] for record in caplog.records] == [
        "socket.send() raised exception.",
        "socket.accept() out of system resource",
        "socket.send() raised exception. (999 times more since this was last said)",
    ]
