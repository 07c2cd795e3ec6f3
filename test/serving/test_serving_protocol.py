"""What goes over the wire, against a recorded session of openpi's server; who gets in; how errors are told."""

import contextlib
import json
import logging
import ssl
import subprocess
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import websockets
from conftest import PATIENCE_S, wait_for
from places import GOLDEN
from serving_helpers import (
    StubPolicy,
    ask,
    can_connect,
    function,
    gated,
    health,
    metric,
    open_connection,
    queue_length,
    request,
    serving,
    stub,
    works,
)
from websockets.sync.client import connect

from pi05_progress.errors import UserError
from pi05_progress.serving.security import check_exposure, may_enter, read_key, server_tls
from pi05_progress.serving.wire import pack, unpack

SESSION = json.loads((GOLDEN / "websocket_session.json").read_text())
KEY = "0123456789abcdef0123"


def without_times(frame):
    """The frame's bytes with all timing values zero."""

    def cleared(value):
        if not isinstance(value, dict):
            return value
        return {k: dict.fromkeys(v, 0.0) if k.endswith("_timing") else cleared(v) for k, v in value.items()}

    return pack(cleared(unpack(frame)))


def get(server, path, scheme="http", context=None, **headers):
    """Status, headers and text of a plain request."""
    url = f"{scheme}://127.0.0.1:{server.port}{path}"
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=PATIENCE_S, context=context
    ) as reply:
        return reply.status, dict(reply.headers), reply.read().decode()


def test_a_recorded_session_of_openpis_server_is_reproduced_frame_by_frame():
    frames = [bytes.fromhex(frame["hex"]) for frame in SESSION]
    metadata = unpack(frames[0])

    @function(metadata)
    def policy(obs):
        actions = np.full((4, 2), obs["x"], np.float32)
        return {"state": np.zeros(3, np.float32), "actions": actions, "policy_timing": {"infer_ms": 1.0}}

    with serving(policy) as server, open_connection(server) as connection:
        got = [connection.recv(PATIENCE_S)]
        for frame in SESSION[1:]:
            if frame["dir"].startswith("client"):
                connection.send(bytes.fromhex(frame["hex"]))
                got.append(bytes.fromhex(frame["hex"]))
            else:
                got.append(connection.recv(PATIENCE_S))
    assert [type(frame) for frame in got] == [bytes] * len(frames)
    assert [without_times(frame) for frame in got] == [without_times(frame) for frame in frames]
    first, second = (unpack(got[i])["server_timing"] for i in (2, 4))
    assert 0 < first["infer_ms"] < 1000
    assert second["prev_total_ms"] >= first["infer_ms"]


def test_metadata_tells_what_a_client_needs_and_progress_is_a_plain_number():
    with serving(stub()) as server, open_connection(server) as connection:
        metadata = unpack(connection.recv(PATIENCE_S))
        assert (metadata["model_id"], metadata["robot"]) == ("stub", "teleavatar")
        assert (metadata["action_horizon"], metadata["action_dt_s"]) == (5, 1 / 30)
        reply = ask(connection, request())
        assert list(reply) == [
            "actions", "progress", "progress_lower", "progress_upper", "policy_timing", "server_timing",
        ]  # fmt: skip
        assert reply["actions"].shape == (5, 16)
        assert reply["actions"].dtype == np.float32
        assert [reply[key] for key in ("progress", "progress_lower", "progress_upper")] == [0.25, 0.125, 0.25]
        assert {type(reply[key]) for key in ("progress", "progress_lower", "progress_upper")} == {float}
        assert reply["policy_timing"] == {"infer_ms": 1.5, "transforms_ms": 0.5, "model_ms": 1.0}


def test_health_is_told_in_openpis_words_also_while_the_policy_computes():
    gate, responder = gated()
    with serving(responder) as server, open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        connection.send(pack(request()))
        wait_for(lambda: server._inference.busy_s > 0, what="the policy to begin")
        assert get(server, "/healthz")[::2] == (200, "OK\n")
        gate.set()
        assert unpack(connection.recv(PATIENCE_S))["progress"] == 0.25


def test_a_device_that_hangs_is_told_by_healthz(monkeypatch):
    monkeypatch.setattr("pi05_progress.serving.server.STUCK_S", 0.05)
    gate, responder = gated()
    with serving(responder) as server, open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        connection.send(pack(request()))
        wait_for(lambda: health(server)[0] == 503, what="bad health")
        gate.set()
        connection.recv(PATIENCE_S)
        assert get(server, "/healthz")[0] == 200


