"""Broken, hostile, slow and vanishing clients: each is told what is wrong, and the next good request is answered."""

import contextlib
import logging
import socket
import struct
import threading
import time

import msgpack
import numpy as np
import pytest
import websockets
from conftest import PATIENCE_S, wait_for
from serving_helpers import (
    ask,
    asking,
    function,
    gated,
    metric,
    open_connection,
    queue_length,
    request,
    serving,
    stub,
    works,
)  # fmt: skip

from pi05_progress.serving import connection as connection_module
from pi05_progress.serving.wire import RequestError, WireError, pack, unpack

OUTCOMES = 'pi05_progress_requests_total{{outcome="{}"}}'


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
            connection.recv(PATIENCE_S)
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
        connection.recv(PATIENCE_S)
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
    "negative shape": (with_state(array("<f4", [-2, -1])), "an array's shape is [-2, -1]"),
    "hundred axes": (with_state(array("<f4", [1] * 99 + [2])), "an array's shape is list[100]"),
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
    "scalar of 1.5 GB": (
        with_state({b"__npgeneric__": True, b"data": 1_500_000_000, b"dtype": "|S1"}), "a scalar of dtype |S1 comes",
    ),
    "a hundred thousand axes": (with_state(array("<f4", [2**63 - 1] * 100_000)), "not one complete message"),
    "a million maps": (msgpack.packb({"x": [{}] * 10**6}), "not one complete message"),
    "text": ("stack the cubes", "a request is a binary frame"),
    "nothing": (b"", "0 bytes are not one complete message"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_are_refused_and_named(server, name):
    frame, text = HOSTILE[name]
    with open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        answer = ask(connection, frame)
        assert isinstance(answer, str)
        assert text in answer
        assert "\n" not in answer
        with pytest.raises(websockets.ConnectionClosedError):
            connection.recv(PATIENCE_S)
    assert works(server)


LONG_OR_FORGED = {
    "lines in a key": pack({"x\n2026-01-01 00:00:00,000 ERROR all is lost \x1b[31m\u202e\x85": 1}),
    "long dtype": with_state(array("A" * 10**6, [1])),
    "long list for a dtype": with_state(array(["A" * 1000] * 5000, [1])),
    "long key in an array": with_state(array("<f4", [1]) | {b"\0" * 10**6: 1} | {b"data": 1}),
    "long shape": with_state(array("<f4", [2**63 - 1] * 9_000)),
    "array without what it needs": with_state({b"__ndarray__": True, b"\n" * 10**6: 1}),
    "many long keys": pack({f"{i}\n" * 1000: 1 for i in range(1000)}),
    "long bytes as key": pack({b"\xff" * 10**6: 1}),
    "long lists for a state": with_state([["x" * 1000] * 10] * 500),
}


@pytest.mark.parametrize("name", LONG_OR_FORGED)
def test_no_request_fills_or_forges_the_log(server, name, caplog):
    caplog.set_level(logging.INFO)
    with open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        answer = ask(connection, LONG_OR_FORGED[name])
    assert isinstance(answer, str)
    for text in (answer, *caplog.messages):
        assert len(text) <= 600
        assert text.isprintable()
    assert any(answer in message for message in caplog.messages)
    assert works(server)


def random_value(rng, depth=0):
    """Something that MessagePack can write, with the keys of arrays among its keys."""
    kind = rng.integers(0, 9 if depth < 4 else 7)
    few = int(rng.integers(0, 4))
    match kind:
        case 0:
            return None
        case 1:
            return int(rng.choice([-1, 0, 1, 48, 2**31, 2**63 - 1, -(2**63)]))
        case 2:
            return float(rng.choice([0.5, -1e300, np.nan, np.inf]))
        case 3:
            return str(rng.choice(["<f4", "|S1", "|O", "<U9999999", "f4,f4", "\x1b\n", "M8", "<f4" * 100, "é"]))
        case 4:
            return rng.bytes(few * 4)
        case 5:
            return bool(few % 2)
        case 6:
            return [few] * few
        case 7:
            return [random_value(rng, depth + 1) for _ in range(few)]
    made = {str(i): random_value(rng, depth + 1) for i in range(few)}
    for key in (b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"):
        if rng.random() < 0.6:
            made[key] = random_value(rng, depth + 1)
    return made


@pytest.mark.filterwarnings("ignore")  # of NumPy's about old dtypes
@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.long)])
def test_structured_nonsense_is_refused_in_one_short_line(count):
    """What ``_submit`` does, without a connection for each."""
    rng, refused = np.random.default_rng(3), 0
    good = {key: array("|u1", list(v.shape), v.tobytes()) for key, v in request(state=None, prompt=None).items()}
    good |= {"prompt": "x", "observation/state": [0.5] * 48}
    responder = stub()
    for _ in range(count):
        given = dict(good)
        for key in rng.choice(list(good), rng.integers(1, 3)):
            given[str(key)] = random_value(rng)
        try:
            responder.prepare(unpack(msgpack.packb(given)))
        except (WireError, RequestError) as error:
            refused += 1
            assert len(str(error)) < 1000
    assert refused > count / 2


