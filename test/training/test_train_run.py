"""A run of training, from its first step to a policy; stopped, killed, gone on with."""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import PATIENCE_S
from small_datasets import TWO_TASKS, lerobot_copy, tree
from small_loading import labelled
from training_runs import NAME, configuration, in_its_own_process, rows, run

from pi05_progress.checkpoints.checkpoint import CheckpointError, load_checkpoint
from pi05_progress.checkpoints.description import read_info
from pi05_progress.checkpoints.starts import read_starts
from pi05_progress.errors import UserError
from pi05_progress.make_policy import make_policy
from pi05_progress.models.parameters import parameter_paths
from pi05_progress.observation import UNTRAINED, RobotFrame
from pi05_progress.policy import PolicyOptions
from pi05_progress.robots.profile import RobotProfile
from training.datasets.reader import open_dataset
from training.loading.config import DataConfig
from training.loading.loader import TrainLoader
from training.loading.split import HELD_OUT, held_out, read_splits
from training.running import command_line
from training.train import main, train

pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of a run that nothing interrupted, and what it said."""
    output, said = tmp_path_factory.mktemp("whole"), io.StringIO()
    with contextlib.redirect_stderr(said):
        folder, ended = run(data, output)
    assert ended == (6, "")
    return folder, said.getvalue()


def test_every_checkpoint_says_how_its_training_episodes_began(whole, data):
    folder, _ = whole
    starts = read_starts(folder / "last", RobotProfile.load("teleavatar"))
    assert len(starts.arms) == len(open_dataset(data).episodes)
    assert set(starts.tasks) == set(open_dataset(data).tasks)
    assert starts.cameras.size and starts.middle.any()


@pytest.mark.long  # compiles a step of its own; its parts are tested apart
def test_a_state_token_rows_by_themselves_and_several_noises_are_trained_and_the_policy_has_them(data, tmp_path):
    plain = configuration(data, tmp_path, num_train_steps=1, save_interval=1, validation_interval=0)
    config = dataclasses.replace(
        plain,
        model=dataclasses.replace(plain.model, state_token=True, discrete_state=False),
        data=dataclasses.replace(plain.data, delta_actions=True, actions_per_row=True, resident=True),
        loss=dataclasses.replace(plain.loss, flow_samples=3),
    )
    assert train(config) == (1, "")
    folder = tmp_path / config.name / config.exp_name
    info = read_info(folder / "last")
    assert info.model.state_token and info.delta_actions and info.actions_per_row
    profile = RobotProfile.load("teleavatar")
    policy = make_policy(profile, PolicyOptions(checkpoint=str(folder / "last"), num_steps=2, noise="zero"))
    images = {key: np.zeros((28, 28, 3), np.uint8) for key in profile.cameras}
    state = np.linspace(-0.2, 0.2, 48, dtype=np.float32)
    here, there = (policy.infer(RobotFrame(images, state + by), "stack").actions[:, 0] for by in (0, 5))
    assert np.abs(there - here - 5).max() < 2 < np.abs(there - here).min()  # relative to the state, which it also reads


@contextlib.contextmanager
def before_batch(number, act):
    """Call ``act`` with the loader's batch of that number, which counts from 1; it may return another one instead."""
    given, count = TrainLoader.__next__, itertools.count(1)

    def load(self):
        batch = given(self)
        return act(batch) or batch if next(count) == number else batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainLoader, "__next__", load)
        yield


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """The folder of the same run, ended by a signal after its third step."""
    with before_batch(3, lambda batch: os.kill(os.getpid(), signal.SIGTERM)):
        folder, ended = run(data, tmp_path_factory.mktemp("stopped"))
    assert ended == (3, "SIGTERM")
    return folder


@pytest.fixture
def half(stopped, tmp_path):
    """A copy of that, which a test may go on with: its output folder is ``tmp_path``."""
    return shutil.copytree(stopped, tmp_path / NAME / "run", symlinks=True)


def parameters(folder):
    model = load_checkpoint(folder).model
    return {path: np.asarray(value) for path, value in parameter_paths(model).items()}


def assert_same_parameters(one, other):
    one, other = parameters(one), parameters(other)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


