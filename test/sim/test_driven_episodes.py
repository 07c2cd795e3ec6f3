"""A closed loop that was stopped goes on where it was, and drives the same episodes in any number of processes."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import PATIENCE_S, wait_for
from places import SUPPORT

from pi05_progress.errors import UserError
from pi05_progress.observation import PolicyOutput
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.transforms import state_to_model
from pi05_progress_ros.sim import evaluate
from pi05_progress_ros.sim.driving.closed_loop import DrivenEpisode
from pi05_progress_ros.sim.driving.episode_log import EpisodeLog
from pi05_progress_ros.sim.physics.tasks.base import Task

HORIZON = 30
SETTINGS = {"rate": 10.0, "loop": {"latency": 0.1}}
FIRST = DrivenEpisode("t", 3, "do it", "success", "", 2.5, (("lifted", 1.25),), 1.0, 0.1 + 0.2, None, "", 9)


class Noisy:
    """Stays, and believes what its noise says; in the ``breaks``-th episode it has no answer that can be used."""

    model_id, horizon, action_dt_s = "noisy", HORIZON, 1 / 30

    def __init__(self, breaks=0):
        self.breaks, self.episodes, self.rng = breaks, 0, np.random.default_rng(99)

    def warm_up(self):
        pass

    def restart_noise(self, seed):
        self.episodes, self.rng = self.episodes + 1, np.random.default_rng(seed)

    def infer(self, frame, prompt):
        arms = state_to_model(frame.state, RobotProfile.load("teleavatar").layout)
        actions = np.zeros((HORIZON - (self.episodes == self.breaks), 16), np.float32)
        actions[:, :7], actions[:, 8:15] = arms[:7], arms[7:]
        return PolicyOutput(actions, float(self.rng.random()))


def noisy(_profile):
    """For ``--policy``; in a worker process, too."""
    Task.time_limit_s = 0.3
    return Noisy()


def breaks(_profile):
    """As ``noisy``, unusable from the third episode on."""
    Task.time_limit_s = 0.3
    return Noisy(3)


def arguments(path, *more, policy="noisy"):
    return ["--policy", f"test_driven_episodes:{policy}", "--task", "stack_cubes", "--episodes", "3", "--image-scale",
            "0.02", "--rate", "2", "--jobs", "1", "--json", str(path), *more]  # fmt: skip


@pytest.fixture(autouse=True)
def own_limit(monkeypatch):
    """What the policies set is set back."""
    monkeypatch.setattr(Task, "time_limit_s", Task.time_limit_s)


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """What an undisturbed run writes."""
    path, limit = tmp_path_factory.mktemp("driven") / "driven.json", Task.time_limit_s
    try:
        assert evaluate.main(arguments(path)) == 0
    finally:
        Task.time_limit_s = limit
    assert os.listdir(path.parent) == [path.name]
    return json.loads(path.read_text())


def test_a_run_that_broke_off_goes_on_and_comes_to_the_same_figures(driven, tmp_path, monkeypatch, capsys):
    path, log = tmp_path / "driven.json", tmp_path / "driven.json.episodes.jsonl"
    monkeypatch.setattr(evaluate, "_log", lambda args, driving: _log(args, renamed(driving)))
    assert evaluate.main(arguments(path, policy="breaks")) == 1
    said = capsys.readouterr().err
    assert "the policy's actions are (29, 16)" in said and len(said.splitlines()) == 1
    assert f"2 finished episodes are in {log}, the same command goes on" in said and not path.exists()
    with log.open("a") as file:
        file.write('{"task": "stack_cubes", "se')  # and then it was killed
    assert evaluate.main(arguments(path)) == 0
    assert "2 of 3 episodes were driven before" in capsys.readouterr().out
    assert json.loads(path.read_text()) == driven
    assert os.listdir(tmp_path) == [path.name]


def test_shifts_are_tried_one_after_the_other_and_told_apart(driven, tmp_path, capsys):
    path = tmp_path / "shifted.json"
    more = ("--episodes", "1", "--shift", "none", "left_black", "--laboratory", "plain")
    assert evaluate.main(arguments(path, *more)) == 0
    found = json.loads(path.read_text())
    assert [(e["seed"], e["shift"]) for e in found["episodes"]] == [(900_000, "none"), (900_000, "left_black")]
    assert list(found["figures_by_shift"]) == ["none", "left_black"]
    assert found["figures"] == found["figures_by_shift"]["none"]
    plain = found["episodes"][0]
    assert plain in driven["episodes"]
    assert found["episodes"][1] == plain | {"shift": "left_black"}  # a policy that does not look
    assert "laboratory shifted: left_black" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        evaluate.main(arguments(tmp_path / "other.json", "--shift", "fog"))
    assert "unknown shift 'fog'" in capsys.readouterr().err


_log = evaluate._log


def renamed(driving):
    """Policies of two names keep their episodes in one log."""
    return replace(driving, policy=replace(driving.policy, policy="the same"))


@pytest.mark.long
def test_any_number_of_processes_comes_to_the_same_figures(driven, tmp_path):
    path = tmp_path / "driven.json"
    assert evaluate.main(arguments(path, "--workers", "2")) == 0
    assert json.loads(path.read_text()) == driven


@pytest.mark.long
def test_an_unusable_answer_in_a_worker_is_told_as_in_this_process(tmp_path, capsys):
    assert evaluate.main(arguments(tmp_path / "driven.json", "--workers", "2", policy="nothing")) == 1
    assert "expected pi05, websocket or module:function" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_keeps_finished_episodes_and_leaves_no_process(tmp_path, workers):
    path = tmp_path / "driven.json"
    command = [sys.executable, "-m", "pi05_progress_ros.sim.evaluate", *arguments(path, "--workers", workers)]
    command[command.index("3")] = "500"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])}
    child = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    log = tmp_path / "driven.json.episodes.jsonl"
    wait_for(lambda: log.exists() and log.read_bytes().count(b"\n") > 2, what="two finished episodes")
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 130 and "finished episodes are in" in said and "Traceback" not in said
    assert log.read_bytes().endswith(b"\n") and not path.exists()
    wait_for(lambda: not alive(child.pid), what="the end of all processes")


def alive(group):
    """Whether a process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    class Full(EpisodeLog):
        def add(self, episode):
            raise OSError(28, "No space left on device", str(self.path))

    monkeypatch.setattr(evaluate, "EpisodeLog", Full)
    assert evaluate.main(arguments(tmp_path / "driven.json")) == 1
    log = tmp_path / "driven.json.episodes.jsonl"
    assert capsys.readouterr().err == f"evaluate: {log}: No space left on device\n"
    assert not list(tmp_path.iterdir())


