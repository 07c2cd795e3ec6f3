"""A tower that stays as it is with its features kept; which checkpoint is the best; a profile; driving in between."""

import dataclasses
import itertools
import os
import signal
import sys

import numpy as np
import pytest
from places import SUPPORT
from small_datasets import TWO_TASKS
from small_loading import loader, take
from training_runs import configuration, rows, run

from pi05_progress.checkpoints.checkpoint import load_checkpoint
from pi05_progress.errors import UserError
from pi05_progress.models.parameters import parameter_paths
from training.engine.optimizer import OptimizerConfig
from training.loading.features import Tower
from training.loading.loader import TrainLoader
from training.loading.pictures import DecodedPictures
from training.running import simulation
from training.running.setup import prepare
from training.train import train

pytestmark = pytest.mark.usefixtures("quick_training")


def brightness(name="a", scale=1.0):
    """A tower of two tokens of three numbers, the picture's mean colour."""

    def tokens(images):
        return {k: scale * np.repeat(v.mean(axis=(1, 2))[:, None], 2, axis=1) for k, v in images.items()}

    return Tower(name, (2, 3), np.dtype(np.float32), tokens)


def test_features_are_made_once_for_a_tower_and_take_the_place_of_pictures(tmp_path):
    with loader(TWO_TASKS) as plain, loader(TWO_TASKS, features=tmp_path / "features") as batches:
        batches.use_features(brightness())
        for one, other in zip(take(plain, 3), take(batches, 3), strict=True):
            assert other.observation.images == {}
            for key, image in one.observation.images.items():
                mean = np.repeat(image.mean(axis=(1, 2))[:, None], 2, axis=1)
                np.testing.assert_allclose(other.observation.image_tokens[key], mean, rtol=1e-6)
            np.testing.assert_array_equal(one.actions, other.actions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecodedPictures, "read_one", lambda *_: pytest.fail("decoded again"))
        with loader(TWO_TASKS, features=tmp_path / "features", resident=True) as again:
            again.use_features(brightness())
            assert again.all_samples().observation.image_tokens["base_0_rgb"].shape[1:] == (2, 3)
    with loader(TWO_TASKS, features=tmp_path / "features") as other:
        other.use_features(brightness("b", scale=2.0))
        doubled = next(other).observation.image_tokens["base_0_rgb"]
    assert np.median(doubled) > 1.5 * np.median(mean) or doubled.max() > 255
    assert len([path for path in (tmp_path / "features").iterdir() if path.is_dir()]) == 2


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """A run that learns from pictures, chooses by the actions it would give, and is profiled."""
    output = tmp_path_factory.mktemp("first")
    folder, ended = run(data, output, best="action_error", trace=output / "profile")
    assert ended == (6, "")
    return folder


def test_the_best_is_chosen_by_the_number_that_is_asked_for(first):
    errors = {row["step"]: float(row["action_error"]) for row in rows(first / "validation.csv")}
    assert os.readlink(first / "best") == min(errors, key=errors.get)
    assert all(0 < error < 3 for error in errors.values())  # rad


def stop_at(monkeypatch, step):
    """Let a signal come while the batch of a step is loaded."""
    given, count = TrainLoader.__next__, itertools.count(1)

    def loaded(batches):
        if next(count) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return given(batches)

    monkeypatch.setattr(TrainLoader, "__next__", loaded)


def test_a_profile_of_some_steps_is_written(first, data, tmp_path, monkeypatch):
    assert list((first.parents[1] / "profile").rglob("*.xplane.pb"))
    stop_at(monkeypatch, 5)
    assert run(data, tmp_path, trace=tmp_path / "profile")[1] == (5, "SIGTERM")
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.long  # a step from tokens is held against one from pictures in test_train_points, too
def test_trunk_and_heads_go_on_from_kept_features_as_from_the_pictures(first, data, tmp_path):
    still = OptimizerConfig(schedule="constant", peak_learning_rate=1e-12, warmup_steps=0)
    fields = {"checkpoint": first / "last", "num_train_steps": 3, "optimizer": still, "best": "action_error"}
    config = configuration(data, tmp_path, freeze=("PaliGemma/img/.*",), **fields)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, features=tmp_path / "features"))
    train(config)
    second = tmp_path / first.parent.name / "run"
    (one,), other = rows(second / "validation.csv"), rows(first / "validation.csv")[-1]
    assert {k: float(v) for k, v in one.items() if k != "step"} == pytest.approx(
        {k: float(v) for k, v in other.items() if k != "step"}, rel=1e-3
    )
    towers = [parameter_paths(load_checkpoint(folder / "last").model) for folder in (first, second)]
    for path in (path for path in towers[0] if path.startswith("PaliGemma/img/")):
        np.testing.assert_array_equal(*(np.asarray(tower[path]) for tower in towers))