def test_a_run_says_what_it_learns_from_and_logs_every_number(whole):
    folder, said = whole
    assert "learns actions and progress (scalar head, weight 0.1)" in said
    assert "held out, step 6/6" in said
    found = rows(folder / "metrics.csv", timed=True)
    assert [row["step"] for row in found] == ["2", "4", "6"]
    named = {"loss", "action_loss", "progress_loss", "labelled", "learning_rate", "grad_norm", "samples_per_second"}
    groups = {f"grad_norm/{of}" for of in ("vision", "language", "action_expert", "progress_head", "projections")}
    assert named | groups <= set(found[0])
    for row in found:  # up to what weighting by the number of labels changes in the mean of two steps
        total = float(row["action_loss"]) + 0.1 * float(row["progress_loss"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-3)
    assert float(found[-1]["samples_per_second"]) > 0
    assert [float(row["learning_rate"]) for row in found[1:]] == [pytest.approx(1e-2)] * 2


def test_held_out_episodes_are_measured_and_drawn(whole):
    folder, _ = whole
    found = rows(folder / "validation.csv")
    assert [row["step"] for row in found] == ["3", "6"]
    for row in found:
        total = float(row["action_loss"]) + 0.1 * float(row["progress_loss"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-5)
        assert 0 < float(row["progress_mae"]) < 1 and -1 <= float(row["spearman"]) <= 1
    assert json.loads((folder / "held_out.json").read_text())[0]["episodes"] == [1]
    for step in (3, 6):
        assert (folder / f"pictures/progress_{step}.png").read_bytes().startswith(b"\x89PNG")
    events = b"".join(path.read_bytes() for path in (folder / "tensorboard").iterdir())
    assert b"train/progress_loss" in events and b"validation/spearman" in events and b"validation/progress" in events


def test_the_checkpoint_is_a_policy_that_knows_what_it_was_made_from(whole, data):
    folder, _ = whole
    info = read_info(folder / "last")
    assert (info.model_id, info.robot, info.tokenizer) == ("small/run/6", "teleavatar", "bytes")
    assert info.labels["method"] == "linear" and info.action_dt_s == pytest.approx(0.1)
    assert info.labels["median_durations_s"] == {
        "put the block into the basket": pytest.approx(0.55)
    }  # 12 and 1 frames
    profile = RobotProfile.load("teleavatar")
    policy = make_policy(profile, PolicyOptions(checkpoint=str(folder / "last")))
    images = {key: np.full((32, 32, 3), 99, np.uint8) for key in profile.cameras}
    output = policy.infer(RobotFrame(images, np.zeros(48, np.float32)), "stack the cubes")
    assert output.actions.shape == (4, 16) and np.isfinite(output.actions).all()
    assert 0 < output.progress < 1


def test_links_lead_to_the_last_and_to_the_best_checkpoint(whole):
    folder, _ = whole
    losses = {row["step"]: float(row["loss"]) for row in rows(folder / "validation.csv")}
    assert os.readlink(folder / "last") == "6" and os.readlink(folder / "best") == min(losses, key=losses.get)
    assert {path.name for path in folder.iterdir() if path.name.isdigit()} == {"3", "6"}
    assert not list(folder.glob("*.partial"))


def test_what_is_saved_while_training_goes_on_is_what_was_there_then(whole, stopped):
    assert_same_parameters(whole[0] / "3", stopped / "3")


def test_a_run_that_was_stopped_goes_on_exactly(half, whole, data, tmp_path):
    assert [row["step"] for row in rows(half / "metrics.csv")] == ["2"]  # the third step waits for its row
    assert not (half / "validation.csv").exists() and os.readlink(half / "last") == "3"
    with (half / "metrics.csv").open("a") as file:  # as if it had been killed later, in the middle of a row
        file.write("4" + ",9" * (len(rows(half / "metrics.csv", timed=True)[0]) - 1) + "\n6,0.")
    (half / "5.partial").mkdir()
    with before_batch(3, lambda batch: os.kill(os.getpid(), signal.SIGTERM)):  # after the last step, too
        assert run(data, tmp_path, resume=True) == (half, (6, "SIGTERM"))
    assert [row["step"] for row in rows(half / "validation.csv")] == ["3"]
    assert run(data, tmp_path, resume=True) == (half, (6, ""))
    for log in ("metrics.csv", "validation.csv"):
        assert rows(half / log) == rows(whole[0] / log)
    assert_same_parameters(half / "6", whole[0] / "6")
    for link in ("last", "best"):
        assert os.readlink(half / link) == os.readlink(whole[0] / link)
    assert not (half / "5.partial").exists()


def test_a_run_that_a_former_version_began_goes_on(half, whole, data, tmp_path, monkeypatch, caplog):
    """Without digests and names of episodes, with statistics that would be computed otherwise by now."""
    for path in half.rglob("*.sha256"):
        path.unlink()
    (half / "3" / HELD_OUT).unlink()
    (half / HELD_OUT).write_text(json.dumps([{"folder": str(data), "episodes": [1]}]))
    saved = json.loads((half / "config.json").read_text())
    del saved["config"]["from_scratch"]
    (half / "config.json").write_text(json.dumps(saved))
    monkeypatch.setattr("training.loading.statistics.of_rows", None)
    assert run(data, tmp_path, resume=True) == (half, (6, ""))
    assert rows(half / "metrics.csv") == rows(whole[0] / "metrics.csv")
    assert_same_parameters(half / "6", whole[0] / "6")
    assert sum("sha256" in message for message in caplog.messages) == 2  # parameters, and what stands beside them


def test_a_run_from_a_checkpoint_holds_out_what_that_one_held_out(whole, data, tmp_path):
    other = DataConfig(repo_id=str(data), seed_split=0)
    assert held_out("abcd", other.validation_fraction, 0) != [1]
    quick = {"num_train_steps": 1, "save_interval": 1, "validation_interval": 0}
    train(dataclasses.replace(configuration(data, tmp_path, checkpoint=whole[0] / "last", **quick), data=other))
    folder = tmp_path / NAME / "run"
    for path in (folder / HELD_OUT, folder / "1" / HELD_OUT):
        former, own = read_splits(path)
        assert own.episodes == (1,) and former == own


def test_a_full_disk_ends_the_run_and_what_was_saved_stays(half, data, tmp_path):
    before = tree(half / "3")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"run/4: .*Checkpoints before it are complete"):
            run(data, tmp_path, resume=True, save_interval=4, validation_interval=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert {path.name for path in half.iterdir() if path.name[0].isdigit()} == {"3"}
    assert tree(half / "3") == before and os.readlink(half / "last") == "3"


def test_a_loss_that_is_not_finite_ends_the_run_and_the_batch_is_kept(half, data, tmp_path):
    def spoilt(batch):
        actions = batch.actions.copy()
        actions[2, 0, 0] = np.nan
        return dataclasses.replace(batch, actions=actions)

    with (
        before_batch(2, spoilt),
        pytest.raises(UserError, match=r"step 5: .*loss is nan.*actions is not finite in 1 samples") as error,
    ):
        run(data, tmp_path, resume=True)
    kept = np.load(half / "bad_batch_5.npz")
    assert str(tuple(kept["origin"][2].tolist())) in str(error.value)
    assert np.isnan(kept["actions"][2, 0, 0]) and kept["observation.images.base_0_rgb"].dtype == np.uint8
    assert {path.name for path in half.iterdir() if path.name.isdigit()} == {"3"}


def test_a_changed_configuration_is_refused_by_the_names_of_its_fields(whole, data):
    output = whole[0].parent.parent
    changed = configuration(data, output, resume=True, seed=1, num_train_steps=9)
    changed = dataclasses.replace(changed, optimizer=dataclasses.replace(changed.optimizer, b1=0.5))
    with pytest.raises(UserError) as error:
        train(changed)
    assert "seed: 42 -> 1" in str(error.value) and "optimizer.b1: 0.9 -> 0.5" in str(error.value)
    assert "num_train_steps:" not in str(error.value)


def test_a_run_that_is_there_is_not_touched_unless_asked_for(whole, data, tmp_path):
    output = whole[0].parent.parent
    with pytest.raises(UserError, match=r"--resume.*--overwrite"):
        train(configuration(data, output))
    assert os.readlink(whole[0] / "last") == "6"
    other = tmp_path / NAME / "run"
    other.mkdir(parents=True)
    (other / "letters.txt").write_text("mine")
    for fields in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(UserError, match="not the folder of a run"):
            train(configuration(data, tmp_path, **fields))
    assert (other / "letters.txt").read_text() == "mine"


def test_a_run_that_is_done_stays_as_it_is(whole, data):
    before = (whole[0] / "metrics.csv").read_bytes()
    assert train(configuration(data, whole[0].parent.parent, resume=True)) == (6, "")
    assert (whole[0] / "metrics.csv").read_bytes() == before


def test_other_data_than_the_run_was_started_with_is_refused(half, data, tmp_path):
    other = labelled(tmp_path / "other")  # the last episode is no failure, so its labels are others
    config = configuration(data, tmp_path, resume=True, num_train_steps=8)
    path = half / "config.json"
    path.write_text(path.read_text().replace(str(data), str(other)))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, repo_id=str(other)))
    with pytest.raises(ValueError, match="data sets was"):
        train(config)


