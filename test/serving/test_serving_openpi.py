"""openpi's own client, from PyPI, in an environment of its own (it needs NumPy 1), against our server."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_S
from places import SUPPORT
from serving_helpers import serving, stub, works

PACKAGES = ["openpi-client==0.1.2", "typing-extensions"]  # which it imports and does not ask for
SESSION = SUPPORT / "openpi_client_session.py"
KEY = "0123456789abcdef0123"
NO_NETWORK = ("dns error", "name resolution", "error sending request", "network is unreachable", "connection refused")


@pytest.fixture(scope="module")
def openpi_python():
    """The environment's interpreter; made once and kept in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "pi05_progress/openpi_client_0.1.2"
    python = folder / "bin/python"
    if (folder / "complete").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = [sys.executable, "-m", "uv"]
    for command in (["venv", "--python", sys.executable, folder], ["pip", "install", "--python", python, *PACKAGES]):
        result = subprocess.run([*uv, *map(str, command)], capture_output=True, text=True, timeout=2 * PATIENCE_S)
        if result.returncode:
            if any(text in result.stderr.lower() for text in NO_NETWORK):
                pytest.skip("no network, from which openpi-client is installed")
            pytest.fail(result.stderr)
    (folder / "complete").touch()
    return python


def session(python, *arguments):
    command = [str(python), str(SESSION), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env={"PATH": os.environ["PATH"]})


def test_openpis_client_with_its_chunk_broker_runs_200_steps_and_finds_progress(openpi_python):
    with serving(stub()) as server:
        result = session(openpi_python, server.port, 200, 5)
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        assert works(server)
    assert found["numpy"].startswith("1."), "its environment, not ours"
    assert found["metadata"]["model_id"] == "stub"
    assert found["rows"] == [float(step % 5) for step in range(200)], "one row of the chunk per step"
    chunks = np.repeat(np.arange(0, 200, 5), 5) / 200
    np.testing.assert_allclose(found["progress"], chunks, atol=1e-6)
    assert found["error"].startswith("Error in inference server:\nobservation/state is float64[3]; expected 48 or 62")


def test_openpis_client_shows_its_key_and_is_refused_without(openpi_python):
    with serving(stub(), key=KEY) as server:
        assert session(openpi_python, server.port, 2, 5, KEY).returncode == 0
        refused = session(openpi_python, server.port, 2, 5)
        assert refused.returncode == 1
        assert "401" in refused.stderr
