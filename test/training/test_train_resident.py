"""Training on samples that lie in the device's memory, several steps a call."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_datasets import TWO_TASKS
from small_loading import arrays, loader, take
from training_cases import made_up_batch, one_device
from training_runs import configuration, rows

from pi05_progress.errors import UserError
from training.engine.step import make_resident_steps
from training.loading.config import DataConfigError
from training.loading.loader import TrainLoader
from training.loading.mixture import Choices
from training.train import train

pytestmark = pytest.mark.usefixtures("quick_training")
EVERY_3 = {"log_interval": 3, "validation_interval": 3, "save_interval": 3}


def run(data, output, **fields):
    config = configuration(data, output, **{**EVERY_3, **fields})
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, resident=True))
    return config.output / config.name / config.exp_name, train(config)


def test_every_frame_is_chosen_once_an_epoch_and_is_the_sample_that_is_loaded_otherwise():
    with loader(TWO_TASKS, resident=True) as resident, loader(TWO_TASKS) as streaming:
        samples, held_out = resident.all_samples(), set(resident.held_out[0])
        frames = len(samples.origin)
        epochs = resident.choose(frames // 4 + 1).ravel()[: 2 * frames].reshape(2, frames)  # in batches of 8
        assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(frames))] * 2
        assert not np.array_equal(*epochs)
        assert not held_out & set(samples.origin[:, 1].tolist())
        where = {tuple(origin): row for row, origin in enumerate(samples.origin.tolist())}
        for batch in take(streaming, 3):
            at = [where[tuple(origin)] for origin in batch.origin.tolist()]
            for name, array in arrays(batch).items():
                np.testing.assert_array_equal(arrays(samples)[name][at], array, err_msg=name)


def test_weights_of_data_sets_hold_for_choices():
    chosen = [next(choices) for choices in [Choices([50, 900], (3, 1), batch_size=32, seed=0)] for _ in range(64)]
    assert all(np.sum(rows < 50) == 24 for rows in chosen)
    assert len(np.unique(chosen)) == 50 + 64 * 8 and np.max(chosen) < 950


def test_several_steps_a_call_are_the_same_steps_on_the_rows_that_are_chosen():
    samples = made_up_batch(rows=16)
    rows = np.array([[3, 1, 0, 7], [2, 15, 4, 3], [9, 8, 8, 1]], np.int32)

    @jax.jit
    def step(state, key, batch):
        first, number = batch.actions[0, 0, 0], state["step"]
        drawn = jax.random.normal(jax.random.fold_in(key, number))
        return {"step": number + 1, "sum": 0.5 * state["sum"] + drawn * batch.actions.sum()}, {"first": first}

    def taken(calls):
        state, metrics = {"step": jnp.int32(0), "sum": jnp.float32(1)}, []
        for call in calls:
            state, found = make_resident_steps(step, one_device())(state, jax.random.key(0), samples, call)
            metrics += np.asarray(found["first"]).tolist()
        return int(state["step"]), float(state["sum"]), metrics

    steps, total, metrics = taken([rows])
    assert (steps, metrics) == (3, samples.actions[rows[:, 0], 0, 0].tolist())
    assert taken(rows[:, None]) == (3, pytest.approx(total, rel=1e-6), metrics)


@pytest.mark.long  # compiles two steps of a model
def test_it_goes_on_exactly_and_several_steps_a_call_are_the_same_steps(data, tmp_path):
    one, ended = run(data, tmp_path / "one")
    assert ended == (6, "")
    given = TrainLoader.choose

    def stop_then(self, batches):
        os.kill(os.getpid(), signal.SIGTERM)
        return given(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainLoader, "choose", stop_then)
        assert run(data, tmp_path / "three")[1] == (1, "SIGTERM")  # which no number of threes is
        assert run(data, tmp_path / "three", steps_per_dispatch=3, resume=True)[1] == (3, "SIGTERM")
    three, ended = run(data, tmp_path / "three", steps_per_dispatch=3, resume=True)
    assert ended == (6, "")
    for log in ("metrics.csv", "validation.csv"):
        for row, other in zip(rows(one / log), rows(three / log), strict=True):
            assert {k: float(v) for k, v in row.items()} == pytest.approx({k: float(v) for k, v in other.items()}, 2e-3)


def test_what_does_not_go_with_it_is_refused(data, tmp_path):
    for wrong in ({"workers": 1}, {"reversed_clip": 0.1}, {"process": (0, 2)}):
        with pytest.raises(DataConfigError, match=r"data\.resident keeps the samples of one process"):
            loader(data, resident=True, **wrong)
    with pytest.raises(UserError, match=r"--steps_per_dispatch is 3, which needs --data\.resident"):
        train(configuration(data, tmp_path, steps_per_dispatch=3))
    with pytest.raises(UserError, match="--log_interval is 3; expected a multiple of --steps_per_dispatch, 2"):
        run(data, tmp_path, steps_per_dispatch=2)
