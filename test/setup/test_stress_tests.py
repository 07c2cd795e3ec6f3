"""The stress rounds: what passes and fails is added up from call to call, in a file outside the checkout."""

import os
import subprocess
import sys

import pytest
from conftest import PATIENCE_S
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


def stress(folder):
    env = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    command = [sys.executable, "scripts/stress_tests.py", "--rounds", "1", "-c", folder / "pytest.ini", folder]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=2 * PATIENCE_S)


@pytest.mark.long
def test_rounds_are_added_up_per_test_and_a_failure_is_the_exit_status(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    live\n    long\n")
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
