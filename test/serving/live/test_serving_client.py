"""Our client against real servers: time-outs, connecting again, progress on its side, and the policy of the node."""

import subprocess
import sys

import numpy as np
import pytest
from serving_helpers import (
    FACTS,
    PROFILE,
    FunctionResponder,
    StubPolicy,
    frame,
    free_port,
    function,
    gated,
    remote,
    request,
    serving,
    stub,
)

from pi05_progress.estimate.status import Status
from pi05_progress.make_policy import make_policy
from pi05_progress.policy import Policy, PolicyOptions, PolicyUnavailableError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.serving import client as client_module
from pi05_progress.serving.client import PolicyClient, ServerRefusedError, WebsocketPolicy
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.security import read_key
from pi05_progress.serving.teleavatar import AboutProgress, ServerFacts
from pi05_progress.serving.wire import WireError

KEY = "0123456789abcdef0123"


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


def test_what_a_server_tells_of_itself_is_read_once_per_connection(monkeypatch):
    read, kinds = client_module.read, []
    monkeypatch.setattr(client_module, "read", lambda kind, *rest: kinds.append(kind) or read(kind, *rest))
    with serving(stub()) as server, PolicyClient(server.uri) as client:
        policy = remote(server)
        for _ in range(3):
            client.infer(request())
            policy.infer(frame(), "stack")
        assert kinds == [ServerFacts, AboutProgress]
        client.close()
        client.infer(request())
        assert kinds[2:] == [AboutProgress]
        policy.close()
        policy.infer(frame(), "stack")
        assert kinds[3:] == [ServerFacts]
        policy.close()


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
