"""The labelling tool as a whole: what it writes, what it leaves alone, and what it refuses."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from labelled_datasets import columns, labelled, run, with_outcomes
from small_datasets import MERGED, TWO_TASKS, facts, make_dataset, tree

from pi05_progress.errors import UserError
from training.datasets import layout
from training.datasets.progress_meta import (
    EpisodeMeta,
    Milestone,
    Outcome,
    ProgressMeta,
    load_progress_meta,
    save_progress_meta,
)
from training.datasets.reader import open_dataset
from training.datasets.statistics import KEYS, QUANTILES
from training.labels.milestones import MilestoneError


def metadata(path):
    return pq.read_schema(path).metadata or {}


@pytest.fixture
def source(tmp_path):
    """LeRobot's data set with two successes (one of them with milestones), a failure and an unknown outcome."""
    return with_outcomes(tmp_path)


def test_every_frame_is_labelled_and_everything_else_is_as_it_was(source, tmp_path):
    out = labelled(source, tmp_path / "out", method="milestone", failures="last-milestone")
    for before, after in zip(open_dataset(source).data_files(), open_dataset(out).data_files(), strict=True):
        assert before.relative_to(source) == after.relative_to(out)
        old, new = pq.read_table(before), pq.read_table(after)
        assert new.select(old.column_names).equals(old)
        assert new.column_names[len(old.column_names) :] == [
            "observation.progress", "progress.valid", "progress.stage", "progress.seconds_remaining",
        ]  # fmt: skip
        assert [str(kind) for kind in new.schema.types[-4:]] == ["float", "bool", "int64", "float"]
        assert not any(new[name].null_count for name in new.column_names)
    progress, valid, stage, left = columns(out, *new.column_names[-4:])
    assert progress.dtype == np.float32 and np.isfinite(progress).all() and np.isfinite(left).all()
    episode = columns(out, "episode_index")[0]
    np.testing.assert_allclose(progress[episode == 0], np.interp(range(12), [0, 3, 9, 11], [0, 3 / 11, 9 / 11, 1]))
    assert not valid[episode == 2].any() and not progress[episode == 2].any() and (stage[episode == 2] == -1).all()
    assert progress[episode == 3][-1] == np.float32(10 / 29)
    assert left[episode == 1].tolist() == (np.arange(29, -1, -1) / 10).astype(np.float32).tolist()


def test_statistics_and_metadata_are_complete(source, tmp_path):
    out = labelled(source, tmp_path / "out")
    before, after = (json.loads((root / layout.INFO).read_text()) for root in (source, out))
    added = {"observation.progress": "float32", "progress.valid": "bool", "progress.seconds_remaining": "float32"}
    expected = {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in added.items()}
    assert after == {**before, "features": {**before["features"], **expected}}

    old, new = (json.loads((root / layout.STATS).read_text()) for root in (source, out))
    assert set(new) == set(after["features"]) and new == {**new, **old}
    progress, episode = columns(out, "observation.progress", "episode_index")
    assert new["observation.progress"]["count"] == [64]
    assert new["observation.progress"]["mean"] == pytest.approx([progress.mean()])
    assert new["observation.progress"]["std"] == pytest.approx([progress.std()])

    old, new = (pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet") for root in (source, out))
    assert new.select(old.column_names).equals(old)
    assert set(new.column_names) - set(old.column_names) == {f"stats/{n}/{key}" for n in added for key in KEYS}
    for index in range(4):
        own = progress[episode == index]
        for key in ("min", "max", "mean", "std"):
            assert new[f"stats/observation.progress/{key}"][index].as_py() == pytest.approx([getattr(own, key)()])

    described = json.loads(metadata(out / "data/chunk-000/file-001.parquet")[b"huggingface"])["info"]["features"]
    assert list(described) == pq.read_schema(out / "data/chunk-000/file-001.parquet").names
    assert described["progress.valid"] == {"dtype": "bool", "_type": "Value"}


def test_how_labels_were_made_is_recorded(source, tmp_path):
    out = labelled(source, tmp_path / "out", method="milestone", column="progress")
    meta = load_progress_meta(out)
    assert meta.labels.method == "milestone" and meta.labels.arguments == {"failures": "unlabelled", "finish": "stage"}
    assert meta.labels.columns["progress"] == "progress"
    assert [s.name for s in meta.labels.stages["put the block into the basket"]] == ["grasped", "placed", "finish"]
    assert sum(s.share for s in meta.labels.stages["stack the cubes"]) == pytest.approx(1)
    assert meta.episodes == load_progress_meta(source).episodes


def test_lerobots_reward_weighting_finds_progress_of_labelled_frames_only(source, tmp_path):
    table = pq.read_table(labelled(source, tmp_path / "out") / "sarm_progress.parquet")
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("index", "int64"), ("episode_index", "int64"), ("frame_index", "int64"), ("progress_sparse", "float"),
    ]  # fmt: skip
    assert table["index"].to_pylist() == list(range(42))  # the failures are episodes 2 and 3
    assert table["progress_sparse"][41].as_py() == 1


