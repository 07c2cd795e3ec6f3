"""Our client against real servers: time-outs, connecting again, progress on its side, and the policy of the node."""

import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import PATIENCE_S
from serving_helpers import (
    PROFILE,
    FunctionResponder,
    StubPolicy,
    frame,
    free_port,
    function,
    gated,
    request,
    serving,
    stub,
)
from websockets.server import ServerProtocol
from websockets.sync.server import serve

from pi05_progress.estimate.status import Status
from pi05_progress.make_policy import make_policy
from pi05_progress.policy import Policy, PolicyOptions, PolicyUnavailableError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.serving.client import PolicyClient, ServerRefusedError, WebsocketPolicy
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.security import read_key, server_tls
from pi05_progress.serving.wire import WireError, pack, unpack

KEY = "0123456789abcdef0123"
FACTS = {"model_id": "m", "robot": "teleavatar", "action_horizon": 5, "action_dt_s": 0.1}


def remote(server, **options):
    return WebsocketPolicy(server.uri, PROFILE, **options)


def test_the_client_keeps_the_estimate_on_its_side():
    with serving(stub()) as server, PolicyClient(server.uri) as client:
        assert client.estimate.progress is None
        for step in range(60):
            reply = client.infer(request(state=np.full(48, step / 100)), stamp_s=step / 10)
        assert reply["progress"] == pytest.approx(0.59)
        assert client.estimate.status == Status.ADVANCING
        assert client.estimate.progress == pytest.approx(0.59, abs=0.05)
        assert client.estimate.rate == pytest.approx(0.1, rel=0.2)
        assert client.estimate.remaining_s[0] == pytest.approx(4.1, rel=0.25)
        client.infer(request("another task", state=np.full(48, 0.2)), stamp_s=6.0)
        assert client.estimate.progress == pytest.approx(0.2), "it begins anew with another task"
        client.reset()
        assert client.estimate.status == Status.UNKNOWN


def test_time_remaining_starts_from_what_the_server_says_that_the_task_usually_takes():
    policy = StubPolicy()
    policy.durations_s = {"stack the cubes": 30.0}
    with serving(PolicyResponder(policy, PROFILE)) as server, PolicyClient(server.uri) as client:
        client.infer(request("stack the cubes", state=np.full(48, 0.2)), stamp_s=0.0)
        assert client.estimate.remaining_s[0] == pytest.approx(0.8 * 30)
        client.infer(request("another task", state=np.full(48, 0.2)), stamp_s=0.1)
        assert client.estimate.remaining_s is None
        assert remote(server).durations_s == policy.durations_s
    with serving(FunctionResponder(dict, FACTS)) as server:
        assert remote(server).durations_s == {}, "older servers do not tell it"


def test_the_noise_of_an_episode_comes_with_every_request_and_fresh_noise_with_none():
    asked = []

    def answer(request):
        asked.append(request.get("noise_seed"))
        return {"actions": np.zeros((5, 16), np.float32)}

    with serving(FunctionResponder(answer, FACTS)) as server:
        for noise in ("fresh", "zero", "episode"):
            policy = remote(server, noise=noise, seed=3)
            policy.infer(frame(), "stack")
            policy.restart(8)
            policy.infer(frame(), "stack")
            policy.close()
    assert asked == [None, None, -1, -1, 3, 8]


def test_it_speaks_to_servers_of_openpi_which_know_no_progress():
    responder = FunctionResponder(lambda obs: {"actions": np.zeros((4, 2), np.float32)}, {})
    with serving(responder) as server, PolicyClient(server.uri) as client:
        assert client.infer({"x": 1})["actions"].shape == (4, 2)
        assert client.estimate.progress is None


def test_a_server_that_does_not_answer_in_time_is_left_and_asked_anew():
    gate, responder = gated()
    with serving(responder) as server, PolicyClient(server.uri, timeout_s=2.0) as client:
        with pytest.raises(PolicyUnavailableError, match=r"ws://.* did not answer within 2 s"):
            client.infer(request(state=np.full(48, 0.9)))
        gate.set()
        assert client.infer(request(state=np.full(48, 0.1)))["progress"] == pytest.approx(0.1), "not the late answer"


def test_a_server_that_went_away_and_came_back_is_found_again():
    port = free_port()
    with serving(stub(), port=port) as server:
        client = PolicyClient(server.uri)
        client.infer(request())
    with pytest.raises(PolicyUnavailableError, match=r"connection to ws://127.0.0.1:\d+ is lost"):
        client.infer(request())
    with pytest.raises(PolicyUnavailableError, match=r"no policy server at ws://.*refused.*; is it running"):
        client.infer(request())
    with serving(stub(), port=port):
        assert client.infer(request())["progress"] == 0.25
        client.close()


def test_errors_of_the_server_come_with_its_words_and_the_next_request_works():
    with serving(stub()) as server, PolicyClient(server.uri) as client:
        with pytest.raises(ServerRefusedError, match=r"ws://.*: observation/state is float64\[3\]; expected 48"):
            client.infer(request(state=np.zeros(3)))
        with pytest.raises(WireError, match=r"\['prompt'\] cannot be sent"):
            client.infer(request() | {"prompt": {1, 2}})
        assert client.infer(request())["progress"] == 0.25


