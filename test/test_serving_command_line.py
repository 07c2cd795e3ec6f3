"""The server's program: what it refuses before it begins, how it ends, recording and replaying of the real model."""

import dataclasses
import re
import signal
import socket

import numpy as np
import pytest
from conftest import wait_for
from serving_helpers import CONFIG, PROFILE, checkpoint, frame
from test_serving_client import free_port

from pi05_progress.checkpoint import CheckpointInfo, save_checkpoint
from pi05_progress.policy import make_policy
from pi05_progress.serving.client import PolicyClient
from pi05_progress.serving.command_line import main
from pi05_progress.serving.teleavatar import make_request

WRONG = {
    "open": (["--host", "0.0.0.0"], "error: --host 0.0.0.0: other machines can reach it; give an API key"),
    "no folder": (["--checkpoint", "/nowhere"], "error: /nowhere: no such folder; a checkpoint is a folder"),
    "robot": (["--robot", "nobody"], "error: unknown robot profile 'nobody'"),
    "model": (["--model", "huge"], "error: unknown model configuration 'huge'"),
    "policy": (["--policy", "nothing"], "error: policy 'nothing': expected pi05, websocket or module:function"),
    "chain": (["--policy", "websocket"], "error: --policy websocket: a server cannot ask another server"),
    "batch": (["--max-batch", "-1"], "error: --max-batch: expected at least 0"),
    "tls": (["--tls-key", "key.pem"], "error: TLS needs both --tls-certificate and --tls-key"),
    "key": (["--api-key-file", "/nowhere"], "error: /nowhere: the API key cannot be read"),
    "both": (["--record", "a", "--replay", "b"], "error: --record and --replay: one of them, please"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_with_the_remedy(name, capsys):
    arguments, message = WRONG[name]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_port_that_is_taken_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--policy", "serving_policies:swing", "--port", str(port)]) == 1
    assert re.search(rf"error: 127.0.0.1:{port}: .*address already in use", capsys.readouterr().err)


def test_a_checkpoint_is_served_recorded_and_replayed_with_the_noise_of_a_local_policy(start, tmp_path, capsys):
    """The real thing as a process: it listens when it is warm, and SIGTERM ends it cleanly."""
    folder, port = tmp_path / "small", free_port()
    save_checkpoint(folder, dataclasses.replace(checkpoint(), info=CheckpointInfo(CONFIG)))  # no statistics: untrained
    model = ["--checkpoint", str(folder), "--max-batch", "1", "--num-steps", "2"]
    server = start("pi05_progress.serving", "--port", str(port), *model, "--record", str(tmp_path / "recordings"))
    local = make_policy(PROFILE, checkpoint=str(folder), num_steps=2)
    frames = [frame(seed) for seed in range(3)]
    expected = [local.infer(given, "stack") for given in frames]
    wait_for(lambda: "listening on ws://127.0.0.1:" in server.log(), 120, what="a server")
    assert server.log().index("compiled and warmed up") < server.log().index("listening")
    with PolicyClient(f"ws://127.0.0.1:{port}") as client:
        assert client.connect()["model_id"] == "untrained"
        for given, output in zip(frames, expected, strict=True):
            reply = client.infer(make_request(given, "stack", None))
            np.testing.assert_allclose(reply["actions"], output.actions, atol=1e-4)
            assert reply["progress"] == pytest.approx(output.progress, abs=1e-5)
        assert client.estimate.progress is None, "untrained"
    assert len(re.findall(r"INFO Task progress: \d+\.\d%", server.log())) == 3
    server.send_signal(signal.SIGTERM)
    assert server.wait(15) == 0
    assert "recorded to" in server.log()
    assert "Traceback" not in server.log()
    assert main([*model, "--replay", str(tmp_path / "recordings")]) == 0
    assert "3 exchanges, recorded with untrained" in capsys.readouterr().out
    assert main([*model, "--seed", "1", "--replay", str(tmp_path / "recordings")]) == 1
    assert "DIFFERENT" in capsys.readouterr().out