def test_a_merged_data_set_without_huggingface_metadata(tmp_path):
    out = labelled(MERGED, tmp_path / "out")
    file = pq.ParquetFile(out / "data/chunk-000/file-000.parquet")
    assert b"huggingface" not in (file.schema_arrow.metadata or {})
    assert file.num_row_groups == 3
    assert columns(out, "observation.progress")[0].tolist() == pytest.approx(
        [*np.linspace(0, 1, 9), *np.linspace(0, 1, 7), *np.linspace(0, 1, 5)]
    )


def test_the_input_is_not_touched_even_where_it_is_linked(source, tmp_path):
    before = tree(source)
    out = labelled(source, tmp_path / "out")
    video = "videos/observation.images.left_color/chunk-000/file-001.mp4"
    assert (out / video).samefile(source / video)
    copied = labelled(source, tmp_path / "copied", copy_videos=True)
    assert not (copied / video).samefile(source / video)
    assert tree(source) == before
    assert {k: v for k, v in tree(out).items() if k.startswith("videos")} == {
        k: v for k, v in before.items() if k.startswith("videos")
    }


def test_what_else_lies_in_the_folder_comes_along_as_a_copy(source, tmp_path):
    (source / "README.md").write_text("card")
    (source / "norm_stats.json").write_text("{}")
    (source / ".cache").mkdir()
    (source / ".cache/lock").write_text("")
    out = labelled(source, tmp_path / "out")
    assert (out / "README.md").read_text() == "card" and not (out / "README.md").samefile(source / "README.md")
    assert (out / "norm_stats.json").exists() and not (out / ".cache").exists()


def test_labelling_anew_replaces_the_labels(source, tmp_path):
    first = labelled(source, tmp_path / "first", method="milestone", column="observation.done_share")
    second = labelled(first, tmp_path / "second", method="linear")
    fresh = labelled(source, tmp_path / "fresh", method="linear")
    assert tree(second) == tree(fresh)


