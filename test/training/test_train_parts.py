"""Parts of a run: validation, logs, metrics on their way, the folder, what it starts from."""

import dataclasses
import errno
import fcntl
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import SMALL, random_model
from training_cases import changed, made_up_batch, one_device, quick_compiling
from training_runs import MODEL, configuration, rows

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointError
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.errors import UserError
from pi05_progress.models.parameters import parameter_paths
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import NormStats
from training.engine.loss import LossConfig
from training.engine.state import with_parameters
from training.evaluation.metrics import spearman
from training.recipes.config import LogConfig
from training.running import bad_batch
from training.running.checkpoints import Best, to_remove
from training.running.logs import CsvLog, Logs
from training.running.metrics import Arrived, InFlight, mean
from training.running.run_folder import RunFolder, take
from training.running.start import (
    Start,
    check_labels,
    differences,
    effective_model,
    open_base,
    position_notes,
    start_notes,
)
from training.running.validation import draws, make_validation_step, validate

PROFILE = RobotProfile.load("teleavatar")


# --- validation ---


@pytest.fixture(scope="module")
def step():
    with quick_compiling():
        yield make_validation_step(SMALL, one_device(), LossConfig(), SMALL.action_dim, seed=3)


@pytest.fixture(scope="module")
def parameters():
    return parameter_paths(random_model(SMALL))


def at(batch, *origin):
    return dataclasses.replace(batch, origin=np.array(origin, np.int32))


def found(step, parameters, *batches, weight=0.1, failed=()):
    return validate(
        step,
        parameters,
        batches,
        one_device(),
        loss=LossConfig(progress_weight=weight),
        successful=lambda d, e: (d, e) not in failed,
    )


def test_validation_measures_what_training_minimises(step, parameters):
    batch = at(made_up_batch(rows=4), (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1))
    key = jax.random.fold_in(jax.random.key(3), 1)
    noise, time = draws(key, jnp.asarray(batch.origin), batch.actions.shape[1:])
    with quick_compiling():
        losses = jax.jit(
            lambda values: with_parameters(SMALL, values).losses(batch.observation, batch.actions, noise, time)
        )(parameters)
    numbers = found(step, parameters, batch, weight=0.3).numbers
    labelled = batch.observation.progress_mask
    assert numbers["action_loss"] == pytest.approx(float(losses.action.mean()), rel=1e-5)
    assert numbers["progress_loss"] == pytest.approx(float(losses.progress[labelled].mean()), rel=1e-5)
    assert numbers["loss"] == pytest.approx(numbers["action_loss"] + 0.3 * numbers["progress_loss"], rel=1e-6)


def test_actions_of_failures_do_not_count_in_validation_either(step, parameters):
    batch = at(made_up_batch(rows=4), (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1))
    alone = found(step, parameters, at(batch, (0, 0, 0), (0, 0, 1), (-1, -1, -1), (-1, -1, -1))).numbers
    weighted = dataclasses.replace(batch, action_weight=np.array([1, 1, 0, 0], np.float32))
    numbers = found(step, parameters, weighted).numbers
    assert numbers["action_loss"] == pytest.approx(alone["action_loss"], rel=1e-6)
    assert numbers["action_loss"] != pytest.approx(found(step, parameters, batch).numbers["action_loss"], rel=1e-6)
    none = found(
        step, parameters, dataclasses.replace(batch, action_weight=np.zeros(4, np.float32)), weight=0.3
    ).numbers
    assert np.isnan(none["action_loss"])
    assert none["loss"] == pytest.approx(0.3 * none["progress_loss"])


def test_the_same_frame_gets_the_same_draws_whatever_it_is_loaded_with(step, parameters):
    batch = at(made_up_batch(rows=4), (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 1, 1))
    turned = jax.tree.map(lambda array: array[::-1], batch)
    one, other = (jax.device_get(step(parameters, of)) for of in (batch, turned))
    np.testing.assert_allclose(one.action_loss, other.action_loss[::-1], rtol=1e-5)
    assert len(set(one.action_loss.tolist())) == 4


def test_draws_are_distributed_as_in_training():
    origin = np.stack([np.zeros(4000), np.zeros(4000), np.arange(4000)], axis=1).astype(np.int32)
    noise, time = draws(jax.random.key(0), jnp.asarray(origin), (2, 3))
    assert abs(float(noise.mean())) < 0.02 and float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float(time.mean()) == pytest.approx(0.6 * 0.999 + 0.001, abs=0.02)  # the mean of Beta(1.5, 1) is 0.6


