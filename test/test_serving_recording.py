"""Exchanges recorded by a server and asked again: in the order of the noise, compared number by number."""

import json
import threading
import time

import numpy as np
import pytest
from serving_helpers import PROFILE, StubPolicy, ask, open_connection, request, serving, stub

from pi05_progress.observation import PolicyOutput
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.recording import Recorder, RecordingError, find_session, read_exchanges
from pi05_progress.serving.replay import replay
from pi05_progress.serving.wire import unpack


class NoisyPolicy(StubPolicy):
    """Actions are noise, as a model's are: the same seed and order give the same."""

    def __init__(self, seed=0, bias=0.0):
        super().__init__()
        self._rng, self._bias = np.random.default_rng(seed), bias

    def infer(self, frame, prompt):
        noise = self._rng.standard_normal((5, 16)).astype(np.float32)
        if prompt == "nan actions":
            noise = noise * np.nan
        return PolicyOutput(noise + self._bias, float(frame.state[0]))


def noisy(*arguments):
    return PolicyResponder(NoisyPolicy(*arguments), PROFILE)


def recorded(folder, prompts=("a", "b", "c"), clients=1, limit=10**9):
    recorder = Recorder(folder, {"model_id": "stub"}, limit)

    def client():
        with open_connection(server) as connection:
            connection.recv(20)
            for seed, prompt in enumerate(prompts):
                if isinstance(ask(connection, request(prompt, seed)), str):
                    return

    with serving(noisy(), recorder) as server:
        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    recorder.close()
    return recorder


def test_exchanges_are_recorded_as_they_were_on_the_wire_in_the_order_of_the_noise(tmp_path):
    recorder = recorded(tmp_path, clients=8)
    exchanges = list(read_exchanges(recorder.folder))
    assert [e.index for e in exchanges] == list(range(24))
    rng = np.random.default_rng(0)
    for exchange in exchanges:
        expected = rng.standard_normal((5, 16)).astype(np.float32)
        np.testing.assert_array_equal(unpack(exchange.reply)["actions"], expected)
        assert unpack(exchange.request)["observation/state"].shape == (48,)
        assert abs(exchange.time_s - time.time()) < 100
    assert json.loads((recorder.folder / "session.json").read_text()) == {"model_id": "stub"}
    assert list(recorder.folder.glob("*.partial")) == []


def test_a_replay_gives_the_same_numbers_and_says_so(tmp_path):
    recorded(tmp_path, clients=3)
    found = replay(tmp_path, noisy())
    assert (found.exchanges, found.missing, found.problems) == (9, [], [])
    assert found.same(0.0)
    assert "actions          largest difference 0, in exchange" in found.table(1e-3)


def test_a_replay_tells_what_differs_and_where(tmp_path):
    recorded(tmp_path)
    found = replay(tmp_path, noisy(0, 0.01))
    assert not found.same(1e-3)
    assert found.largest["actions"] == pytest.approx(0.01, rel=1e-3)
    assert "DIFFERENT (tolerance 0.001)" in found.table(1e-3)
    assert found.same(0.02)
    assert replay(tmp_path, noisy(1)).largest["actions"] > 0.5, "other noise is seen"


def test_another_form_of_the_reply_is_a_difference(tmp_path):
    recorded(tmp_path)
    responder = noisy()
    answer = responder.answer
    responder.answer = lambda prepared: [reply | {"progress": None} for reply in answer(prepared)]
    found = replay(tmp_path, responder)
    assert found.problems[0].startswith("exchange 0: progress was 0.25 and is None")
    assert not found.same(1e9)


def test_requests_that_were_not_recorded_use_up_their_noise_all_the_same(tmp_path):
    recorder = recorded(tmp_path, prompts=("a", "b", "c", "d"))
    (recorder.folder / "00000001.exchange").unlink()
    found = replay(recorder.folder, noisy())
    assert (found.exchanges, found.missing) == (3, [1])
    assert found.same(0.0)


def test_failed_requests_are_counted_but_not_recorded(tmp_path):
    recorder = Recorder(tmp_path, {}, 10**9)
    with serving(noisy(), recorder) as server:
        for prompt in ("a", "nan actions", "b"):
            with open_connection(server) as connection:
                connection.recv(20)
                ask(connection, request(prompt))
    recorder.close()
    assert [e.index for e in read_exchanges(recorder.folder)] == [0, 2]
    assert replay(tmp_path, noisy()).same(0.0)


def test_recording_ends_at_its_limit_and_the_server_goes_on(tmp_path, caplog):
    recorder = recorded(tmp_path, prompts=("a",) * 12, limit=20_000)
    assert 2 <= len(list(read_exchanges(recorder.folder))) < 12
    assert recorder.lost > 0
    assert "recording has ended: the limit of 2e-05 GB is reached; the server goes on" in caplog.text


def test_a_disk_that_cannot_be_written_ends_the_recording_not_the_server(tmp_path, caplog):
    recorder = Recorder(tmp_path, {}, 10**9)
    for path in recorder.folder.iterdir():
        path.unlink()
    recorder.folder.rmdir()
    with serving(stub(), recorder) as server, open_connection(server) as connection:
        connection.recv(20)
        assert all(isinstance(ask(connection, request()), dict) for _ in range(3))
    recorder.close()
    assert "recording has ended: cannot write to" in caplog.text


def test_folders_without_one_recording_are_refused(tmp_path):
    with pytest.raises(RecordingError, match="recordings in it: none"):
        find_session(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "session.json").write_text("{}")
    with pytest.raises(RecordingError, match="recordings in it: a, b; give the folder of one"):
        find_session(tmp_path)
    with pytest.raises(RecordingError, match="no exchanges were recorded"):
        replay(tmp_path / "a", noisy())
    (tmp_path / "a/00000000.exchange").write_bytes(b"\x81")
    with pytest.raises(RecordingError, match=r"00000000.exchange: not a recorded exchange"):
        replay(tmp_path / "a", noisy())
    with pytest.raises(RecordingError, match=r"--record: .* cannot be made"):
        Recorder(tmp_path / "a/session.json", {}, 1)
