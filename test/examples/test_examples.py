"""The scripts in examples/, run as a reader would run them."""

import dataclasses
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from places import ROOT
from rosbags.interfaces import Nodetype
from rosbags.rosbag2 import StoragePlugin, Writer
from serving_helpers import serving, stub
from small_datasets import lerobot_copy
from small_loading import labelled

from training.bags.message_types import known_types

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def run(name, *arguments, **env):
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def made(store, kind, **fields):
    """A message of a type, everything zero and empty but the fields given."""

    def blank(name):
        return store.types[name](**{field: value(*what) for field, what in store.fielddefs[name][1]})

    def value(node, what):
        if node == Nodetype.NAME:
            return blank(what)
        return "" if what[0] == "string" else 0

    return dataclasses.replace(blank(kind), **fields)


def test_there_are_seven_and_the_readme_names_each():
    readme = (ROOT / "README.md").read_text()
    assert len(EXAMPLES) == 7
    assert [name for name in EXAMPLES if f"examples/{name}" not in readme] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_is_short_and_says_how_it_is_run(name):
    text = (ROOT / "examples" / name).read_text()
    assert len(text.splitlines()) <= (75 if name == "two_tasks.py" else 45)
    assert f"python examples/{name}" in text.split('"""')[1]


def test_pictures_become_actions_and_progress(tmp_path):
    for camera in ("head_camera", "left_color", "right_color"):
        cv2.imwrite(str(tmp_path / f"{camera}.png"), np.full((120, 160, 3), 90, np.uint8))
    said = run("infer_from_pictures.py", tmp_path, "--task", "stack the cubes")
    progress = float(re.search(r"progress ([\d.]+), between", said)[1])
    assert 0 <= progress <= 1
    assert re.search(r"rows of 16 actions", said), said


def test_a_labelled_data_set_and_a_page_to_look_at(tmp_path):
    source, target = lerobot_copy(tmp_path), tmp_path / "labelled"
    assert str(target) in run("label_and_look.py", source, target)
    assert (target / "meta/progress.json").is_file()
    assert "<svg" in (tmp_path / "labelled.html").read_text()


def test_a_client_gets_actions_and_filtered_progress():
    with serving(stub()) as server:
        said = run("ask_a_server.py", server.uri)
    assert said.count("filtered") == 5


def test_published_progress_is_read_from_a_bag(tmp_path):
    store, kind = known_types(), "pi05_progress_msgs/msg/TaskProgress"
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        topic = bag.add_connection("/task_progress", kind, typestore=store)
        for second, progress in enumerate((0.25, 0.5)):
            message = made(store, kind, progress=progress, status=1)
            message.header.stamp.sec = second
            bag.write(topic, second * 10**9, store.serialize_cdr(message, kind))
    said = run("progress_from_bag.py", tmp_path / "bag").splitlines()
    assert said == ["seconds,progress,status", "0.000,0.250,ADVANCING", "1.000,0.500,ADVANCING"]


def test_three_steps_leave_a_checkpoint_and_metrics(tmp_path):
    data = labelled(tmp_path / "labelled", lerobot_copy(tmp_path))
    said = run("train_three_steps.py", data, tmp_path / "runs", JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    folder = tmp_path / "runs/tiny_demo/three_steps"
    assert str(folder) in said
    assert (folder / "3/params").is_dir()
    assert len((folder / "metrics.csv").read_text().splitlines()) == 4
