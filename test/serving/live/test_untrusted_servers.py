"""Our client and servers that are not to be trusted: of others, deaf, or whose words make no sense."""

import select
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import PATIENCE_S
from serving_helpers import FACTS, PROFILE, FunctionResponder, frame, remote, request, serving, stub
from websockets.server import ServerProtocol
from websockets.sync.server import serve

from pi05_progress.policy import PolicyUnavailableError
from pi05_progress.serving.client import PolicyClient, WebsocketPolicy
from pi05_progress.serving.security import server_tls
from pi05_progress.serving.wire import pack, unpack


def test_something_that_is_no_policy_server_is_told():
    def accept():
        connection, _ = listener.accept()
        connection.sendall(b"SSH-2.0-OpenSSH\r\n")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(PolicyUnavailableError, match="no policy server at ws://"):
            PolicyClient(f"ws://127.0.0.1:{listener.getsockname()[1]}").connect()
        thread.join()


def self_signed(folder):
    certificate, private = folder / "crt", folder / "key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
         "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", private, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, private


def test_a_certificate_that_is_not_trusted_is_told_with_its_remedy_and_a_named_one_is_taken(tmp_path, monkeypatch):
    certificate, private = self_signed(tmp_path)
    with serving(stub(), tls=server_tls(certificate, private)) as server:
        uri = server.uri.replace("ws:", "wss:")
        with pytest.raises(PolicyUnavailableError, match=r"no TLS with wss://.*self-signed certificate.*SSL_CERT_FILE"):
            PolicyClient(uri).connect()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with PolicyClient(uri) as client:
            assert client.infer(request())["progress"] == 0.25
    with (
        serving(stub()) as server,
        pytest.raises(PolicyUnavailableError, match=r"no TLS with wss://.*ws:// is"),
    ):
        PolicyClient(server.uri.replace("ws:", "wss:")).connect()


@contextmanager
def answering(handler, facts=FACTS):
    """The address of a server of the test's own: ``handler`` has the connection after the metadata was sent."""

    def serve_one(connection):
        connection.send(pack(facts))
        handler(connection)

    with serve(serve_one, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def deaf(tls=None):
    """The address of a server that welcomes clients, tells what it is, and reads nothing more; and its connections."""
    accepted = []

    def welcome():
        connection, _ = listener.accept()
        connection = tls.wrap_socket(connection, server_side=True) if tls else connection
        accepted.append(connection)
        protocol = ServerProtocol(max_size=None)
        while not (events := protocol.events_received()):
            protocol.receive_data(connection.recv(4096))
        protocol.send_response(protocol.accept(events[0]))
        protocol.send_binary(pack(FACTS))
        connection.sendall(b"".join(protocol.data_to_send()))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        thread = threading.Thread(target=welcome)
        thread.start()
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}", accepted
        thread.join()
        for connection in accepted:
            connection.close()


def large_request():
    return request(head_camera=np.zeros((2000, 2000, 3), np.uint8))  # more than the buffers between hold


