"""Exchanges recorded by a server and asked again: in the order of the noise, compared number by number."""

import errno
import json
import logging
import os
import stat
import threading
import time

import numpy as np
import pytest
from conftest import PATIENCE_S, wait_for
from serving_helpers import PROFILE, StubPolicy, ask, metric, open_connection, request, serving, stub

from pi05_progress.errors import UserError
from pi05_progress.files.output_file import write_file
from pi05_progress.observation import PolicyOutput
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.recording import Exchange, Recorder, find_session, read_exchanges, replay
from pi05_progress.serving.wire import pack, unpack


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
            connection.recv(PATIENCE_S)
            for seed, prompt in enumerate(prompts):
                if isinstance(ask(connection, request(prompt, seed)), str):
                    return

    with serving(noisy(), recorder) as server:
        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
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
                connection.recv(PATIENCE_S)
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
        connection.recv(PATIENCE_S)
        assert all(isinstance(ask(connection, request()), dict) for _ in range(3))
    recorder.close()
    assert "recording has ended: cannot write to" in caplog.text


def test_folders_without_one_recording_are_refused(tmp_path):
    with pytest.raises(UserError, match="recordings in it: none"):
        find_session(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "session.json").write_text("{}")
    with pytest.raises(UserError, match="recordings in it: a, b; give the folder of one"):
        find_session(tmp_path)
    with pytest.raises(UserError, match="no exchanges were recorded"):
        replay(tmp_path / "a", noisy())
    (tmp_path / "a/00000000.exchange").write_bytes(b"\x81")
    with pytest.raises(UserError, match=r"00000000.exchange: not a recorded exchange"):
        replay(tmp_path / "a", noisy())
    with pytest.raises(UserError, match=r"--record: .* cannot be made"):
        Recorder(tmp_path / "a/session.json", {}, 1)


def exchange(index, size=1000):
    return Exchange(index, 0.0, b"q" * size, b"a" * size)


def hanging(folder, **options):
    """A recorder whose disk does not take the first exchange until the pipe is read."""
    recorder = Recorder(folder, {}, 10**9, **options)
    pipe = recorder.folder / "00000000.exchange.partial"
    os.mkfifo(pipe)
    return recorder, pipe


def test_only_their_owner_can_read_recordings(tmp_path):
    recorder = recorded(tmp_path / "new")
    assert stat.S_IMODE(recorder.folder.stat().st_mode) == 0o700
    files = list(recorder.folder.iterdir())
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_what_waits_for_the_disk_is_limited_in_bytes_and_a_slow_disk_is_told_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    recorder, pipe = hanging(tmp_path, waiting_bytes=10_000)
    for index in range(20):
        recorder.add(exchange(index))
    assert recorder.lost == 15
    recorder.add(exchange(20, 10**6))
    assert [m for m in caplog.messages if "not recorded" in m] == [
        "exchange 5 and further ones are not recorded: the disk is too slow"
    ]
    pipe.read_bytes()
    wait_for(lambda: "recording goes on; 16 exchanges are lost so far" in caplog.messages, what="the disk to recover")
    recorder.add(exchange(21))
    recorder.close()
    assert len(list(recorder.folder.glob("*.exchange"))) == 6
    assert f"recorded to {recorder.folder}, without 16 exchanges" in caplog.messages


def test_too_many_open_files_for_a_moment_cost_one_exchange_and_metrics_count_it(tmp_path, monkeypatch, caplog):
    def write(path, *arguments, **options):
        if path.name == "00000001.exchange":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        write_file(path, *arguments, **options)

    monkeypatch.setattr("pi05_progress.serving.recording.write_file", write)
    recorder = Recorder(tmp_path, {}, 10**9)
    with serving(noisy(), recorder) as server, open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        for _ in range(4):
            ask(connection, request())
        wait_for(lambda: metric(server, "pi05_progress_unrecorded_exchanges_total") == "1.0", what="the count")
    recorder.close()
    assert [e.index for e in read_exchanges(recorder.folder)] == [0, 2, 3]
    assert "exchange 1 is not recorded: Too many open files" in caplog.messages
    assert "recording goes on; 1 exchanges are lost so far" in caplog.messages
    assert recorder.lost == 1