def test_episodes_are_read_as_they_were_written(tmp_path):
    with EpisodeLog(tmp_path / "log", SETTINGS, overwrite=False) as log:
        log.add(FIRST)
    with EpisodeLog(tmp_path / "log", SETTINGS, overwrite=True) as log:
        assert log.episodes == [FIRST]
        log.add(replace(FIRST, seed=4))
    with EpisodeLog(tmp_path / "log", SETTINGS, overwrite=False) as log:
        assert [e.seed for e in log.episodes] == [3, 4]


def test_episodes_of_other_settings_are_refused_or_thrown_away_but_never_mixed(tmp_path):
    with EpisodeLog(tmp_path / "log", SETTINGS, overwrite=False) as log:
        log.add(FIRST)
    other = SETTINGS | {"rate": 5.0}
    with pytest.raises(UserError, match="but rate differ; --overwrite begins anew"):
        EpisodeLog(tmp_path / "log", other, overwrite=False)
    with EpisodeLog(tmp_path / "log", other, overwrite=True) as log:
        assert log.episodes == []
        log.add(replace(FIRST, seed=4))
    with EpisodeLog(tmp_path / "log", other, overwrite=False) as log:
        assert [e.seed for e in log.episodes] == [4]


def test_a_run_without_an_episode_leaves_no_file(tmp_path):
    with EpisodeLog(tmp_path / "log", SETTINGS, overwrite=False):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else_stays(tmp_path):
    (tmp_path / "log").write_text("precious\n")
    with pytest.raises(UserError, match="is no file of driven episodes"):
        EpisodeLog(tmp_path / "log", SETTINGS, overwrite=True)
    assert (tmp_path / "log").read_text() == "precious\n"


def test_two_runs_do_not_write_one_file(tmp_path):
    with (
        EpisodeLog(tmp_path / "log", SETTINGS, overwrite=False),
        pytest.raises(UserError, match="another process is writing there"),
    ):
        EpisodeLog(tmp_path / "log", SETTINGS, overwrite=True)


@pytest.mark.parametrize("left", [b'{"settings": {"ra', b""])
def test_a_file_whose_process_was_killed_at_once_is_begun_anew(tmp_path, left):
    (tmp_path / "log").write_bytes(left)
    with EpisodeLog(tmp_path / "log", SETTINGS, overwrite=False) as log:
        log.add(FIRST)
    with EpisodeLog(tmp_path / "log", SETTINGS, overwrite=False) as log:
        assert log.episodes == [FIRST]