def test_a_damaged_video_ends_the_program_with_its_name(tmp_path, monkeypatch, capsys):
    source = lerobot_copy(tmp_path)
    video = sorted(source.glob("videos/*/*/*.mp4"))[0]
    whole = video.read_bytes()
    video.unlink()  # it may be linked
    video.write_bytes(whole[: len(whole) // 2])
    config = configuration(source, tmp_path / "out")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache=tmp_path / "cache"))
    monkeypatch.setattr(command_line, "parse", lambda arguments: config)
    assert main() == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {video}: cannot be opened")
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_checkpoint_may_start_anew_with_another_configuration(half, data, tmp_path, capsys):
    shutil.rmtree(half / "3")

    class Started(Exception):
        pass

    def stop(batch):
        raise Started

    with before_batch(1, stop), pytest.raises(Started):
        run(data, tmp_path, resume=True, seed=7)
    assert "starts anew" in capsys.readouterr().err
    assert json.loads((half / "config.json").read_text())["config"]["seed"] == 7


@pytest.mark.long
def test_data_without_labels_trains_actions_alone_and_its_checkpoint_acts(tmp_path, capsys):
    folder, _ = run(TWO_TASKS, tmp_path, num_train_steps=2)
    assert "learns actions alone" in capsys.readouterr().err
    assert "progress_loss" not in rows(folder / "metrics.csv")[0]
    info = read_info(folder / "last")
    assert info.model.progress.kind == "none" and info.model_id != UNTRAINED
    assert not (folder / "pictures").exists()