def test_every_exchange_that_is_not_written_is_counted_whenever_that_is_known(tmp_path, monkeypatch):
    """The one that recording ends with, those that waited for the disk then, and those that come later."""
    gate, counted = threading.Event(), []

    def write(path, *arguments, **options):
        assert gate.wait(PATIENCE_S)
        if path.name == "00000001.exchange":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_file(path, *arguments, **options)

    recorder = Recorder(tmp_path, {}, 10**9)
    monkeypatch.setattr("pi05_progress.serving.recording.write_file", write)
    recorder.on_lost = counted.append
    for index in range(5):
        recorder.add(exchange(index))
    gate.set()
    wait_for(lambda: sum(counted) == 4, what="those that waited")
    recorder.add(exchange(5))
    recorder.close()
    assert (sum(counted), recorder.lost) == (5, 5)
    assert [e.index for e in read_exchanges(recorder.folder)] == [0]


def test_a_disk_that_hangs_does_not_keep_the_server_from_ending(tmp_path, caplog):
    recorder, pipe = hanging(tmp_path)
    recorder.add(exchange(0))
    recorder.close(timeout_s=0.1)
    assert "the disk has not taken everything within 0.1 s, the rest is lost" in caplog.text
    assert recorder.lost == 1
    pipe.read_bytes()  # for the thread to end


def test_a_replay_tells_what_is_served_otherwise_than_when_it_was_recorded(tmp_path):
    recorder = Recorder(tmp_path, {"model_id": "stub", "seed": 0, "cameras": ["a"], "dtype": "float32"}, 10**9)
    recorder.add(Exchange(0, 0.0, pack(request("a")), pack({})))
    recorder.close()
    found = replay(tmp_path, noisy(), {"model_id": "stub", "seed": 1, "cameras": ("a",), "dtype": "bfloat16", "new": 1})
    assert found.settings == ["seed was 0 and is 1", "dtype was 'float32' and is 'bfloat16'"]
    assert "dtype was 'float32' and is 'bfloat16' (served otherwise than recorded)" in found.table(1e-3)
    assert replay(tmp_path, noisy()).settings == []


HOSTILE = {
    "session.json": {
        "list": (b"[]", "expected what was served as keys and values"),
        "nested": (b"[" * 100_000, "cannot be read"),
        "latin-1": (b'{"model_id": "\xe9"}', "cannot be read"),
    },
    "00000000.exchange": {
        "list": (pack([1]), "not a recorded exchange"),
        "index of text": (pack({"index": "x", "time_s": 0.0, "request": b"", "reply": b""}), "not a recorded exchange"),
        "another index": (pack({"index": 7, "time_s": 0.0, "request": b"", "reply": b""}), "it says that it is 7"),
        "request of text": (pack({"index": 0, "time_s": 0.0, "request": "x", "reply": b""}), "as on the wire"),
        "request of a list": (pack(Exchange(0, 0.0, pack([1]), pack({}))._asdict()), "dictionaries with texts"),
        "reply of a number": (pack(Exchange(0, 0.0, pack(request()), pack(1))._asdict()), "dictionaries with texts"),
        "cut reply": (pack(Exchange(0, 0.0, pack(request()), b"\x81")._asdict()), "not one complete message"),
        "keys of bytes": (pack(Exchange(0, 0.0, pack(request()), pack({b"a\n": 1}))._asdict()), "texts as keys"),
    },
    "99999999999.exchange": {
        "huge index": (
            pack(Exchange(99999999999, 0.0, pack(request()), pack({}))._asdict()), "more than can be passed over",
        ),
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in HOSTILE.items() for case in cases])
def test_a_recording_that_makes_no_sense_is_one_line_that_names_the_file(tmp_path, name, case):
    (tmp_path / "session.json").write_text("{}")
    data, text = HOSTILE[name][case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=text) as error:
        replay(tmp_path, noisy())
    assert str(error.value).isprintable()


@pytest.mark.parametrize("value", [[np.zeros(2), 1], [[1], [1, 2]], np.array(["x"]), {"a": np.zeros(3)}, "x\n", b"x"])
def test_replies_of_any_form_are_compared(tmp_path, value):
    recorder = Recorder(tmp_path, {"model_id": "a\nb\x1b[31m", "seed\n": 1}, 10**9)
    recorder.add(Exchange(0, 0.0, pack(request()), pack({"progress": value, "actions": value, "x\n": value})))
    recorder.close()
    found = replay(tmp_path, noisy(), {"seed\n": 2})
    assert len(found.problems) == 3
    assert all(line.isprintable() for line in found.table(0.0).splitlines())


def test_a_recorded_request_that_is_refused_now_is_named(tmp_path):
    recorder = Recorder(tmp_path, {}, 10**9)
    recorder.add(Exchange(7, 0.0, pack({"x": 1}), pack({})))
    recorder.close()
    with pytest.raises(UserError, match=r"exchange 7 is refused: observation/state, .*: missing"):
        replay(tmp_path, noisy())