def test_a_key_is_taken_from_the_environment_and_a_wrong_one_is_told(monkeypatch):
    with serving(stub(), key=KEY) as server:
        monkeypatch.setenv("PI05_PROGRESS_API_KEY", KEY)
        with PolicyClient(server.uri) as client:
            assert client.infer(request())["progress"] == 0.25
        with pytest.raises(PolicyUnavailableError, match="refused the connection: 401 This server needs an API key"):
            PolicyClient(server.uri, api_key=KEY[::-1]).connect()


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_the_end_of_a_keys_line_is_no_part_of_it(monkeypatch, end):
    monkeypatch.setenv("PI05_PROGRESS_API_KEY", KEY + end)
    assert read_key(None) == KEY
    with serving(stub(), key=KEY) as server:
        for given in (None, KEY + end):
            with PolicyClient(server.uri, api_key=given) as client:
                assert client.infer(request())["progress"] == 0.25


@pytest.mark.parametrize("key", [f"{KEY}\r\nX-Evil: 1", f"{KEY}\x1b[31m", f"schlüssel{KEY}", "0123456789abcde", " "])
def test_a_key_that_cannot_be_one_is_refused_and_never_printed(monkeypatch, key):
    monkeypatch.setenv("PI05_PROGRESS_API_KEY", key)
    for given, name in ((None, "PI05_PROGRESS_API_KEY"), (key, "api_key")):
        with pytest.raises(ValueError, match=f"{name}: an API key needs at least 16 printable ASCII") as error:
            PolicyClient("ws://127.0.0.1:1", api_key=given)
        assert "0123456789" not in str(error.value)


@pytest.mark.parametrize("uri", ["localhost:8000", "http://localhost:8000", "", "ws://", "ws://host:port"])
def test_addresses_that_are_none_are_refused(uri):
    with pytest.raises(ValueError, match=r"server address|server_uri is empty"):
        WebsocketPolicy(uri, PROFILE)


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


def test_progress_of_a_whole_number_is_a_number():
    replies = iter([0, 1])
    responder = FunctionResponder(lambda _: {"actions": np.zeros((5, 16), np.float32), "progress": next(replies)}, {})
    with serving(responder) as server, PolicyClient(server.uri) as client:
        assert [client.infer(request("a"))["progress"], client.estimate.raw] == [0, 0.0]
        assert [client.infer(request("b"))["progress"], client.estimate.raw] == [1, 1.0]


def test_the_remote_policy_is_the_local_one():
    local: Policy = StubPolicy()
    with serving(PolicyResponder(StubPolicy(), PROFILE)) as server:
        policy = make_policy(PROFILE, PolicyOptions(policy="websocket", server_uri=server.uri))
        policy.warm_up()
        ours, theirs = policy.infer(frame(), "stack"), local.infer(frame(), "stack")
        np.testing.assert_array_equal(ours.actions, theirs.actions)
        assert (ours.progress, ours.progress_interval, ours.timing) == (
            theirs.progress, theirs.progress_interval, dict(theirs.timing),
        )  # fmt: skip
        assert (policy.model_id, policy.horizon, policy.action_dt_s) == ("stub", 5, 1 / 30)
        policy.close()


def test_pictures_are_sent_in_the_models_size():
    seen = {}

    def answer(obs):
        seen.update(obs)
        return {"actions": np.zeros((5, 16), np.float32), "progress": 0.5}

    facts = {"model_id": "x", "robot": "teleavatar", "action_horizon": 5, "action_dt_s": 0.1, "image_size": [28, 28]}
    with serving(FunctionResponder(answer, facts)) as server:
        policy = remote(server)
        assert policy.infer(frame(size=(48, 64)), "stack").progress == 0.5
        policy.close()
    assert {key: value.shape for key, value in seen.items() if "images" in key} == {
        f"observation/images/{key}": (28, 28, 3) for key in PROFILE.cameras
    }


def test_servers_that_cannot_be_used_are_refused_when_it_begins():
    with serving(stub()) as server, pytest.raises(ValueError, match="serves robot teleavatar, the profile is teleav"):
        WebsocketPolicy(server.uri, RobotProfile.load("teleavatar_v1"))
    with serving(function()(lambda obs: obs)) as server, pytest.raises(ValueError, match="tells no model_id, no rob"):
        remote(server)
    with pytest.raises(PolicyUnavailableError, match="no policy server at"):
        WebsocketPolicy(f"ws://127.0.0.1:{free_port()}", PROFILE)
    with pytest.raises(ValueError, match=r"server_uri is 'ws://x', but the policy is 'pi05'"):
        make_policy(PROFILE, PolicyOptions(server_uri="ws://x"))
    with pytest.raises(ValueError, match=r"checkpoint is 'here', but policy websocket has that of its server"):
        make_policy(PROFILE, PolicyOptions(policy="websocket", server_uri="ws://x", checkpoint="here"))


def test_another_model_after_a_loss_is_not_taken_for_the_first():
    port = free_port()
    with serving(stub(), port=port) as server:
        policy = remote(server)
        policy.infer(frame(), "stack")
    other = StubPolicy()
    other.model_id = "other"
    with serving(PolicyResponder(other, PROFILE), port=port):
        with pytest.raises(PolicyUnavailableError, match="lost"):
            policy.infer(frame(), "stack")
        with pytest.raises(PolicyUnavailableError, match="now serves model_id 'other' instead of 'stub': start anew"):
            policy.infer(frame(), "stack")
    with serving(stub(), port=port):
        assert policy.infer(frame(), "stack").progress == 0.25, "the first one is back"
        policy.close()


def test_the_clients_program_says_so_where_the_training_tree_is_not(tmp_path):
    hide = "import sys; sys.modules['training'] = None; from pi05_progress.serving.client import main; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", hide], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    remedy = "error: it reads data sets, for which training is missing: run it in the root of a checkout"
    assert result.stderr.strip() == remedy