def test_slow_clients_keep_nobody_waiting(server):
    """One sends its request drop by drop, one its handshake, one does not read."""
    with contextlib.ExitStack() as stack:
        dripping = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        dripping.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        slow = stack.enter_context(open_connection(server))
        slow.recv(PATIENCE_S)
        raw = slow.socket
        frame = pack(request())
        header = struct.pack("!BBQ4x", 0x82, 0x80 | 127, len(frame))  # a mask of zeros
        raw.sendall(header + frame[: len(frame) // 2])
        deaf = stack.enter_context(open_connection(server))
        for _ in range(20):
            deaf.send(frame)
        assert works(server)
        raw.sendall(frame[len(frame) // 2 :])
        assert isinstance(slow.recv(PATIENCE_S), bytes)
        slow.close_socket()
        deaf.close_socket()


def test_a_client_that_does_not_read_its_replies_is_disconnected(monkeypatch, caplog):
    monkeypatch.setattr(connection_module, "SEND_TIMEOUT_S", 0.2)
    large = function()(lambda _: {"actions": np.zeros(10**7, np.float32), "progress": None})
    with serving(large) as server, open_connection(server) as deaf:
        for _ in range(2):
            deaf.send(pack({}))
        wait_for(lambda: "does not read its replies: disconnected" in caplog.text, what="the server's patience to end")
        wait_for(lambda: metric(server, OUTCOMES.format("vanished")) == "1.0", what="its count")
        assert metric(server, OUTCOMES.format("ok")) == "1.0"


def vanish(connection):
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close_socket()


def test_clients_that_vanish_cost_nothing_that_has_not_begun_and_keep_no_place_in_the_queue():
    gate, responder = gated()
    with serving(responder, max_waiting=4) as server:
        vanishing = [asking(server)]
        wait_for(lambda: server._inference.busy_s > 0, what="the first to begin")
        vanishing += [asking(server) for _ in range(4)]
        wait_for(lambda: queue_length(server) == 4, what="four that wait")
        for connection in vanishing:
            vanish(connection)
        wait_for(lambda: queue_length(server) == 0, what="their places to be free")
        patient = [asking(server) for _ in range(4)]
        wait_for(lambda: queue_length(server) == 4, what="four others that wait")
        gate.set()
        assert [type(connection.recv(PATIENCE_S)) for connection in patient] == [bytes] * 4
        for connection in patient:
            connection.close()
        assert responder._policy.calls == 1 + 4


def test_sixty_four_clients_at_once_are_all_answered(server):
    failures = []

    def client(seed):
        try:
            with open_connection(server) as connection:
                connection.recv(PATIENCE_S)
                for _ in range(3):
                    given = request(seed=seed, state=np.full(48, seed / 64))
                    assert ask(connection, given)["progress"] == pytest.approx(seed / 64), "its own answer"
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert failures == []


def test_one_bad_request_in_a_batch_does_not_spoil_the_others():
    responder = stub(wait_s=0.2)
    responder.batch_sizes = (1, 4)
    with serving(responder) as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(open_connection(server)) for _ in range(4)]
        for connection, prompt in zip(connections, ("x", "y", "raise", "z"), strict=True):
            connection.recv(PATIENCE_S)
            connection.send(pack(request(prompt)))
            time.sleep(0.02)
        answers = [connection.recv(PATIENCE_S) for connection in connections]
    assert [isinstance(answer, bytes) for answer in answers] == [True, True, False, True]
    assert answers[2] == "the policy failed: RuntimeError: the device is gone"
