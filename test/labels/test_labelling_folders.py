"""The labelling tool's input and output: what is there already, ends early, or is damaged or incomplete."""

import json
import os
import resource
import shutil
import stat
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PATIENCE_S
from labelled_datasets import columns, labelled, run, with_outcomes
from places import ROOT
from small_datasets import make_dataset, tree

from pi05_progress.files.output_folder import OutputFolderError
from training.datasets import layout
from training.datasets.progress_meta import load_progress_meta
from training.datasets.reader import DatasetError, open_dataset
from training.datasets.statistics import KEYS


@pytest.fixture
def source(tmp_path):
    """LeRobot's data set with two successes (one of them with milestones), a failure and an unknown outcome."""
    return with_outcomes(tmp_path)


def test_an_output_that_is_there_is_only_replaced_when_asked(source, tmp_path):
    out = labelled(source, tmp_path / "out")
    (out / "mine").write_text("")
    done = run("--input_dataset", source, "--output_dataset", out)
    assert done.returncode == 1 and "already there" in done.stderr and "Traceback" not in done.stderr
    assert (out / "mine").exists()
    labelled(source, out, overwrite=True)
    assert not (out / "mine").exists() and len(open_dataset(out).episodes) == 4


def test_what_is_no_data_set_is_never_replaced(source, tmp_path):
    (tmp_path / "bags").mkdir()
    (tmp_path / "bags/monday.mcap").write_text("mine")
    with pytest.raises(OutputFolderError, match=r"not overwritten: it has no meta/info\.json"):
        labelled(source, tmp_path / "bags", overwrite=True)
    assert (tmp_path / "bags/monday.mcap").read_text() == "mine"


SLOW = """
import sys, time
from pathlib import Path
from training import add_progress_labels as tool
from training.labels import writing
original = writing.save_progress_meta
def waiting(*arguments):
    print("writing", flush=True)
    sys.stdin.readline()
    return original(*arguments)
writing.save_progress_meta = waiting
tool.add_progress_labels(tool.LabelOptions(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_a_second_labelling_into_the_same_place_is_refused_while_the_first_is_at_work(source, tmp_path):
    out = tmp_path / "out"
    first = subprocess.Popen(
        [sys.executable, "-c", SLOW, source, out], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "writing\n"
        for options in ({}, {"overwrite": True}):
            with pytest.raises(OutputFolderError, match="another process is writing there"):
                labelled(source, out, method="activity", **options)
        first.communicate("go on\n", timeout=PATIENCE_S)
    finally:
        first.kill()
        first.wait()
    assert first.returncode == 0
    assert load_progress_meta(out).labels.method == "linear"
    assert len(columns(out, "observation.progress")[0]) == 64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "two_tasks"]


@pytest.mark.parametrize("target", ["", "labelled", ".."])
def test_an_output_that_is_the_input_or_lies_in_it_is_refused(source, target):
    before = tree(source)
    with pytest.raises(OutputFolderError, match="the input is never modified"):
        labelled(source, source / target, overwrite=True)
    assert tree(source) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from training import add_progress_labels as tool
from training.labels import writing
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
setattr(writing, sys.argv[1], die)
tool.add_progress_labels(tool.LabelOptions(Path(sys.argv[2]), Path(sys.argv[3])))
"""


@pytest.mark.parametrize("step", ["_sarm", "save_progress_meta"])
def test_a_killed_process_leaves_nothing_that_looks_finished(source, tmp_path, step):
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, step, source, out], cwd=ROOT, capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == -9 and not out.exists()
    labelled(source, out)
    assert len(open_dataset(out).episodes) == 4 and not out.with_name("out.partial").exists()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    big = make_dataset(tmp_path / "in", [np.random.default_rng(0).normal(size=(2000, 48))] * 2)
    limit = 200_000

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = run("--input_dataset", big, "--output_dataset", tmp_path / "out", preexec_fn=full)
    assert done.returncode == 1 and "nothing was written" in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_read_only_input_is_enough(source, tmp_path):
    before = tree(source)
    for path in (source, *source.rglob("*")):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    weak = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 and shutil.which("setpriv") else []
    try:
        done = run("--input_dataset", source, "--output_dataset", tmp_path / "out", before=weak)
    finally:
        for path in (source, *source.rglob("*")):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert done.returncode == 0, done.stderr
    assert tree(source) == before
    (tmp_path / "out" / layout.INFO).write_text("{}")  # what was written is not read-only in its turn


def test_videos_behind_symbolic_links_are_followed(source, tmp_path):
    shutil.move(source / "videos", tmp_path / "elsewhere")
    (source / "videos").symlink_to(tmp_path / "elsewhere")
    out = labelled(source, tmp_path / "out")
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert len(list((out / "videos").rglob("*.mp4"))) == 12


def test_statistics_that_the_input_lacks_are_made(source, tmp_path):
    stats = json.loads((source / layout.STATS).read_text())
    state = stats.pop(layout.STATE)
    (source / layout.STATS).write_text(json.dumps(stats))
    out = labelled(source, tmp_path / "out")
    made = json.loads((out / layout.STATS).read_text())[layout.STATE]
    for key in KEYS:
        np.testing.assert_allclose(made[key], state[key], rtol=1e-5, atol=1e-6)


def test_rows_that_contradict_the_metadata_are_named(source, tmp_path):
    path = source / "data/chunk-000/file-001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 20), path)
    with pytest.raises(DatasetError, match="episode 1 has 20 rows"):
        labelled(source, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("method", ["linear", "activity"])
def test_a_data_set_that_lacks_a_file_is_refused(tmp_path, method):
    root = make_dataset(tmp_path / "in", [np.random.default_rng(0).normal(size=(9, 48))] * 4)
    (root / "data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(DatasetError, match=r"no rows of 2 of 4 episodes \(2, 3\); a file is missing"):
        labelled(root, tmp_path / "out", method=method)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_videos_that_the_input_lacks_are_told(source, tmp_path):
    (source / "videos/observation.images.left_color/chunk-000/file-001.mp4").unlink()
    done = run("--input_dataset", source, "--output_dataset", tmp_path / "out")
    assert done.returncode == 0
    assert "note: 1 videos are missing in the input" in done.stdout and "file-001.mp4" in done.stdout


def test_a_feature_that_can_have_no_statistics_is_named(tmp_path):
    """Where it has none yet; they are made of all features that lack them."""
    root = make_dataset(tmp_path / "in", [np.zeros((3, 48))] * 2)
    info = json.loads((root / layout.INFO).read_text())
    info["features"]["extra"] = layout.scalar("float32")
    (root / layout.INFO).write_text(json.dumps(info))
    path = root / "data/chunk-000/file-000.parquet"
    extra = pa.array(np.array([0, 1, 2, 3, np.nan, 5], np.float32))
    pq.write_table(pq.read_table(path).append_column("extra", extra), path)
    with pytest.raises(DatasetError, match=r"file-000\.parquet: extra of episode 1: .*numbers that are finite"):
        labelled(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
