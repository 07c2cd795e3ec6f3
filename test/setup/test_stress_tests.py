"""The stress rounds: what passes and fails is added up from call to call, in a file outside the checkout."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE_S, wait_for
from places import ROOT

TESTS = """
import pathlib
import pytest

@pytest.mark.live
def test_good(): pass

@pytest.mark.live
def test_that_fails_at_first():
    again = pathlib.Path(__file__).with_name("again")
    assert again.exists() or again.touch()

@pytest.mark.live
def test_skipped(): pytest.skip("no reason")

def test_not_live(): assert False

@pytest.mark.long
@pytest.mark.live
def test_long(): assert False
"""


INI = "[pytest]\nmarkers =\n    live\n    long\n"
SLOW_TO_END = """
import pathlib
import time
import pytest

@pytest.mark.live
def test_it():
    here = pathlib.Path(__file__).parent
    try:
        (here / "began").touch()
        time.sleep(600)
    finally:
        time.sleep(1)  # as tests end the processes that they started
        (here / "ended").touch()
"""


def command(folder):
    env = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    words = [sys.executable, "scripts/stress_tests.py", "--rounds", "1", "-c", folder / "pytest.ini", folder]
    return {"args": words, "cwd": ROOT, "env": env, "text": True}


def stress(folder):
    return subprocess.run(**command(folder), capture_output=True, timeout=2 * PATIENCE_S)


@pytest.mark.long
def test_rounds_are_added_up_per_test_and_a_failure_is_the_exit_status(tmp_path):
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "test_it.py").write_text(TESTS)
    first = stress(tmp_path)
    assert first.returncode == 1, first.stdout + first.stderr
    again = stress(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    rows = [line.split() for line in again.stdout.splitlines() if "::" in line and line.strip()[0].isdigit()]
    counts = {name.rpartition("::")[2]: (int(passed), int(failed)) for passed, failed, name in rows}
    assert counts == {"test_good": (2, 0), "test_that_fails_at_first": (1, 1)}
    commit = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert f"2 rounds (2 of {commit.stdout.strip()}" in again.stdout
    assert "1 failures, at least 1 passes per test" in again.stdout
    assert str(tmp_path / "state/pi05_progress/stress_tests.jsonl") in again.stdout


def test_tests_that_cannot_be_run_are_no_round(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ended = stress(tmp_path)
    assert ended.returncode == 1
    assert "this round is not counted" in ended.stderr
    assert not (tmp_path / "state/pi05_progress/stress_tests.jsonl").exists()


@pytest.mark.long
def test_ctrl_c_waits_for_what_tests_end_and_the_round_is_not_counted(tmp_path):
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "test_it.py").write_text(SLOW_TO_END)
    with subprocess.Popen(**command(tmp_path), stderr=subprocess.PIPE, start_new_session=True) as running:
        wait_for(lambda: (tmp_path / "began").exists(), what="a test that goes on")
        os.killpg(running.pid, signal.SIGINT)
        said = running.communicate(timeout=PATIENCE_S)[1]
    assert running.returncode == 130 and said.endswith("stopped; this round is not counted\n"), said
    assert (tmp_path / "ended").exists() and not list((tmp_path / "state").rglob("*.jsonl"))
    with pytest.raises(ProcessLookupError):  # nobody of it is left, and the cores are free again
        os.killpg(running.pid, 0)
