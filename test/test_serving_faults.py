"""Broken, hostile, slow and vanishing clients: each is told what is wrong, and the next good request is answered."""

import contextlib
import socket
import struct
import threading
import time

import msgpack
import numpy as np
import pytest
import websockets
from serving_helpers import ask, open_connection, request, serving, stub, works

from pi05_progress.serving.wire import pack


@pytest.fixture(scope="module")
def server():
    with serving(stub()) as running:
        yield running


def broken_frames(count, seed=0):
    """Truncated, damaged, extended and random frames."""
    rng = np.random.default_rng(seed)
    good = pack(request())
    head = len(good) - 3 * 28 * 28 * 3 + 600  # where the structure is; most of a request is pictures
    for index in range(count):
        frame = bytearray(good)
        match index % 5:
            case 0:
                frame = frame[: rng.integers(0, len(frame))]
            case 1:
                for place in rng.integers(0, len(frame), 20):
                    frame[place] = rng.integers(0, 256)
            case 2:
                for place in rng.integers(0, min(head, len(frame)), 3):
                    frame[place] = rng.integers(0, 256)
            case 3:
                frame = bytearray(rng.bytes(rng.integers(0, 2000)))
            case 4:
                start = rng.integers(0, len(frame))
                frame[start : start + rng.integers(0, 50)] = rng.bytes(rng.integers(0, 50))
        yield bytes(frame)


def survives(server, count, seed):
    outcomes = {"reply": 0, "refused": 0}
    connection = None
    for frame in broken_frames(count, seed):
        if connection is None:
            connection = open_connection(server).__enter__()
            connection.recv(20)
        answer = ask(connection, frame)
        if isinstance(answer, str):
            assert answer
            assert "\n" not in answer
            assert not answer.startswith("the request failed"), "everything that can be wrong has its own message"
            outcomes["refused"] += 1
            connection.close()
            connection = None
        else:
            assert answer["actions"].shape == (5, 16)  # what was damaged were colours
            outcomes["reply"] += 1
    assert outcomes["refused"] > count / 2
    assert works(server)


def test_truncated_and_random_frames_are_refused_in_one_line(server):
    survives(server, 500, 0)


@pytest.mark.long
def test_ten_thousand_truncated_and_random_frames(server):
    survives(server, 10_000, 1)


def test_what_is_no_websocket_at_all_is_survived(server):
    """Random bytes instead of HTTP, and broken frames after a good handshake."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(rng.bytes(rng.integers(1, 3000)))
        connection = open_connection(server).__enter__()
        connection.recv(20)
        connection.socket.sendall(rng.bytes(rng.integers(1, 3000)))
        connection.close_socket()
    assert works(server)


def array(dtype, shape, data=b"\0" * 8):
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}


def with_state(value):
    """A request whose state is this MessagePack value, as it stands."""
    fields = {k: array("|u1", list(v.shape), v.tobytes()) for k, v in request(state=None, prompt=None).items()}
    return msgpack.packb(fields | {"prompt": "x", "observation/state": value})


HOSTILE = {
    "wrong keys": (pack({"state": np.zeros(48)}), "observation/state, observation/images/head_camera"),
    "object array": (with_state(array("|O", [1])), "dtype object (Python objects) is refused"),
    "structured array": (with_state(array("f4,f4", [1])), "structured"),
    "structured dtype as a list": (with_state(array([["a", "f4"]], [2])), "expected text such as '<f4'"),
    "huge shape": (with_state(array("<f4", [2**40, 2**40])), "comes with 8 bytes"),
    "shape beyond integers": (with_state(array("<f4", [2**63 - 1, 0, 4])), "array"),
    "negative shape": (with_state(array("<f4", [-2, -1])), "comes with 8 bytes"),
    "hundred axes": (with_state(array("<f4", [1] * 99 + [2])), "one complete message"),
    "huge string dtype": (with_state(array("<U2000000000", [1])), "array"),
    "dtype with code in it": (with_state(array("(__import__('os'),f4", [2])), "is not recognized"),
    "scalar that overflows": (
        with_state({b"__npgeneric__": True, b"data": 2**40, b"dtype": "|i1"}), "a malformed array",
    ),
    "array of 4 G items": (b"\xdd\xff\xff\xff\xff", "not one complete message"),
    "map of 4 G items": (b"\xdf\xff\xff\xff\xff", "not one complete message"),
    "deeply nested": (b"\x91" * 5000 + b"\xc0", "not one complete message"),
    "no dictionary": (pack([1, 2]), "a request is a dictionary, this was list"),
    "an array for a request": (pack(np.zeros(3)), "a request is a dictionary, this was ndarray"),
    "NaN picture": (pack(request(head_camera=np.full((8, 8, 3), np.nan))), "head_camera[0, 0, 0] is nan"),
    "text": ("stack the cubes", "a request is a binary frame"),
    "nothing": (b"", "0 bytes are not one complete message"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_are_refused_and_named(server, name):
    frame, text = HOSTILE[name]
    with open_connection(server) as connection:
        connection.recv(20)
        answer = ask(connection, frame)
        assert isinstance(answer, str)
        assert text in answer
        assert "\n" not in answer
        with pytest.raises(websockets.ConnectionClosedError):
            connection.recv(20)
    assert works(server)


def test_slow_clients_keep_nobody_waiting(server):
    """One sends its request drop by drop, one its handshake, one does not read."""
    with contextlib.ExitStack() as stack:
        dripping = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        dripping.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        slow = stack.enter_context(open_connection(server))
        slow.recv(20)
        raw = slow.socket
        frame = pack(request())
        header = struct.pack("!BBQ4x", 0x82, 0x80 | 127, len(frame))  # a mask of zeros
        raw.sendall(header + frame[: len(frame) // 2])
        deaf = stack.enter_context(open_connection(server))
        for _ in range(20):
            deaf.send(frame)
        started = time.monotonic()
        assert works(server)
        assert time.monotonic() - started < 2
        raw.sendall(frame[len(frame) // 2 :])
        assert isinstance(slow.recv(20), bytes)
        slow.close_socket()
        deaf.close_socket()


def test_clients_that_vanish_cost_nothing_that_has_not_begun():
    responder = stub(wait_s=0.2)
    with serving(responder) as server:
        for _ in range(10):
            connection = open_connection(server).__enter__()
            connection.recv(20)
            connection.send(pack(request()))
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            time.sleep(0.02)
            connection.close_socket()
        assert works(server)
        assert responder._policy.calls <= 4


def test_sixty_four_clients_at_once_are_all_answered(server):
    failures = []

    def client(seed):
        try:
            with open_connection(server) as connection:
                connection.recv(30)
                for _ in range(3):
                    given = request(seed=seed, state=np.full(48, seed / 64))
                    assert ask(connection, given)["progress"] == pytest.approx(seed / 64), "its own answer"
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_one_bad_request_in_a_batch_does_not_spoil_the_others():
    responder = stub(wait_s=0.2)
    responder.batch_sizes = (1, 4)
    with serving(responder) as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(open_connection(server)) for _ in range(4)]
        for connection, prompt in zip(connections, ("x", "y", "raise", "z"), strict=True):
            connection.recv(20)
            connection.send(pack(request(prompt)))
            time.sleep(0.02)
        answers = [connection.recv(20) for connection in connections]
    assert [isinstance(answer, bytes) for answer in answers] == [True, True, False, True]
    assert answers[2] == "the policy failed: RuntimeError: the device is gone"
