"""Data sets of LeRobot v2.1: refused with the command that converts them, and usable after it has run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import ROOT
from small_datasets import TWO_TASKS, tree

from pi05_progress.units.normalize import load_norm_stats
from training.add_progress_labels import LabelOptions, add_progress_labels
from training.compute_norm_stats import StatisticsOptions, compute_norm_stats
from training.datasets import layout
from training.datasets.frames import FrameReader
from training.datasets.reader import DatasetError, open_dataset
from training.datasets.statistics import feature_stats
from training.inspect_dataset import InspectOptions, inspect_dataset

DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
COMMAND = r"python -m lerobot\.scripts\.convert_dataset_v21_to_v30 .*?--push-to-hub=false"
TAKEN = (0, 1, 3)  # of two_tasks; LeRobot's converter cannot join H.264 videos of a single frame, as episode 2 has
LENGTHS = (12, 30, 21)


def as_v21(root: Path, version="v2.1") -> Path:
    """``two_tasks`` as LeRobot 0.3 laid data sets out: a file per episode, metadata in JSON lines."""
    dataset = open_dataset(TWO_TASKS)
    (root / "meta").mkdir(parents=True)
    stats = pq.read_table(TWO_TASKS / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    lines = {"episodes": [], "episodes_stats": [], "tasks": []}
    for index, task in enumerate(dataset.tasks):
        lines["tasks"].append({"task_index": index, "task": task})
    first = 0
    for index, number in enumerate(TAKEN):
        episode, source = dataset.episodes[number], dataset.data_files()[number]  # a file each
        place = {"episode_chunk": 0, "episode_index": index}
        target = root / DATA.format(**place)
        target.parent.mkdir(parents=True, exist_ok=True)
        table = pq.read_table(source)
        described = json.loads(table.schema.metadata[b"huggingface"])
        for feature in described["info"]["features"].values():
            if feature["_type"] == "List":
                feature["_type"] = "Sequence"  # what it was called then
        numbers = {"episode_index": np.full(len(table), index), "index": first + np.arange(len(table))}
        for name, values in numbers.items():
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(described)}), target)
        for key, span in episode.videos.items():
            assert span.from_s == 0
            video = root / VIDEO.format(video_key=key, **place)
            video.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(span.path, video)
        lines["episodes"].append({"episode_index": index, "tasks": list(episode.tasks), "length": episode.length})
        keys = ("min", "max", "mean", "std", "count")
        own = {name: {key: stats[number][f"stats/{name}/{key}"] for key in keys} for name in dataset.features}
        for name, values in numbers.items():
            own[name] = {key: feature_stats(values)[key].tolist() for key in keys}
        lines["episodes_stats"].append({"episode_index": index, "stats": own})
        first += len(table)
    for name, of_file in lines.items():
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in of_file))
    info = {k: v for k, v in dataset.info.items() if not k.endswith("_size_in_mb")} | {
        "codebase_version": version,
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_videos": len(LENGTHS) * len(dataset.cameras),
        "total_chunks": 1,
        "chunks_size": 1000,
        "data_path": DATA,
        "video_path": VIDEO,
        "splits": {"train": f"0:{len(LENGTHS)}"},
    }
    (root / layout.INFO).write_text(json.dumps(info, indent=4))
    return root


def tools(root, out):
    """Every tool on a data set, as (name, call)."""
    return [
        ("label", lambda: add_progress_labels(LabelOptions(root, out / "labelled"))),
        ("statistics", lambda: compute_norm_stats(StatisticsOptions((root,), output=out / "norm_stats.json"))),
        ("inspect", lambda: inspect_dataset(InspectOptions(root, output=out / "page.html"))),
    ]


def test_every_tool_refuses_it_with_the_command_that_converts_it(tmp_path):
    root = as_v21(tmp_path / "my set")
    before = tree(root)
    for _, call in tools(root, tmp_path):
        with pytest.raises(DatasetError, match=r"codebase_version is v2\.1, needed is v3\.0") as refused:
            call()
        command = re.search(COMMAND, str(refused.value))
        as_documented = command[0].replace("local/my_set", "local/NAME").replace(shlex.quote(str(root)), "FOLDER")
        assert as_documented in (ROOT / "docs/convert.md").read_text()
        assert set(shlex.split(command[0])) >= {"--repo-id=local/my_set", f"--root={root}"}
    assert tree(root) == before and [path.name for path in tmp_path.iterdir()] == ["my set"]


@pytest.mark.parametrize(("version", "advice"), [("v2.0", "to v2.1 with"), ("v1.6", "to v2.1 with"), ("v4.0", "newer")])
def test_other_versions_are_refused_with_what_helps(tmp_path, version, advice):
    root = as_v21(tmp_path / "set", version)
    with pytest.raises(DatasetError, match=rf"codebase_version is {version}.*{advice}"):
        open_dataset(root)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_after_lerobots_own_converter_every_tool_works_on_it(tmp_path):
    """The command is the one that the refusal names."""
    pytest.importorskip("lerobot.datasets")
    root = as_v21(tmp_path / "my set")
    before = tree(root)
    with pytest.raises(DatasetError) as refused:
        open_dataset(root)
    command = re.search(COMMAND, str(refused.value))[0]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | offline,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert tree(tmp_path / "my set_old") == before
    assert pq.read_schema(root / "data/chunk-000/file-000.parquet").metadata.keys() == {b"pandas"}

    for _, call in tools(root, tmp_path):
        call()
    out = tmp_path / "labelled"
    dataset, original = open_dataset(out), open_dataset(TWO_TASKS)
    taken = [original.episodes[number] for number in TAKEN]
    assert [(e.length, e.tasks) for e in dataset.episodes] == [(e.length, e.tasks) for e in taken]
    found = {e.index: of for e, of in dataset.frames([layout.STATE, layout.PROGRESS_COLUMN, layout.VALID_COLUMN])}
    expected = {e.index: of[layout.STATE] for e, of in original.frames([layout.STATE])}
    pictures, originals = FrameReader(dataset.fps), FrameReader(original.fps)
    for index, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(found[index][layout.STATE], expected[TAKEN[index]])
        np.testing.assert_allclose(found[index][layout.PROGRESS_COLUMN], np.linspace(0, 1, length), atol=1e-6)
        for camera in dataset.cameras:
            for frame in range(length):
                old = originals.read(taken[index].videos[camera], frame)
                np.testing.assert_array_equal(pictures.read(dataset.episodes[index].videos[camera], frame), old)
    arms = np.concatenate([expected[number] for number in TAKEN])[:, [*range(7), *range(8, 15)]]
    stats = load_norm_stats(tmp_path / "norm_stats.json")["state"]
    np.testing.assert_allclose(stats.mean, arms.mean(axis=0, dtype=float), atol=1e-6)
    assert (tmp_path / "page.html").stat().st_size > 10_000

    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    loaded = LeRobotDataset("local/labelled", root=out, video_backend="pyav")
    assert len(loaded) == sum(LENGTHS) and loaded[11][layout.PROGRESS_COLUMN].item() == 1
    assert loaded[41]["observation.images.head_camera"].shape == (3, 32, 32)
