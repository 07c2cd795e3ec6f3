"""The server's program: what it refuses before it begins, how it ends, recording and replaying of the real model."""

import dataclasses
import errno
import json
import logging
import re
import signal
import socket
import threading

import numpy as np
import pytest
from conftest import PATIENCE_S, wait_for
from serving_helpers import CONFIG, PROFILE, ask, can_connect, checkpoint, frame, free_port, request
from websockets.sync.client import connect

from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.make_policy import make_policy
from pi05_progress.policy import PolicyOptions
from pi05_progress.serve_policy import main
from pi05_progress.serving.client import PolicyClient
from pi05_progress.serving.teleavatar import make_request

WRONG = {
    "open": (["--host", "0.0.0.0"], "error: --host 0.0.0.0: other machines can reach it; give an API key"),
    "no folder": (["--checkpoint", "/nowhere"], "error: /nowhere: no such folder; a checkpoint is a folder"),
    "robot": (["--robot", "nobody"], "error: unknown robot profile 'nobody'"),
    "model": (["--model", "huge"], "error: unknown model configuration 'huge'"),
    "policy": (["--policy", "nothing"], "error: policy 'nothing': expected pi05, websocket or module:function"),
    "chain": (["--policy", "websocket"], "error: --policy websocket: a server cannot ask another server"),
    "batch": (["--max-batch", "-1"], "error: --max-batch: expected at least 0"),
    "memory": (["--gpu-memory-gb", "-1"], "error: --gpu-memory-gb: expected at least 0, got -1"),
    "port": (["--port", "70000"], "error: --port: expected 0 to 65535, got 70000"),
    "message": (["--max-message-mb", "nan"], "error: --max-message-mb: expected at least 0.01, got nan"),
    "no message": (["--max-message-mb", "0"], "error: --max-message-mb: expected at least 0.01, got 0"),
    "limit": (["--record-limit-gb", "-1"], "error: --record-limit-gb: expected at least 0.001, got -1"),
    "endless": (["--record-limit-gb", "inf"], "error: --record-limit-gb: expected at least 0.001, got inf"),
    "tolerance": (["--replay", "a", "--tolerance", "-1"], "error: --tolerance: expected at least 0, got -1"),
    "replay": (["--replay", "/nowhere"], "error: /nowhere: no recording of one run"),
    "record": (["--port", "0", "--record", "/dev/null/a"], "error: --record: /dev/null/a cannot be written: Not a dir"),
    "host": (["--host", "192.0.2.1", "--no-auth"], "error: 192.0.2.1:8000: "),
    "tls": (["--tls-key", "key.pem"], "error: TLS needs both --tls-certificate and --tls-key"),
    "key": (["--api-key-file", "/nowhere"], "error: /nowhere: the API key cannot be read"),
    "both": (["--record", "a", "--replay", "b"], "error: --record and --replay: one of them, please"),
}


NOT_LOADED = (
    "memory", "port", "message", "no message", "limit", "endless", "tolerance", "replay", "record", "host", "both",
)  # fmt: skip


@pytest.fixture(autouse=True)
def logging_as_before():
    """The program's handler writes to what is stderr in one test; later tests must not log there."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_with_the_remedy(name, capsys, monkeypatch):
    arguments, message = WRONG[name]
    if name in NOT_LOADED:
        monkeypatch.setattr(f"{main.__module__}.make_policy", None)  # what is slow does not begin
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_port_that_is_taken_is_named_before_anything_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr(f"{main.__module__}.make_policy", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    assert re.search(rf"error: 127.0.0.1:{port}: .*address already in use", capsys.readouterr().err)


def test_a_file_that_cannot_be_read_is_named_not_the_address(capsys, monkeypatch):
    def unreadable(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "checkpoint.json")

    monkeypatch.setattr(f"{main.__module__}.make_policy", unreadable)
    assert main(["--port", "0"]) == 1
    assert capsys.readouterr().err == "error: checkpoint.json: Permission denied\n"


def test_a_process_whose_inference_thread_ends_tells_its_clients_and_ends_with_status_1(capsys):
    port, answers = free_port(), []

    def client():
        wait_for(lambda: can_connect(port), what="a server")
        with connect(f"ws://127.0.0.1:{port}", compression=None) as connection:
            connection.recv(PATIENCE_S)
            answers.append(ask(connection, request()))

    thread = threading.Thread(target=client)
    thread.start()
    assert main(["--policy", "serving_policies:leaving", "--port", str(port)]) == 1
    thread.join(PATIENCE_S)
    assert answers == ["the inference thread has ended: SystemExit: the driver gave up"]
    assert "error: the inference thread has ended: SystemExit: the driver gave up" in capsys.readouterr().err


def test_a_checkpoint_is_served_recorded_and_replayed_with_the_noise_of_a_local_policy(start, tmp_path, capsys):
    """The real thing as a process: it listens when it is warm, and SIGTERM ends it cleanly."""
    folder, port = tmp_path / "small", free_port()
    save_checkpoint(folder, dataclasses.replace(checkpoint(), info=CheckpointInfo(CONFIG)))  # no statistics: untrained
    model = ["--checkpoint", str(folder), "--max-batch", "1", "--num-steps", "2"]
    server = start("pi05_progress.serving", "--port", str(port), *model, "--record", str(tmp_path / "recordings"))
    local = make_policy(PROFILE, PolicyOptions(checkpoint=str(folder), num_steps=2))
    frames = [frame(seed) for seed in range(3)]
    expected = [local.infer(given, "stack") for given in frames]
    wait_for(lambda: "listening on ws://127.0.0.1:" in server.log(), what="a server")
    assert server.log().index("compiled and warmed up") < server.log().index("listening")
    with PolicyClient(f"ws://127.0.0.1:{port}") as client:
        assert client.connect()["model_id"] == "untrained"
        for given, output in zip(frames, expected, strict=True):
            reply = client.infer(make_request(given, "stack", None))
            np.testing.assert_allclose(reply["actions"], output.actions, atol=1e-4)
            assert reply["progress"] == pytest.approx(output.progress, abs=1e-5)
        assert client.estimate.progress is None, "untrained"
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE_S) == 0
    assert len(re.findall(r"INFO Task progress: \d+\.\d%", server.log())) == 3
    assert "recorded to" in server.log()
    assert "Traceback" not in server.log()
    assert main([*model, "--replay", str(tmp_path / "recordings")]) == 0
    assert "3 exchanges, recorded with untrained" in capsys.readouterr().out
    assert main([*model, "--seed", "1", "--replay", str(tmp_path / "recordings")]) == 1
    printed = capsys.readouterr().out
    assert "DIFFERENT" in printed
    assert "seed was 0 and is 1 (served otherwise than recorded)" in printed
    [session] = (tmp_path / "recordings").glob("*/session.json")
    settings = {"backend", "checkpoint", "default_prompt", "dtype", "num_steps", "robot_file", "seed", "version"}
    assert settings <= set(json.loads(session.read_text()))