def test_rows_that_fill_up_the_last_batch_and_missing_labels_do_not_count(step, parameters):
    batch = at(made_up_batch(rows=4), (0, 0, 0), (0, 0, 1), (0, 1, 0), (-1, -1, -1))
    spoilt = batch.actions.copy()
    spoilt[3] = 1e6
    progress = batch.observation.progress.copy()
    progress[~batch.observation.progress_mask] = np.nan
    changed_ = changed(batch, actions=spoilt, progress=progress)
    one, other = found(step, parameters, batch), found(step, parameters, changed_)
    assert one.numbers == other.numbers
    assert [(t.dataset, t.episode, t.frames.tolist()) for t in one.traces] == [(0, 0, [0, 1]), (0, 1, [0])]
    assert [bool(np.isnan(value)) for t in one.traces for value in t.label] == [False, True, False]


def test_only_episodes_that_did_not_fail_count_for_rank_correlation(step, parameters):
    batch = at(made_up_batch(rows=4), (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1))
    both = found(step, parameters, batch)
    of_each = [spearman(trace.predicted, trace.frames) for trace in both.traces]
    assert both.numbers["spearman"] == pytest.approx(np.mean(of_each))
    assert found(step, parameters, batch, failed={(0, 1)}).numbers["spearman"] == pytest.approx(of_each[0])
    assert math.isnan(found(step, parameters, batch, failed={(0, 0), (0, 1)}).numbers["spearman"])


# --- logs ---


def test_a_log_that_is_gone_on_with_loses_later_rows_and_half_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    log = CsvLog(path, 0)
    for step in (2, 4, 6):
        log.write({"step": step, "loss": 1 / 3 * step})
    with path.open("a") as file:
        file.write("8,0.")
    log = CsvLog(path, 4)
    log.write({"step": 6, "loss": float("nan")})
    assert [(row["step"], row["loss"]) for row in rows(path)] == [
        ("2", "0.666666667"),
        ("4", "1.33333333"),
        ("6", "nan"),
    ]
    with pytest.raises(UserError, match="another version"):
        log.write({"step": 8, "other": 1.0})


def test_weights_and_biases_is_never_waited_for_without_a_login(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match=r"nobody is logged in.*--logs.wandb=offline"):
        Logs(tmp_path, LogConfig(wandb="online"), name="x", resolved={}, step=0)


@pytest.mark.long
def test_weights_and_biases_writes_files_offline(tmp_path):
    with Logs(tmp_path, LogConfig(wandb="offline"), name="x", resolved={"a": 1}, step=0) as logs:
        logs.write("train", 1, {"loss": 0.5})
        logs.picture("validation/progress", 1, np.zeros((4, 4, 3), np.uint8))
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb")) and list(run.rglob("*.png"))


# --- metrics ---


def test_metrics_are_fetched_when_the_next_steps_are_on_their_way():
    flight = InFlight(lag=2)
    arrived = [[a.step for a in flight.sent(step, [None], {"loss": np.float32(step)})] for step in (1, 2, 3, 4)]
    assert arrived == [[], [], [1], [2]]
    assert [a.step for a in flight.all()] == [3, 4]


def test_a_row_has_means_and_the_last_learning_rate_and_counts_labelled_samples_alone():
    steps = [
        {"loss": 1.0, "learning_rate": 0.1, "progress_loss": 0.4, "labelled": 0.5},
        {"loss": 2.0, "learning_rate": 0.2, "progress_loss": 0.0, "labelled": 0.0},
    ]
    assert mean(steps) == {"loss": 1.5, "learning_rate": 0.2, "progress_loss": 0.4, "labelled": 0.25}
    assert math.isnan(mean(steps[1:])["progress_loss"])


# --- the folder ---


def test_two_runs_do_not_share_a_folder(tmp_path):
    with take(tmp_path / "run", overwrite=False), pytest.raises(UserError, match="another process is training"):
        take(tmp_path / "run", overwrite=False)
    take(tmp_path / "run", overwrite=False).close()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=rf"{tmp_path}/run: cannot be locked: Function not .*--output"):
        take(tmp_path / "run", overwrite=False)


def test_a_full_disk_does_not_hide_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    arrived = Arrived(7, lambda: made_up_batch(SMALL), {"loss": math.nan, "grad_norm": 1.0})
    said = str(bad_batch.keep(tmp_path, arrived, [Path("data")]))
    assert "step 7: loss is nan" in said and "bad_batch_7.npz: No space left on device" in said
    assert not list(tmp_path.iterdir())


def test_the_best_is_the_lowest_loss_that_is_finite():
    best = None
    for step, loss in enumerate([math.nan, 2.0, -math.inf, 1.0, 3.0, math.inf, 1.0]):
        best = Best.of(best, step, loss)
        assert best is not None or step == 0
    assert best == Best(3, 1.0)
    assert Best.of(Best(1, math.nan), 2, 9.0) == Best(2, 9.0)  # of a run before this was so


