"""Small data sets for tests: LeRobot's own from ``data/lerobot_v30``, and made-up ones of joints without videos."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from places import DATA

from training.datasets import layout
from training.datasets.progress_meta import EpisodeMeta, Milestone, Outcome, ProgressMeta, save_progress_meta
from training.datasets.statistics import feature_stats, flattened, pool_episodes, save_stats

LEROBOT = DATA / "lerobot_v30"
TWO_TASKS, MERGED = LEROBOT / "two_tasks", LEROBOT / "merged"


def lerobot_copy(folder: Path, name: str = "two_tasks") -> Path:
    """A copy of one of LeRobot's data sets that a test may change."""
    return Path(shutil.copytree(LEROBOT / name, folder / name))


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def facts(root: Path, **episodes: tuple[str, dict[str, int] | list[tuple[str, int]]]) -> None:
    """Write outcomes and milestones: ``e0=("SUCCESS", {"lifted": 3})``, or pairs where a label comes twice."""
    known = {}
    for name, (outcome, marks) in episodes.items():
        pairs = marks.items() if isinstance(marks, dict) else marks
        known[int(name[1:])] = EpisodeMeta(Outcome(outcome), tuple(Milestone(*pair) for pair in pairs))
    save_progress_meta(root, ProgressMeta(known))


def make_dataset(root: Path, states, *, actions=None, fps=10, tasks=None, per_file=2) -> Path:
    """A data set of joints without videos.

    Args:
        root: a folder that is not there yet.
        states: per episode (n, d).
        actions: per episode (n, d); the states if None.
        fps: frames per second.
        tasks: per episode; all the same if None.
        per_file: episodes per data file.
    """
    actions = states if actions is None else actions
    tasks = ["do it"] * len(states) if tasks is None else tasks
    names = list(dict.fromkeys(tasks))
    joints = [f"joint{i}" for i in range(np.shape(states[0])[1])]
    features = {layout.STATE: layout.vector(joints), layout.ACTION: layout.vector(joints), **layout.DEFAULT_FEATURES}
    schema = layout.arrow_schema(features)
    rows, all_stats, first = [], [], 0
    for file in range(0, len(states), per_file):
        path = root / layout.DATA_PATH.format(chunk_index=0, file_index=file // per_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, schema) as writer:
            for index in range(file, min(file + per_file, len(states))):
                n = len(states[index])
                values = {
                    layout.STATE: np.asarray(states[index], np.float32),
                    layout.ACTION: np.asarray(actions[index], np.float32),
                    "timestamp": (np.arange(n) / fps).astype(np.float32),
                    "frame_index": np.arange(n),
                    "episode_index": np.full(n, index),
                    "index": first + np.arange(n),
                    "task_index": np.full(n, names.index(tasks[index])),
                }
                columns = [
                    pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), v.shape[1]) if v.ndim == 2 else pa.array(v)
                    for v in values.values()
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                all_stats.append({name: feature_stats(v) for name, v in values.items()})
                rows.append(
                    {"episode_index": index, "tasks": [tasks[index]], "length": n, "data/chunk_index": 0,
                     "data/file_index": file // per_file, "dataset_from_index": first,
                     "dataset_to_index": first + n} | flattened(all_stats[-1])
                )  # fmt: skip
                first += n
    path = root / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    pq.write_table(layout.tasks_table(names), root / layout.TASKS)
    save_stats(root, pool_episodes(all_stats))
    info = layout.info(features, fps=fps, robot_type=None, total_episodes=len(states), total_frames=first,
                       total_tasks=len(names))  # fmt: skip
    (root / layout.INFO).write_text(json.dumps(info))
    return root