def test_every_answer_logs_its_progress(caplog):
    caplog.set_level(logging.INFO)
    with serving(stub()) as server, open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        for sent in (request(state=np.full(48, 0.423)), request("no progress"), request("again")):
            ask(connection, sent)
    assert [m for m in caplog.messages if m.startswith("Task progress")] == [
        "Task progress: 42.3%", "Task progress: 25.0%"
    ]  # fmt: skip
    assert next(r for r in caplog.records if r.msg.startswith("Task progress")).levelno == logging.INFO


def test_metrics_count_requests_by_outcome():
    with serving(stub()) as server:
        started = get(server, "/metrics")[2]
        for outcome in ("ok", "bad_request", "refused", "failed", "vanished"):
            assert f'pi05_progress_requests_total{{outcome="{outcome}"}} 0.0' in started.splitlines()
        for sent in (request(), request("no progress"), request("raise"), {"x": 1}):
            with open_connection(server) as connection:
                connection.recv(PATIENCE_S)
                ask(connection, sent)
        wait_for(lambda: metric(server, "pi05_progress_batch_size_count") == "3.0", what="the last batch to be counted")
        _, headers, text = get(server, "/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    for line in (
        'pi05_progress_requests_total{outcome="ok"} 2.0',
        'pi05_progress_requests_total{outcome="failed"} 1.0',
        'pi05_progress_requests_total{outcome="bad_request"} 1.0',
        "pi05_progress_replies_without_progress_total 1.0",
        "pi05_progress_request_seconds_count 2.0",
        "pi05_progress_connections 0.0",
        'pi05_progress_info{model_id="stub",robot="teleavatar",version=""} 1.0',
    ):
        assert line in text.splitlines(), text


@pytest.mark.parametrize(
    ("debug", "text", "reason"),
    [
        (False, "the policy failed: RuntimeError: the device is gone", "The request failed."),
        (True, 'Traceback (most recent call last):\n  File "', "Internal server error. Traceback included in previous"),
    ],
)
def test_an_error_is_a_text_frame_and_then_close_1011(debug, text, reason):
    with serving(stub(), debug=debug) as server:
        with open_connection(server) as connection:
            connection.recv(PATIENCE_S)
            answer = ask(connection, request("raise"))
            assert answer.startswith(text)
            assert "the device is gone" in answer
            assert debug == ("\n" in answer)
            with pytest.raises(websockets.ConnectionClosedError):
                connection.recv(PATIENCE_S)
            assert connection.close_code == 1011
            assert connection.close_reason.startswith(reason)
        assert works(server)


def test_a_policy_whose_error_no_future_takes_is_told_all_the_same():
    with serving(stub()) as server:
        with open_connection(server) as connection:
            connection.recv(PATIENCE_S)
            assert ask(connection, request("stop")) == "the policy failed: RuntimeError: StopIteration"
        assert works(server)


def test_more_requests_than_may_wait_are_refused_at_once_and_the_others_answered():
    gate, responder = gated()
    with serving(responder, max_waiting=2) as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(open_connection(server)) for _ in range(6)]
        for index, connection in enumerate(connections):
            connection.recv(PATIENCE_S)
            connection.send(pack(request()))
            if index == 0:
                wait_for(lambda: server._inference.busy_s > 0, what="the first to begin")
            elif index < 3:
                wait_for(lambda count=index: queue_length(server) == count, what="one more that waits")
        refused = [connection.recv(PATIENCE_S) for connection in connections[3:]]
        assert refused == ["the server is busy: 2 requests are waiting already; try again later"] * 3
        gate.set()
        assert [type(connection.recv(PATIENCE_S)) for connection in connections[:3]] == [bytes] * 3
        with pytest.raises(websockets.ConnectionClosed):
            connections[-1].recv(PATIENCE_S)
        assert connections[-1].close_code == 1013
        assert works(server)


def test_more_clients_than_may_connect_are_refused():
    with serving(stub(), max_connections=2) as server:
        with open_connection(server), open_connection(server), pytest.raises(websockets.InvalidStatus) as refusal:
            open_connection(server)
        assert refusal.value.response.status_code == 503
        assert refusal.value.response.body == b"2 clients are connected already; try again later.\n"

        def free():
            with contextlib.suppress(websockets.InvalidStatus):
                return works(server)

        wait_for(free, what="a free place")


def test_a_message_above_the_limit_ends_the_connection_with_1009():
    with serving(stub(), max_message_bytes=100_000) as server:
        with open_connection(server) as connection:
            connection.recv(PATIENCE_S)
            with pytest.raises(websockets.ConnectionClosed):
                ask(connection, b"\0" * 200_000)
            assert connection.close_code == 1009
        assert works(server)
        assert 'outcome="bad_request"} 1.0' in get(server, "/metrics")[2]


def headers(value):
    return {"additional_headers": {"Authorization": value}} if value else {}