def test_what_a_killed_process_had_begun_is_removed(tmp_path):
    for name in ("3", "6.partial", "4.removed"):
        (tmp_path / name).mkdir()
    (tmp_path / "3/config.json").write_text("{}")
    (tmp_path / ".last").symlink_to("3")
    take(tmp_path, overwrite=False).close()
    assert {path.name for path in tmp_path.iterdir()} == {"3", ".lock"}
    assert RunFolder(tmp_path).steps() == [3]


def test_the_last_the_best_and_multiples_of_a_period_are_kept():
    steps = [250, 500, 750, 1000, 1250]
    assert to_remove(steps, 1250, 250, None) == [500, 750, 1000]
    assert to_remove(steps, 1250, 750, 500) == [250]
    assert to_remove(steps, 1250, None, 5000) == [250, 500, 750, 1000]


# --- what it starts from ---

STATISTICS = {"state": NormStats(np.zeros(16), np.ones(16))}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A trained checkpoint without a progress head."""
    folder = tmp_path_factory.mktemp("base") / "base"
    model = MODEL.with_progress("none")
    save_checkpoint(folder, Checkpoint(CheckpointInfo(model, model_id="base"), random_model(model), STATISTICS))
    return folder


def test_a_head_that_nothing_teaches_is_left_out(base):
    model, said = effective_model(MODEL, "everything", 0.1, open_base(base), has_labels=False)
    assert model.progress.kind == "none" and "left out" in said
    model, said = effective_model(MODEL, "everything", 0.1, open_base(base), has_labels=True)
    assert model.progress.kind == "scalar" and "actions and progress" in said


def test_labels_without_a_head_are_passed_over_and_that_is_said():
    model, said = effective_model(MODEL.with_progress("none"), "everything", 0.1, None, has_labels=True)
    assert model.progress.kind == "none" and "has progress labels, but the model has no progress head" in said


def test_the_head_alone_needs_labels_and_a_model_around_it_that_stays_the_same(base):
    config = configuration("data", "out", checkpoint=base, trained="head")
    with pytest.raises(UserError, match="add_progress_labels"):
        check_labels("head", config.data, has_labels=False)
    own = (open_base(base), MODEL, config.data, PROFILE, config.tokenizer)
    assert differences(*own) == ""
    longer = dataclasses.replace(MODEL, action_horizon=5)
    assert differences(own[0], longer, *own[2:]) == "model.action_horizon is 5, there 4"
    table = dataclasses.replace(MODEL, vision="points", base_crop=(0.1, 0.0, 0.9, 1.0))
    assert differences(own[0], table, *own[2:]).startswith("model.base_crop is (0.1, 0.0, 0.9, 1.0), there (0.0, 0.0")
    other = differences(*own[:3], RobotProfile.load("teleavatar_v2"), own[4])
    assert other == "data.robot is teleavatar_v2, there teleavatar"


def test_positions_of_other_things_than_in_the_checkpoint_are_told(base):
    named = lambda *names: dataclasses.replace(MODEL, vision="points", positions=names)  # noqa: E731
    opened, config = open_base(base), configuration("data", "out")
    learnt = dataclasses.replace(opened, info=dataclasses.replace(opened.info, model=named("red_cube", "basket")))
    rest = (config.data, PROFILE, config.tokenizer)
    assert differences(learnt, named("red_cube", "basket"), *rest) == ""
    swapped = differences(learnt, named("basket", "red_cube"), *rest)
    assert swapped == "model.positions is ('basket', 'red_cube'), there ('red_cube', 'basket')"


def test_other_statistics_than_the_checkpoint_s_are_told_with_the_way_to_take_its_own(base):
    opened, start = open_base(base), Start(None, None, None, {}, [])
    assert len(start_notes(start, opened, "", STATISTICS)) == 1
    moved = {"state": NormStats(np.full(16, 0.1), np.ones(16)), "actions": STATISTICS["state"]}
    [_, note] = start_notes(start, opened, "", moved)
    assert "state are normalised by other statistics than in that checkpoint" in note
    assert f"--data.norm_stats={opened.folder}" in note
    [_, note] = start_notes(start, opened, "model.action_horizon is 5, there 4", STATISTICS)
    assert note.endswith("other settings: model.action_horizon is 5, there 4")


def test_positions_that_nothing_teaches_are_told():
    model = dataclasses.replace(MODEL, vision="points", positions=("red_cube", "basket"))
    assert position_notes(model, taught=True) == position_notes(MODEL, taught=False) == []
    assert "nothing teaches where red_cube, basket are" in position_notes(model, taught=False)[0]


def test_a_missing_checkpoint_is_told_with_what_one_is(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing: no such folder; a checkpoint is a folder"):
        open_base(tmp_path / "nothing")