def test_a_second_signal_ends_at_once():
    program = (
        "import os, signal\nfrom training.running.signals import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    print(stop.name, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    print('still here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "SIGINT\n" and done.returncode == -signal.SIGINT


# Some time after the batch of that number, at whatever it does then; it waits for that before it gets far.
KILLED = """
import signal, time
from training.loading.loader import TrainLoader
given, number = TrainLoader.__next__, 0
def load(self):
    global number
    number += 1
    if number == {batch}:
        signal.setitimer(signal.ITIMER_REAL, {seconds})
    elif number == {batch} + 3:
        time.sleep(600)
    return given(self)
TrainLoader.__next__ = load
"""


@pytest.mark.parametrize(("kills", "count"), [(1, 6), pytest.param(3, 30, marks=pytest.mark.long)])
def test_a_run_that_is_killed_at_any_step_goes_on_to_the_same_curve(whole, data, tmp_path, kills, count):
    steps = {"num_train_steps": count, "save_interval": 3}
    whole = whole[0] if count == 6 else run(data, tmp_path / "whole", **steps)[0]
    rng = np.random.default_rng()
    config = configuration(data, tmp_path, resume=True, **steps)
    for _ in range(kills):
        first = KILLED.format(batch=rng.integers(1, 4), seconds=rng.uniform(0.001, 0.3))
        process = in_its_own_process(config, first)
        said = process.communicate()
        assert process.returncode == -signal.SIGALRM, said  # as by SIGKILL, nobody sees it come
    assert train(config) == (count, "")
    folder = tmp_path / NAME / "run"
    assert rows(folder / "metrics.csv") == rows(whole / "metrics.csv")
    assert rows(folder / "validation.csv") == rows(whole / "validation.csv")
    assert_same_parameters(folder / "last", whole / "last")


@pytest.mark.long
def test_the_program_says_how_to_go_on_after_ctrl_c(data, tmp_path):
    process = in_its_own_process(configuration(data, tmp_path, num_train_steps=100_000, validation_interval=0))
    log = tmp_path / NAME / "run/metrics.csv"
    while not log.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "stopped by SIGINT" in out and "--resume" in out and "once more ends at once" in err