@pytest.mark.parametrize("given", [None, "Api-Key wrong", f"Api-Key {KEY[:-1]}", f"Bearer {KEY}", KEY, "Api-Key "])
def test_a_wrong_or_missing_key_is_refused_before_a_connection_is_made(given):
    with serving(stub(), key=KEY) as server:
        with pytest.raises(websockets.InvalidStatus) as refusal:
            open_connection(server, **headers(given))
        assert refusal.value.response.status_code == 401
        assert refusal.value.response.headers["WWW-Authenticate"] == "Api-Key"
        assert b"Authorization: Api-Key KEY" in refusal.value.response.body
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(server, "/metrics")
        assert get(server, "/healthz")[0] == 200, "for load balancers, which have no key"
        with open_connection(server, **headers(f"Api-Key {KEY}")) as connection:
            connection.recv(PATIENCE_S)
            assert ask(connection, request())["progress"] == 0.25
        assert get(server, "/metrics", Authorization=f"Api-Key {KEY}")[0] == 200


def test_a_key_is_compared_whole():
    assert may_enter(f"Api-Key {KEY}", KEY)
    assert may_enter(None, None)
    assert not may_enter(f"Api-Key {KEY}é", KEY)
    assert not may_enter(None, KEY)


def test_web_pages_cannot_use_the_server_through_a_browser():
    with serving(stub()) as server, pytest.raises(websockets.InvalidStatus) as refusal:
        open_connection(server, origin="http://evil.example")
    assert refusal.value.response.status_code == 403


def test_keys_and_exposure_are_checked_before_anything_listens(tmp_path, monkeypatch):
    file = tmp_path / "key"
    monkeypatch.delenv("PI05_PROGRESS_API_KEY", raising=False)
    assert read_key(None) is None
    file.write_text("short\n")
    with pytest.raises(UserError, match="at least 16 printable ASCII characters"):
        read_key(file)
    file.write_text(KEY + "\n")
    assert read_key(file) == KEY
    monkeypatch.setenv("PI05_PROGRESS_API_KEY", KEY)
    assert read_key(None) == KEY
    for host in ("0.0.0.0", "::", "192.168.1.2", "robot"):
        with pytest.raises(UserError, match="other machines can reach it; give an API key"):
            check_exposure(host, None, True)
        check_exposure(host, KEY, True)
        check_exposure(host, None, False)
    for host in ("127.0.0.1", "::1", "localhost"):
        check_exposure(host, None, True)
    with pytest.raises(UserError, match="contradict"):
        check_exposure("127.0.0.1", KEY, False)


def test_tls_encrypts_web_sockets_and_http(tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    trusting = ssl.create_default_context(cafile=certificate)
    with serving(stub(), tls=server_tls(certificate, key)) as server:
        uri = server.uri.replace("ws:", "wss:")
        with connect(uri, ssl=trusting, compression=None) as connection:
            connection.recv(PATIENCE_S)
            assert ask(connection, request())["progress"] == 0.25
        assert get(server, "/healthz", "https", trusting)[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(uri)
        with pytest.raises((OSError, websockets.InvalidHandshake, EOFError)):
            connect(server.uri)
    with pytest.raises(UserError, match="needs both"):
        server_tls(certificate, None)
    with pytest.raises(UserError, match="not a certificate with its key"):
        server_tls(certificate, certificate)


def test_told_to_end_it_answers_what_is_being_computed_and_takes_nothing_more():
    gate, responder = gated()
    with serving(responder) as server, open_connection(server) as busy, open_connection(server) as idle:
        for connection in (busy, idle):
            connection.recv(PATIENCE_S)
        busy.send(pack(request()))
        wait_for(lambda: server._inference.busy_s > 0, what="the policy to begin")
        server.end()
        wait_for(lambda: not can_connect(server.port), what="a server that takes nobody in")
        gate.set()
        assert unpack(busy.recv(PATIENCE_S))["progress"] == 0.25
        for connection in (busy, idle):
            with pytest.raises(websockets.ConnectionClosedOK):
                connection.recv(PATIENCE_S)
            assert (connection.close_code, connection.close_reason) == (1001, "the server is shutting down")
        server.thread.join(PATIENCE_S)
        assert not server.thread.is_alive()
        with pytest.raises(ConnectionRefusedError):
            open_connection(server)


def test_a_server_whose_device_hangs_ends_all_the_same(monkeypatch):
    monkeypatch.setattr("pi05_progress.serving.server.GRACE_S", 0.3)
    policy = StubPolicy()
    policy.infer = lambda *_: threading.Event().wait()
    responder = stub()
    responder._policy = policy
    with serving(responder) as server, open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        connection.send(pack(request()))
        wait_for(lambda: server._inference.busy_s > 0, what="the policy to begin")
        server.end()
        server.thread.join(PATIENCE_S)
        assert not server.thread.is_alive()
