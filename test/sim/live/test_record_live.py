"""The simulated operator's episodes, recorded by the recorder node over DDS and converted."""

import json
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE_S, wait_for

from training.datasets.reader import open_dataset

RECORD = [sys.executable, "-m", "pi05_progress_ros.sim.record_live", "--task", "stack_cubes", "--image-scale", "0.05"]


def run(*arguments, **options):
    return subprocess.run([*map(str, arguments)], capture_output=True, text=True, timeout=2 * PATIENCE_S, **options)


@pytest.mark.long
def test_live_episodes_with_milestones_and_outcomes_become_a_data_set(tmp_path):
    out = tmp_path / "bags"
    command = [*RECORD, "--episodes", "1", "--seed", "0", "--out", out, "--fault", "gives_up:1"]
    recorded = run(*command)
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    (facts,) = json.loads((out / "episodes.json").read_text())
    assert (facts["seed"], facts["outcome"], facts["reason"]) == (0, "failure", "given up")
    assert [name for name, _ in facts["milestones"]] == ["red_cube lifted", "red_cube stacked"]
    again = run(*command)
    assert again.returncode == 0
    assert "1 of 1 episodes are already there" in again.stdout
    # A busy machine may make a late picture; this is about what arrives, not about that.
    convert = ["-m", "training.convert_rosbags", "--input", out, "--output", tmp_path / "data", "--fps", "30"]
    converted = run(sys.executable, *convert, "--max-gap", "3")
    assert converted.returncode == 0, converted.stdout + converted.stderr
    (episode,) = open_dataset(tmp_path / "data").episodes
    assert episode.length / 30 == pytest.approx(facts["duration_s"], abs=1.0)
    (meta,) = json.loads((tmp_path / "data" / "meta" / "progress.json").read_text())["episodes"]
    assert (meta["outcome"], meta["note"]) == ("FAILURE", "given up")
    for milestone, (name, seconds) in zip(meta["milestones"], facts["milestones"], strict=True):
        assert milestone["label"] == name
        assert milestone["frame"] / 30 == pytest.approx(seconds, abs=0.7)


def test_stopped_in_an_episode_it_completes_the_bag_and_counts_the_episode_as_missing(tmp_path):
    out = tmp_path / "bags"
    command = [*map(str, [*RECORD, "--episodes", "2", "--out", out])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: list(out.glob(".partial/*/*.mcap")) or process.poll() is not None, what="a bag that is written")
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 130, text
    assert "goes on with what is missing" in text
    assert json.loads((out / "episodes.json").read_text()) == []
    assert not list(out.glob(".partial/*"))  # the recorder completed it, with unknown outcome


WRONG = [
    (["--fault", "earthquake"], "unknown fault 'earthquake'"),
    (["--episodes", "0"], "--episodes 0: expected 1 to"),
    (["--fault-share", "2"], "expected 0 to 1"),
    (["--profile", "nobody"], "nobody"),
]


def test_wrong_options_are_named(tmp_path):
    command = [*RECORD, "--out", str(tmp_path / "bags")]
    running = [
        (subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True), complaint)
        for arguments, complaint in WRONG
    ]
    for process, complaint in running:
        said = process.communicate(timeout=PATIENCE_S)[1]
        assert process.returncode == 2
        assert complaint in said
