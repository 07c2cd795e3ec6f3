"""Makes the data sets in ``lerobot_v30/`` with LeRobot 0.6.1 itself; run it in an environment of LeRobot's own.

    pip install "lerobot[dataset]==0.6.1"; python test/data/make_lerobot_v30.py

``two_tasks``: four episodes (12, 30, 1 and 21 frames) of two tasks, 48 numbers of state and action, three cameras of
32x32, each episode in data and video files of its own. ``merged``: 9, 7 and 5 frames of six joints, no pictures, put
together by LeRobot's merge_datasets, which writes Parquet without the ``huggingface`` key.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import numpy as np
from lerobot.configs import RGBEncoderConfig
from lerobot.datasets.dataset_tools import merge_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset

HERE = Path(__file__).parent / "lerobot_v30"
FPS = 10
LENGTHS = (12, 30, 1, 21)
TASKS = ("put the block into the basket", "stack the cubes")
CAMERAS = ("left_color", "right_color", "head_camera")
NAMES = [f"{side}_{part}.{what}" for what in ("pos", "vel", "eff") for side in ("left", "right") for part in (*(f"joint{j}" for j in range(1, 8)), "gripper")]  # fmt: skip  # noqa: E501
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (48,), "names": NAMES},
    "action": {"dtype": "float32", "shape": (48,), "names": NAMES},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    **{
        f"observation.images.{c}": {"dtype": "video", "shape": (32, 32, 3), "names": ["height", "width", "channels"]}
        for c in CAMERAS
    },
}


def frame(episode: int, index: int, length: int) -> dict:
    """Joints on sine waves with a pause in the middle third; pictures whose brightness tells the frame."""
    phase = index / max(length - 1, 1)
    moved = phase if phase < 1 / 3 else 1 / 3 if phase < 2 / 3 else phase - 1 / 3
    position = 0.3 * np.sin(2 * moved + np.arange(16) / 5 + episode)
    state = np.concatenate([position, 0.1 * np.cos(position), 0.05 * position]).astype(np.float32)
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[: 4 + index % 28, :, episode % 3] = 90 + 5 * (index % 30)
    return {
        "observation.state": state,
        "action": state + np.float32(0.01),
        "next.done": np.array([index == length - 1]),
        "next.success": np.array([index == length - 1]),
        **{f"observation.images.{c}": np.roll(picture, 8 * i, axis=1) for i, c in enumerate(CAMERAS)},
        "task": TASKS[episode % 2],
    }


def make(root: Path, lengths: Sequence[int], features: dict[str, dict]) -> LeRobotDataset:
    """A data set of episodes with so many frames, whose every episode begins data and video files of its own."""
    encoder = RGBEncoderConfig(vcodec="h264", crf=30)
    name = f"local/{root.name}"
    dataset = LeRobotDataset.create(name, FPS, features, root=root, rgb_encoder=encoder, robot_type="teleavatar")
    dataset.meta.info.data_files_size_in_mb = dataset.meta.info.video_files_size_in_mb = 1e-6
    for episode, length in enumerate(lengths):
        for index in range(length):
            values = frame(episode, index, length)
            values |= {key: values[key][: features[key]["shape"][0]] for key in ("observation.state", "action")}
            dataset.add_frame({key: value for key, value in values.items() if key in features or key == "task"})
        dataset.save_episode()
    dataset.finalize()
    return LeRobotDataset(name, root=root, video_backend="pyav")


def main() -> None:
    """Write both data sets anew."""
    shutil.rmtree(HERE, ignore_errors=True)
    make(HERE / "two_tasks", LENGTHS, FEATURES)
    joints = {key: {"dtype": "float32", "shape": (6,), "names": NAMES[:6]} for key in ("observation.state", "action")}
    with tempfile.TemporaryDirectory() as folder:
        parts = [make(Path(folder) / name, lengths, joints) for name, lengths in (("a", (9,)), ("b", (7, 5)))]
        merge_datasets(parts, output_repo_id="local/merged", output_dir=HERE / "merged")


if __name__ == "__main__":
    main()