def test_features_of_a_tower_that_is_trained_are_refused(data, tmp_path):
    config = configuration(data, tmp_path)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, features=tmp_path / "features"))
    with pytest.raises(UserError, match=r"must not be trained; freeze it with --freeze 'PaliGemma/img/\.\*'"):
        train(config)
    with pytest.raises(UserError, match=r"data\.features is made and read by one process"):
        loader(data, features=tmp_path / "features", process=(0, 2))


def test_a_number_that_the_run_cannot_measure_is_no_best(data, tmp_path, capsys):
    nowhere = {"validation_interval": 0}
    for source, fields, message in (
        (data, {"best": "position_error_mm"}, r"cannot measure without labelled positions and --model\.positions"),
        (TWO_TASKS, {"best": "progress_mae"}, "cannot measure without progress labels .* and a progress head"),
        (TWO_TASKS, {"best": "spearman"}, "cannot measure without progress labels .* and a progress head"),
        (data, {"best": "action_loss", **nowhere}, "--best is action_loss, but nothing is validated: --validation_int"),
        (data, {"best": "loss", "name": "tiny_acting", **nowhere}, "--best is loss, but nothing is validated"),
    ):
        with pytest.raises(UserError, match=message):
            train(configuration(source, tmp_path, **fields))
    config = configuration(data, tmp_path, best="action_error", name="tiny_acting", **nowhere)
    prepare(
        dataclasses.replace(config, data=dataclasses.replace(config.data, validation_fraction=0)), print
    ).loader.close()
    assert "nothing is validated, so no checkpoint is called best" in capsys.readouterr().out


def test_checkpoints_drive_in_between_and_the_best_is_the_one_that_succeeds_most(data, tmp_path, monkeypatch):
    monkeypatch.setattr(simulation, "PROGRAM", "made_up_driving")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), *sys.path]))
    fields = {"best": "success", "sim_validation_every": 3, "sim_episodes": 5, "keep_period": None}
    stop_at(monkeypatch, 3)
    folder, ended = run(data, tmp_path, sim_arguments="--task lift_cube", **fields)
    assert ended == (3, "SIGTERM") and not (folder / "driven").exists()  # saved, and nothing driven; that comes first:
    run(data, tmp_path, sim_arguments="--task lift_cube", resume=True, **fields)
    assert [row["success"] for row in rows(folder / "simulation.csv")] == ["0.75", "0.25"]
    assert rows(folder / "simulation.csv")[0]["success/lift_cube"] == "0.75"
    assert os.readlink(folder / "best") == "3" and os.readlink(folder / "last") == "6"


def test_what_cannot_be_driven_or_chosen_by_is_refused_at_the_start(data, tmp_path, monkeypatch):
    for fields, message in (
        ({"best": "success"}, "found out in simulation: --sim_validation_every is missing"),
        ({"sim_validation_every": 4}, "expected a multiple of --save_interval, 3"),
        ({"sim_validation_every": 3, "sim_arguments": "--seed 900000"}, "are the run's own; leave them out"),
        ({"sim_validation_every": 3, "sim_arguments": "--task 'lift"}, "--sim_arguments .*: No closing quotation"),
    ):
        with pytest.raises(UserError, match=message):
            train(configuration(data, tmp_path, **fields))
    monkeypatch.setattr(simulation, "PROGRAM", "no_such_program")
    with pytest.raises(UserError, match=r"needs ROS and the simulation.*No module named 'no_such_program'"):
        train(configuration(data, tmp_path, sim_validation_every=3))
