"""Opening and streaming data sets: LeRobot's own, and damaged ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import MERGED, TWO_TASKS, lerobot_copy, make_dataset

from pi05_progress.errors import UserError
from training.datasets import layout
from training.datasets.frames import FrameReader
from training.datasets.progress_meta import (
    EpisodeMeta,
    Labels,
    Milestone,
    Outcome,
    ProgressMeta,
    Stage,
    load_progress_meta,
    save_progress_meta,
)
from training.datasets.reader import ROWS, DatasetError, named_folders, open_dataset
from training.datasets.statistics import KEYS, feature_stats, pool_episodes


def test_metadata_of_lerobots_data_set():
    dataset = open_dataset(TWO_TASKS)
    assert dataset.fps == 10 and dataset.frame_count == 64
    assert dataset.tasks == ("put the block into the basket", "stack the cubes")
    assert [(e.index, e.length, e.task) for e in dataset.episodes] == [
        (i, n, dataset.tasks[i % 2]) for i, n in enumerate((12, 30, 1, 21))
    ]
    assert dataset.cameras == [f"observation.images.{c}" for c in ("left_color", "right_color", "head_camera")]
    span = dataset.episodes[1].videos["observation.images.right_color"]
    assert span.path.is_file() and span.path.name == "file-001.mp4" and (span.from_s, span.to_s) == (0, 3)


@pytest.mark.parametrize("root", [TWO_TASKS, MERGED])
def test_frames_come_as_lerobot_wrote_them(root):
    names = ["observation.state", "action", "timestamp", "episode_index", "index", "task_index"]
    first = 0
    for episode, columns in open_dataset(root).frames(names):
        n = episode.length
        assert columns["observation.state"].shape == (n, 48 if root == TWO_TASKS else 6)
        np.testing.assert_allclose(columns["action"] - columns["observation.state"], 0.01, atol=1e-6)
        np.testing.assert_allclose(columns["timestamp"], np.arange(n) / 10, atol=1e-6)
        assert (columns["episode_index"] == episode.index).all()
        assert columns["index"].tolist() == list(range(first, first + n))
        first += n
    assert first == open_dataset(root).frame_count


def test_only_some_episodes():
    found = [e.index for e, _ in open_dataset(TWO_TASKS).frames(["timestamp"], episodes={1, 3})]
    assert found == [1, 3]


def test_statistics_are_those_that_lerobot_wrote():
    def compare(name, ours, theirs):
        bin_width = np.ptp([ours["min"], ours["max"]], axis=0).max() / 5000
        for key in KEYS:  # LeRobot's deviations lose digits in float32, its bins' edges are float32
            atol = 1e-6 + bin_width if key.startswith("q") else 1e-5 if key == "std" else 1e-6
            np.testing.assert_allclose(ours[key], theirs[key], 1e-6, atol, err_msg=f"{name} {key}")

    dataset = open_dataset(TWO_TASKS)
    names = ["observation.state", "next.done", "timestamp", "index"]
    row = pq.read_table(TWO_TASKS / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    ours = []
    for episode, columns in dataset.frames(names):
        ours.append({name: feature_stats(columns[name]) for name in names})
        for name in names:
            compare(name, ours[-1][name], {key: row[episode.index][f"stats/{name}/{key}"] for key in KEYS})
    stored = json.loads((TWO_TASKS / layout.STATS).read_text())
    for name, of in pool_episodes(ours).items():
        compare(name, of, stored[name])


def test_an_episode_longer_than_what_is_read_at_a_time_and_one_row_group_for_all(tmp_path):
    lengths = (3 * ROWS + 5, 7, ROWS)
    root = make_dataset(tmp_path / "d", [np.full((n, 2), i) for i, n in enumerate(lengths)], per_file=3)
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path), path)  # as pandas leaves it
    assert pq.ParquetFile(path).num_row_groups == 1
    found = [(e.index, len(c["observation.state"])) for e, c in open_dataset(root).frames(["observation.state"])]
    assert found == list(enumerate(lengths))


def test_schema_and_tasks_are_what_lerobot_writes():
    info = json.loads((TWO_TASKS / layout.INFO).read_text())
    theirs = pq.read_schema(TWO_TASKS / "data/chunk-000/file-000.parquet")
    ours = layout.arrow_schema(info["features"])
    assert ours.equals(theirs)
    described = [json.loads(s.metadata[b"huggingface"])["info"]["features"] for s in (ours, theirs)]
    assert described[0] == described[1]
    tasks = pq.read_table(TWO_TASKS / layout.TASKS)
    made = layout.tasks_table(tasks["task"].to_pylist())
    assert made.equals(tasks)
    pandas = [json.loads(t.schema.metadata[b"pandas"]) for t in (made, tasks)]
    assert pandas[0]["index_columns"] == pandas[1]["index_columns"] and pandas[0]["columns"] == pandas[1]["columns"]


VIDEO = "videos/observation.images.head_camera/chunk_index"


def episodes(change):
    def spoil(root):
        path = root / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
        rows = pq.read_table(path).to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows), path)

    return spoil


def tasks(indices, name="task"):
    def spoil(root):
        table = pq.read_table(root / layout.TASKS)
        pq.write_table(pa.table({"task_index": indices, name: table["task"]}), root / layout.TASKS)

    return spoil


def test_tasks_whose_column_has_no_name_are_read_as_lerobot_does(tmp_path):
    root = lerobot_copy(tmp_path)
    tasks([1, 0], "__index_level_0__")(root)  # as LeRobot's converter from v2.1 leaves them
    assert open_dataset(root).tasks == open_dataset(TWO_TASKS).tasks[::-1]


def test_folders_whose_names_have_commas_and_colons(tmp_path, monkeypatch):
    monkeypatch.chdir(lerobot_copy(tmp_path).rename(tmp_path / "run:1, cut").parent)
    assert named_folders("a, run:1, cut ,b,,c") == ["a", "run:1, cut", "b", "c"]
    dataset = open_dataset(Path("run:1, cut"))  # not an address, as pyarrow and FFmpeg would have it
    assert len(list(dataset.frames([layout.STATE]))) == 4
    with FrameReader(dataset.fps) as pictures:
        assert pictures.read(dataset.episodes[1].videos[dataset.cameras[0]], 3).ndim == 3


def spoil_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: shutil.rmtree(r), "no such folder"),
        (lambda r: (r / layout.INFO).unlink(), "not a LeRobot data set, meta/info.json is missing"),
        (lambda r: (r / layout.INFO).write_text("{"), "info.json: cannot be read"),
        (lambda r: spoil_json(r / layout.INFO, codebase_version="v2.1"), "convert_dataset_v21_to_v30"),
        (lambda r: spoil_json(r / layout.INFO, fps=0), "info.json: fps: .* greater than 0 .found 0."),
        (lambda r: spoil_json(r / layout.INFO, fps="10"), "info.json: fps: .* valid number .found '10'."),
        (lambda r: spoil_json(r / layout.INFO, features=3), "info.json: features: .* dictionary"),
        (lambda r: spoil_json(r / layout.INFO, video_path=None), "info.json: video_path is missing"),
        (lambda r: (r / layout.INFO).write_bytes(b"version https://git-lfs.github.com/spec/v1"), "info.*git lfs pull"),
        (episodes(lambda rows: rows[2].update({VIDEO: None})), f"{VIDEO} of episode 2 is missing"),
        (
            episodes(lambda rows: rows[2].update(length=0)),
            "length of episode 2 is missing or 0; .*lerobot-edit-dataset",
        ),
        (episodes(lambda rows: rows.pop(1)), r"episode_index is \[0, 2, 3\], .* without gaps; .*lerobot-edit-dataset"),
        (tasks([0, 2]), r"tasks.parquet: task_index is \[0, 2\], expected 0 to 1 without gaps; .*lerobot-edit-dataset"),
        (lambda r: spoil_json(r / layout.INFO, total_frames=65), "4 episodes with 64 frames.* says 4 and 65"),
        (lambda r: (r / layout.TASKS).unlink(), "tasks.parquet: is missing"),
        (lambda r: (r / layout.TASKS).write_bytes(b"PAR1"), "tasks.parquet: not a readable Parquet file"),
        (lambda r: (r / layout.TASKS).write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda r: shutil.rmtree(r / layout.EPISODES), "meta/episodes: no Parquet files"),
    ],
)
def test_damaged_metadata_is_named(tmp_path, spoil, message):
    root = lerobot_copy(tmp_path)
    spoil(root)
    with pytest.raises(DatasetError, match=message) as error:
        open_dataset(root)
    assert str(root) in str(error.value)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(change):
    def spoil(path):
        pq.write_table(change(pq.read_table(path)), path)

    return spoil


def column(name, values):
    return rewritten(lambda t: t.set_column(t.column_names.index(name), name, pa.array(values)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (half, "not a readable Parquet file"),
        (rewritten(lambda t: t.slice(1)), "episode 1 has 29 rows with frame_index 1 to 29, expected 0 to 29"),
        (rewritten(lambda t: t.take(list(range(29, -1, -1)))), "frame_index 29 to 0"),
        (rewritten(lambda t: t.drop(["action"])), "no column action, which meta/info.json promises"),
        (column("episode_index", [9] * 30), "rows of episode 9, which"),
        (column("action", [[1.0]] * 28 + [[1.0, 2.0], []]), r"expected lists of one length .* lengths \[1, 2, 0\]"),
        (column("action", [[1.0]] * 29 + [[1.0, 2.0]]), "expected lists of one length"),
        (column("action", pa.nulls(30, pa.float32())), "30 empty values"),
    ],
)
def test_damaged_data_is_named(tmp_path, spoil, message):
    root = lerobot_copy(tmp_path)
    path = root / "data/chunk-000/file-001.parquet"
    spoil(path)
    with pytest.raises(DatasetError, match=message) as error:
        list(open_dataset(root).frames(["observation.state", "action"]))
    assert str(path) in str(error.value)


def test_a_feature_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(DatasetError, match=r"no feature reward; it has observation\.state, action"):
        list(open_dataset(TWO_TASKS).frames(["reward"]))


def test_what_is_known_of_episodes_survives_the_file(tmp_path):
    episode = EpisodeMeta(Outcome.FAILURE, (Milestone("a", 3), Milestone("a", 9)), "dropped", "bag 7")
    labels = Labels("milestone", {"failures": "unlabelled"}, {"progress": "p"}, {"t": (Stage("a", 0.25),)})
    meta = ProgressMeta({4: episode}, labels)
    save_progress_meta(tmp_path, meta)
    assert load_progress_meta(tmp_path) == meta
    assert load_progress_meta(tmp_path).episode(0) == EpisodeMeta()
    assert load_progress_meta(tmp_path / "nothing") == ProgressMeta()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ('{"version": 99, "episodes": []}', "version 99 is newer"),
        ('{"version": 1, "episodes": [{"episode_index": 0, "outcome": "MAYBE"}]}', "not a progress.json.*MAYBE"),
        ('{"version": 1, "episodes": [{"episode_index": 0}, {"episode_index": 0}]}', "episode 0 is there twice"),
        ('{"version": 1}', "not a progress.json.*episodes"),
    ],
)
def test_a_wrong_progress_file_is_named(tmp_path, text, message):
    path = tmp_path / layout.PROGRESS
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_progress_meta(tmp_path)
    assert str(path) in str(error.value)


def test_episodes_whose_file_is_missing_are_named_at_the_end(tmp_path):
    root = make_dataset(tmp_path / "d", [np.zeros((3, 2))] * 7)
    for name in ("file-001.parquet", "file-003.parquet"):  # episodes 2 and 3, and 6
        (root / "data/chunk-000" / name).unlink()
    dataset, seen = open_dataset(root), []
    with pytest.raises(DatasetError, match=r"no rows of 3 of 7 episodes \(2, 3, 6\); a file is missing"):
        seen += (episode.index for episode, _ in dataset.frames([layout.STATE]))
    assert [episode.index for episode, _ in dataset.frames([layout.STATE], [1, 4])] == [1, 4]
    with pytest.raises(DatasetError, match=r"episodes \(2\)"):
        list(dataset.frames([layout.STATE], [1, 2]))


def test_an_episode_that_is_there_twice_is_refused(tmp_path):
    root = make_dataset(tmp_path / "d", [np.zeros((3, 2))] * 4)
    shutil.copyfile(root / "data/chunk-000/file-000.parquet", root / "data/chunk-000/file-002.parquet")
    with pytest.raises(DatasetError, match=r"file-002\.parquet: rows of episode 0 are there twice"):
        list(open_dataset(root).frames([layout.STATE]))