def test_columns_of_somebody_else_are_not_overwritten(source, tmp_path):
    for column in ("next.done", "action", "a/b", "progress.valid", "timestamp", " "):
        with pytest.raises(UserError, match="--column"):
            labelled(source, tmp_path / "out", column=column)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "column",
    ["task", "observation.images.progress", "observation.state", "action.progress", "next.progress", "x_is_pad"],
)
def test_names_that_lerobot_takes_for_something_else_are_refused(tmp_path, column):
    root = make_dataset(tmp_path / "in", [np.zeros((3, 48))])
    with pytest.raises(UserError, match=f"--column '{column}': LeRobot takes"):
        labelled(root, tmp_path / "out", column=column)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"failed": (-1,)}, "--failed -1: the data set has the episodes 0 to 3"),
        ({"failed": (1, 4)}, "--failed 4: the data set has the episodes 0 to 3"),
        ({"method": "activity", "standstill_speed": float("nan")}, "--standstill_speed is nan, expected"),
        ({"method": "activity", "standstill_speed": -0.1}, "--standstill_speed is -0.1, expected"),
        ({"method": "activity", "standstill_s": float("inf")}, "--standstill_s is inf, expected"),
        ({"method": "activity", "standstill_s": -1.0}, "--standstill_s is -1.0, expected"),
    ],
)
def test_options_out_of_range_are_named(source, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        labelled(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_milestones_from_a_table(source, tmp_path):
    table = tmp_path / "marks.csv"
    table.write_text("episode_index,label,seconds\n0,half,0.55\n1,most,2.0\n")
    out = labelled(source, tmp_path / "out", method="milestone", milestones=table, failed=(3,))
    progress, episode = columns(out, "observation.progress", "episode_index")
    assert progress[episode == 0][6] == np.float32(6 / 11)  # the first frame at or after 0.55 s
    meta = load_progress_meta(out)
    assert meta.episode(0).milestones[0].frame == 6 and meta.episode(3).outcome is Outcome.FAILURE
    assert meta.episode(3).milestones == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("episode,label,frame\n", "expected episode_index,label,frame or"),
        ("episode_index,label,frame\n0,a,1\n0,b,soon\n", "marks.csv:3"),
        ("episode_index,label,frame\n0,a,99\n", "milestone 'a' of episode 0 is at frame 99"),
        ("episode_index,label,frame\n0,a,-1\n", r"marks\.csv:2: frame is -1, expected"),
        ("episode_index,label,seconds\n0,a,0.5\n1,a,nan\n", r"marks\.csv:3: seconds is nan, expected"),
        ("episode_index,label,seconds\n0,a,inf\n", r"marks\.csv:2: seconds is inf, expected"),
        ("episode_index,label,seconds\n0,a,-0.01\n", r"marks\.csv:2: seconds is -0\.01, expected"),
        ("episode_index,label,frame\n0,a,1,7\n", r"marks\.csv:2: more values than columns: \['7'\]"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(source, tmp_path, text, message):
    (tmp_path / "marks.csv").write_text(text)
    with pytest.raises((UserError, MilestoneError), match=message):
        labelled(source, tmp_path / "out", method="milestone", milestones=tmp_path / "marks.csv")


def test_the_numbers_of_outcomes_are_printed(source, tmp_path):
    facts(source, e0=("SUCCESS", {}), e3=("FAILURE", {}))
    done = run("--input_dataset", source, "--output_dataset", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 success, 2 unknown (counted as success), 1 failure" in done.stdout
    assert "labelled: 3 of 4 episodes, 43 of 64 frames" in done.stdout


def test_episodes_that_were_cut_off_or_aborted_do_not_come_to_1_unless_asked(source, tmp_path):
    """Their outcome is unknown, but their last frame is not the task's end; a stated outcome counts more."""
    known = {
        0: EpisodeMeta(note="cut off: the file breaks off"),
        1: EpisodeMeta(milestones=(Milestone("lifted", 10),), note="aborted: the disk was full"),
        3: EpisodeMeta(Outcome.SUCCESS, (Milestone("lifted", 15),), note="aborted: but done"),
    }
    save_progress_meta(source, ProgressMeta(known))
    done = run("--input_dataset", source, "--output_dataset", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 success, 1 unknown (counted as success), 0 failure" in done.stdout
    assert "cut off or aborted: 2 (0, 1), counted as failures, --label_cut_off counts them as success" in done.stdout
    valid, episode = columns(tmp_path / "out", "progress.valid", "episode_index")
    assert [bool(valid[episode == index].any()) for index in range(4)] == [False, False, True, True]

    partly = labelled(source, tmp_path / "partly", failures="last-milestone")
    progress, valid, left = columns(partly, "observation.progress", "progress.valid", "progress.seconds_remaining")
    assert progress[episode == 1][-1] == np.float32(15 / 20) and valid[episode == 1].all()
    assert (left[episode == 1] == -1).all() and not valid[episode == 0].any()

    done = run("--input_dataset", source, "--output_dataset", tmp_path / "all", "--label_cut_off")
    assert "cut off or aborted: 2 (0, 1), counted as success" in done.stdout
    assert columns(tmp_path / "all", "progress.valid")[0].all()
    assert load_progress_meta(tmp_path / "all").labels.arguments == {"failures": "unlabelled", "label_cut_off": True}


@pytest.mark.long
def test_lerobot_loads_the_labels(source, tmp_path):
    """Where LeRobot is installed: labels and statistics through its own classes, and its own statistics of them."""
    pytest.importorskip("lerobot.datasets")
    from lerobot.datasets.dataset_tools import recompute_stats
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    for root in (source, MERGED, TWO_TASKS):
        out = labelled(root, tmp_path / f"out_{root.parent.name}_{root.name}")
        data = LeRobotDataset("local/labelled", root=out, video_backend="pyav")
        names = ("observation.progress", "progress.valid", "progress.seconds_remaining")
        labels = columns(out, *names)
        for index in (0, 8, 11, 12, len(data) - 1):
            item = data[index]
            for name, values in zip(names, labels, strict=True):
                assert item[name].item() == values[index], (root, name, index)
        loaded = {name: {key: np.asarray(v) for key, v in data.meta.stats[name].items()} for name in names}
        again = recompute_stats(data).meta.stats
        for name in names:
            bin_width = np.ptp([again[name]["min"], again[name]["max"]]) / 5000  # LeRobot's edges are float32
            for key in KEYS:
                atol = bin_width if key in QUANTILES else 1e-6
                np.testing.assert_allclose(loaded[name][key], again[name][key], 1e-6, atol, err_msg=f"{name} {key}")


@pytest.mark.long
def test_lerobots_reward_weighting_reads_our_progress(source, tmp_path):
    pytest.importorskip("lerobot.datasets")
    import torch
    from lerobot.rewards.sarm.rabc import RABCWeights

    path = labelled(source, tmp_path / "out") / "sarm_progress.parquet"
    weighter = RABCWeights(path, chunk_size=5, fallback_weight=0.0, device=torch.device("cpu"))
    weights, _ = weighter.compute_batch_weights({"index": torch.tensor([0, 20, 42, 60])})
    assert weights[0] > 0 and weights[1] > 0  # of successful episodes
    assert weights[2] == weights[3] == 0  # of failures, which are unlabelled
