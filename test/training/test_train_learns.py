"""Training learns: both losses fall on recordings of the simulated robot, from bags on, whatever the seed."""

import dataclasses
import subprocess
import sys

import pytest
from training_runs import configuration, rows

from training.add_progress_labels import LabelOptions, add_progress_labels
from training.engine.loss import LossConfig
from training.engine.optimizer import OptimizerConfig
from training.loading.config import DataConfig
from training.train import train

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_training")]
STEPS = 450


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three labelled episodes of the simulation, ten frames per second."""
    folder = tmp_path_factory.mktemp("simulated")
    made = ["--task", "place_in_basket", "--episodes", "3", "--image-scale", "0.05", "--out", folder / "bags"]
    converted = ["--input", folder / "bags", "--output", folder / "data", "--fps", "10"]
    for module, arguments in (("pi05_progress_ros.sim.generate", made), ("training.convert_rosbags", converted)):
        subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)
    add_progress_labels(LabelOptions(folder / "data", folder / "labelled"))
    return folder / "labelled"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_losses_fall(data, tmp_path, seed):
    optimizer = OptimizerConfig(schedule="constant", peak_learning_rate=5e-3, warmup_steps=20, ema_decay=None)
    config = configuration(
        data, tmp_path, seed=seed, batch_size=16, num_train_steps=STEPS, log_interval=STEPS // 6, validation_interval=0,
        save_interval=STEPS, optimizer=optimizer, loss=LossConfig(progress_weight=1.0),
    )  # fmt: skip
    train(dataclasses.replace(config, data=DataConfig(repo_id=str(data), cache=data.parent / "cache")))
    logged = rows(config.output / config.name / config.exp_name / "metrics.csv")
    first, last = logged[0], logged[-1]
    assert len(logged) == 6 and last["step"] == str(STEPS)
    assert float(last["action_loss"]) < 0.8 * float(first["action_loss"])
    assert float(last["progress_loss"]) < 0.8 * float(first["progress_loss"])
