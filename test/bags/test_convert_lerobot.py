"""Converted data sets in LeRobot's own hands: loading, visualising, splitting, training. Needs LeRobot; long."""

import os
import subprocess
import sys

import numpy as np
import pytest
from convert_recordings import number_of, recording, write_bag
from convert_results import convert

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "disabled"}
TOOL = [sys.executable, "-m"]


@pytest.fixture(scope="module", autouse=True)
def lerobot():
    """LeRobot, told not to look for anything elsewhere."""
    os.environ.update(OFFLINE)
    return pytest.importorskip("lerobot.datasets.lerobot_dataset")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A converted data set of three episodes, two tasks."""
    folder = tmp_path_factory.mktemp("converted")
    for i in range(3):
        write_bag(folder / "bags" / f"bag_{i}", recording(2.0, first=100 * i, size=(96, 128)))
    return convert(folder / "ds", folder / "bags")


def load(lerobot, root, **options):
    return lerobot.LeRobotDataset("local/converted", root=root, video_backend="pyav", **options)


def lerobot_tool(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    result = subprocess.run([*TOOL, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]


def test_lerobot_loads_every_frame_as_it_was_recorded(lerobot, run):
    dataset = load(lerobot, run.root, delta_timestamps={"action": [i / 30 for i in range(10)]})
    assert (len(dataset), dataset.num_episodes) == (180, 3)
    state, action = run.column("observation.state"), run.column("action")
    pictures = {camera: run.images(camera) for camera in ("head_camera", "left_color", "right_color")}
    for index in (*range(0, 180, 7), 59, 60, 119, 120, 179):
        item = dataset[index]
        assert np.array_equal(item["observation.state"].numpy(), state[index])
        assert np.array_equal(item["action"][0].numpy(), action[index])
        assert bool(item["next.done"]) == (index % 60 == 59) and item["task"] == "stack"
        for camera, frames in pictures.items():
            image = (item[f"observation.images.{camera}"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            assert number_of(image) == 100 * (index // 60) + index % 60, (camera, index)
            assert np.abs(image.astype(int) - frames[index].astype(int)).max() <= 1
    assert np.allclose(dataset.meta.stats["observation.state"]["mean"], state.mean(0), atol=1e-5)


def test_its_visualiser_saves_an_episode(run, tmp_path):
    pytest.importorskip("rerun")
    lerobot_tool(
        "lerobot.scripts.lerobot_dataset_viz", "--repo-id", "local/converted", "--root", run.root, "--episode-index", 1,
        "--save", 1, "--output-dir", tmp_path, "--num-workers", 0,
    )  # fmt: skip
    assert [p.suffix for p in tmp_path.iterdir()] == [".rrd"]


def test_its_edit_tool_splits_it_and_no_frame_changes_its_place(lerobot, run, tmp_path):
    lerobot_tool(
        "lerobot.scripts.lerobot_edit_dataset", "--repo_id", "local/converted", "--root", run.root,
        "--new_root", tmp_path / "parts", "--operation.type", "split",
        "--operation.splits", '{"train": [0, 2], "val": [1]}',
    )  # fmt: skip
    roots = sorted(p.parent.parent for p in tmp_path.rglob("meta/info.json"))
    assert len(roots) == 2
    for root, first in zip(roots, ([0, 200], [100]), strict=True):
        dataset = load(lerobot, root)
        assert dataset.num_episodes == len(first)
        for index in range(0, len(dataset), 13):
            image = dataset[index]["observation.images.left_color"].permute(1, 2, 0).numpy() * 255
            assert number_of(image) == first[index // 60] + index % 60


def test_a_small_act_policy_takes_steps_on_it(run, tmp_path):
    lerobot_tool(
        "lerobot.scripts.lerobot_train", "--dataset.repo_id=local/converted", f"--dataset.root={run.root}",
        "--dataset.video_backend=pyav", "--policy.type=act", "--policy.device=cpu", "--policy.push_to_hub=false",
        "--policy.chunk_size=10", "--policy.n_action_steps=10", "--policy.dim_model=64", "--policy.n_heads=2",
        "--policy.dim_feedforward=64", "--policy.n_encoder_layers=1", "--policy.pretrained_backbone_weights=null",
        "--batch_size=2", "--steps=3", "--num_workers=0", "--save_checkpoint=false", "--wandb.enable=false",
        f"--output_dir={tmp_path / 'run'}", "--log_freq=1",
    )  # fmt: skip