@pytest.mark.parametrize("with_tls", [False, True])
def test_a_server_that_reads_nothing_holds_a_request_for_no_longer_than_the_time_out(tmp_path, monkeypatch, with_tls):
    tls = None
    if with_tls:
        certificate, private = self_signed(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        tls = server_tls(certificate, private)
    with deaf(tls) as (uri, _):
        uri = uri.replace("ws:", "wss:") if with_tls else uri
        with PolicyClient(uri, timeout_s=0.5) as client:
            client.connect()
            with pytest.raises(PolicyUnavailableError, match=r"wss?://.* did not take the request within 0.5 s"):
                client.infer(large_request())


@pytest.mark.parametrize("given", [request, large_request])
def test_closing_from_another_thread_ends_a_request_at_once(given):
    """One that waits for its answer, and one that is still being sent."""
    failed = []

    def ask():
        with pytest.raises(PolicyUnavailableError, match=r"the connection to ws://.* is lost"):
            client.infer(given())
        failed.append(True)

    with deaf() as (uri, connections):
        client = PolicyClient(uri, timeout_s=3 * PATIENCE_S)
        client.connect()
        thread = threading.Thread(target=ask)
        thread.start()
        assert select.select(connections, [], [], PATIENCE_S)[0], "the request has begun to come"
        client.close()
        thread.join(PATIENCE_S)
        assert failed, "long before the client's own time-out"


FORGED = "no\n2026-11-27 12:00:00 ERROR all is lost \x1b[31m\u202e" + "x" * 10_000


def test_what_a_foreign_server_says_is_one_short_printable_line():
    def text(connection):
        connection.recv()
        connection.send(FORGED)

    def reason(connection):
        connection.recv()
        connection.close(1011, FORGED[:100])

    for handler in (text, reason):
        with answering(handler) as uri, PolicyClient(uri) as client:
            with pytest.raises(PolicyUnavailableError, match="ERROR all is lost") as error:
                client.infer(request())
            assert str(error.value).isprintable()
            assert len(str(error.value)) < 700

    def refuse(connection, _):
        return connection.respond(503, FORGED)

    with serve(lambda _: None, "127.0.0.1", 0, process_request=refuse) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(PolicyUnavailableError, match=r"503 no.*ERROR all is lost") as error:
            PolicyClient(f"ws://127.0.0.1:{server.socket.getsockname()[1]}").connect()
        assert str(error.value).isprintable()
        server.shutdown()
        thread.join()


def numbered(connection, surplus_after, sent):
    """Actions say which state they answer; after one of the answers another one is sent, and then ``sent`` is set."""
    for i, message in enumerate(connection):
        state = unpack(message)["observation/state"]
        reply = pack({"actions": np.full((5, 16), state[0], np.float32), "progress": 0.5})
        for _ in range(1 + (i == surplus_after)):
            connection.send(reply)
        sent.set()


def test_an_answer_that_nobody_asked_for_is_not_taken_for_that_of_the_next_request():
    sent = threading.Event()
    with answering(lambda connection: numbered(connection, 0, sent)) as uri:
        policy = WebsocketPolicy(uri, PROFILE)
        assert policy.infer(frame(progress=0.125), "x").actions[0, 0] == 0.125
        assert sent.wait(PATIENCE_S)
        time.sleep(0.2)  # for the client's thread to read it
        with pytest.raises(PolicyUnavailableError, match=r"ws://.* sent something that nobody asked for"):
            policy.infer(frame(progress=0.25), "x")
        assert policy.infer(frame(progress=0.375), "x").actions[0, 0] == 0.375, "over a new connection"
        policy.close()


UNUSABLE_FACTS = [
    {"model_id": 7}, {"model_id": ""}, {"model_id": "a\nERROR \x1b[31m"}, {"model_id": "x" * 201},
    {"robot": None}, {"action_horizon": "5"}, {"action_horizon": 0},
    {"action_horizon": 2.0}, {"action_horizon": True}, {"action_horizon": 10**6}, {"action_dt_s": 1e9},
    {"durations_s": [24.0]}, {"durations_s": {"stack": 0}}, {"durations_s": {"stack": "long"}}, {"durations_s": 24},
    {"action_dt_s": 0}, {"action_dt_s": -0.1}, {"action_dt_s": float("nan")}, {"action_dt_s": "fast"},
    {"image_size": [0, 0]}, {"image_size": 5}, {"image_size": [224, 224, 3]}, {"image_size": [224.0, 224.0]},
    {"confidence_level": float("nan")}, {"confidence_level": 1}, {"confidence_level": "high"},
]  # fmt: skip


@pytest.mark.parametrize("facts", UNUSABLE_FACTS, ids=str)
def test_what_a_server_says_of_itself_is_checked_before_a_robot_relies_on_it(facts):
    [key] = facts
    expected = pytest.raises(ValueError, match=rf"ws://.*: the server tells {key} .*; expected ")
    with serving(FunctionResponder(dict, FACTS | facts)) as server, expected:
        remote(server)


def test_a_temporal_head_that_is_none_is_refused_and_the_server_named():
    given = {"actions": np.zeros((5, 16), np.float32), "progress": 0.5}
    with serving(FunctionResponder(lambda _: given, FACTS | {"temporal_head": b"no head"})) as server:
        with pytest.raises(ValueError, match=r"ws://.*: the temporal head cannot be read"):
            remote(server)
        with PolicyClient(server.uri) as client, pytest.raises(PolicyUnavailableError, match=r"ws://.*: the temporal"):
            client.infer(request())


UNUSABLE_REPLIES = {
    "progress": [True, "much", [0.5]],
    "progress_lower": [False],
    "progress_upper": ["x"],
    "policy_timing": [[1], {"model_ms": "x"}, {"transforms_ms": float("inf")}, {"model_ms": -1.0}],
}


@pytest.mark.parametrize(("key", "value"), [(k, value) for k, values in UNUSABLE_REPLIES.items() for value in values])
def test_a_reply_that_makes_no_sense_is_an_error_that_names_the_field(key, value):
    given = {"actions": np.zeros((5, 16), np.float32), "progress": 0.5, "progress_lower": 0.4, "progress_upper": 0.6}
    with serving(FunctionResponder(lambda _: given | {key: value}, FACTS)) as server:
        policy, client = remote(server), PolicyClient(server.uri)
        for ask in (lambda: policy.infer(frame(), "x"), lambda: client.infer(request())):
            with pytest.raises(PolicyUnavailableError, match=rf"ws://.*: the server's reply has {key} "):
                ask()
        assert client.estimate.progress is None
        policy.close()
        client.close()


UNUSABLE_NUMBERS = [("progress", 1.7), ("progress", -1), ("progress", float("nan")), ("progress_lower", 2.0),
                    ("progress_lower", 0.7)]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), UNUSABLE_NUMBERS)
def test_with_a_progress_that_makes_no_sense_the_actions_are_passed_on(key, value, caplog):
    given = {"actions": np.ones((5, 16), np.float32), "progress": 0.5, "progress_lower": 0.4, "progress_upper": 0.6}
    with serving(FunctionResponder(lambda _: given | {key: value}, FACTS)) as server:
        policy, client = remote(server), PolicyClient(server.uri)
        output = policy.infer(frame(), "x")
        assert (output.actions == 1).all()
        assert output.progress_problem(), "which those who use the answer decide about"
        for _ in range(2):
            np.testing.assert_array_equal(client.infer(request())["actions"], given["actions"])
            assert (client.estimate.progress, client.estimate.raw) == (None, None)
        assert caplog.text.count("no progress (said once)") == 1
        policy.close()
        client.close()
