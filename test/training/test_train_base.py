"""Runs that start from a checkpoint: what they train changes, and every other bit stays."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from small_loading import labelled
from training_runs import ADAPTED_MODEL, MODEL, run

from pi05_progress.checkpoints.checkpoint import load_checkpoint
from pi05_progress.checkpoints.checkpoint_error import CheckpointError
from pi05_progress.errors import UserError
from pi05_progress.models.lora import is_adapter
from pi05_progress.models.parameters import HEAD, parameter_paths
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import save_norm_stats
from training.datasets.reader import open_dataset
from training.engine.optimizer import OptimizerConfig
from training.loading.norm_stats import compute

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_training")]  # three models are compiled
QUICK = {"num_train_steps": 2, "save_interval": 2, "validation_interval": 0}
WITHOUT_AVERAGE = OptimizerConfig(schedule="constant", peak_learning_rate=1e-2, warmup_steps=1, ema_decay=None)


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    """The checkpoint of a run that trained everything from scratch."""
    folder, _ = run(data, tmp_path_factory.mktemp("base"), **QUICK)
    return folder / "2"


def parameters(checkpoint):
    return {path: np.asarray(leaf) for path, leaf in parameter_paths(load_checkpoint(checkpoint).model).items()}


def same_bits(one, other):
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def test_training_the_head_changes_the_head_and_no_other_bit(data, base, tmp_path):
    folder, _ = run(data, tmp_path, checkpoint=base, trained="head", **QUICK)
    before, after = parameters(base), parameters(folder / "2")
    assert after.keys() == before.keys()
    changed = {path for path in after if not same_bits(after[path], before[path])}
    assert changed == {path for path in after if path.startswith(HEAD)} != set()


def test_the_head_is_trained_on_the_statistics_that_its_model_acts_by(data, base, tmp_path):
    own = compute([open_dataset(data)], RobotProfile.load("teleavatar"), horizon=50, relative=False)
    save_norm_stats(labelled(tmp_path / "labelled") / "norm_stats.json", own)  # would be taken otherwise
    folder, _ = run(tmp_path / "labelled", tmp_path / "runs", checkpoint=base, trained="head", **QUICK)
    before, after = (load_checkpoint(of).stats for of in (base, folder / "2"))
    assert not np.array_equal(before["actions"].mean, own["actions"].mean)
    for key in ("state", "actions"):
        for name, values in vars(before[key]).items():
            np.testing.assert_array_equal(getattr(after[key], name), values)


def test_what_is_frozen_by_its_path_stays_bit_by_bit_also_when_the_run_goes_on(data, base, tmp_path):
    frozen = {"checkpoint": base, "freeze": ("PaliGemma/img/.*",)}
    folder, _ = run(data, tmp_path, **frozen, **QUICK)
    before, between = parameters(base), parameters(folder / "2")
    run(data, tmp_path, **frozen, **QUICK | {"num_train_steps": 4}, resume=True)
    for one, other in ((before, between), (between, parameters(folder / "4"))):
        same = {path for path in one if same_bits(one[path], other[path])}
        assert same == {path for path in one if path.startswith("PaliGemma/img/")}


def test_training_adapters_leaves_the_experts_as_they_are_in_bfloat16(data, base, tmp_path):
    adapted = {"model": ADAPTED_MODEL, "optimizer": WITHOUT_AVERAGE}
    folder, _ = run(data, tmp_path, checkpoint=base, trained="adapters", **adapted, **QUICK)
    before, after = parameters(base), parameters(folder / "2")
    added = after.keys() - before.keys()
    assert added and all(is_adapter(path) for path in added) and before.keys() < after.keys()
    frozen = {path for path in before if path.startswith("PaliGemma/llm/")}
    for path in frozen:
        assert same_bits(after[path], before[path].astype(jnp.bfloat16)), path
    trained = before.keys() - frozen
    moved = {path for path in trained if not np.array_equal(after[path], before[path])}
    assert any(path.startswith(HEAD) for path in moved) and any(path.startswith("PaliGemma/img") for path in moved)
    assert any(np.any(after[path]) for path in added if path.endswith("lora_b"))  # 0 before the first step


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(MODEL, expert=dataclasses.replace(MODEL.expert, mlp_dim=16)),
        dataclasses.replace(MODEL, action_dim=18),
    ],
)
def test_the_checkpoint_of_another_model_is_refused_and_no_folder_is_left(data, base, tmp_path, other):
    with pytest.raises(CheckpointError, match=r"shape|expected"):
        run(data, tmp_path, checkpoint=base, model=other, **QUICK)
    assert not list(tmp_path.rglob("params"))


def test_training_the_head_of_a_model_that_acts_otherwise_is_refused(data, base, tmp_path):
    longer = dataclasses.replace(MODEL, action_horizon=5)
    with pytest.raises(UserError, match=r"model.action_horizon is 5, there 4"):
        run(data, tmp_path, checkpoint=base, trained="head", model=longer, **QUICK)


def test_a_checkpoint_that_is_not_there_is_refused(data, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        run(data, tmp_path, checkpoint=tmp_path / "nowhere", **QUICK)
