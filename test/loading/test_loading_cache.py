"""The cache of pictures: what it holds, when it is made anew, and what damage and interruptions do."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import PATIENCE_S
from places import ROOT
from small_datasets import TWO_TASKS, lerobot_copy, tree
from small_loading import MODEL, assert_same, labelled, loader, take

from pi05_progress.models.config import WHOLE, View
from pi05_progress.observation import IMAGE_KEYS
from pi05_progress.robots.profile import RobotProfile
from training.datasets.frames import PictureError
from training.datasets.reader import open_dataset
from training.loading import cache
from training.loading.cache import cached_pictures
from training.loading.config import DataConfigError
from training.loading.pictures import DecodedPictures, camera_features

PROFILE = RobotProfile.load("teleavatar")
VIEWS = dict.fromkeys(IMAGE_KEYS, View(WHOLE, (28, 42)))


def parts(root=TWO_TASKS):
    dataset = open_dataset(root)
    return dataset, camera_features(dataset, PROFILE, ()), VIEWS


def caches(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_batches_are_the_same_with_and_without_a_cache(tmp_path):
    with loader(TWO_TASKS) as decoded, loader(TWO_TASKS, cache=tmp_path / "new" / "cache") as cached:
        assert decoded.fingerprint == cached.fingerprint
        for one, other in zip(take(decoded, 4), take(cached, 4), strict=True):
            assert_same(one, other)


def test_every_picture_is_in_its_place(tmp_path):
    kept, decoded = cached_pictures(tmp_path, *parts()), DecodedPictures(*parts())
    for episode, length in enumerate((12, 30, 1, 21)):
        for frame in range(length):
            one, other = kept.read(episode, frame), decoded.read(episode, frame)
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one)


def test_it_is_made_once_for_the_same_pictures_and_anew_for_others(tmp_path, monkeypatch):
    root = lerobot_copy(tmp_path)
    folder = tmp_path / "cache"
    cached_pictures(folder, *parts(root))
    (first,) = caches(folder)
    before = tree(folder)
    with monkeypatch.context() as patch:  # neither reading it nor other labels decode anything
        patch.setattr(DecodedPictures, "read_one", lambda *_: pytest.fail("decoded again"))
        cached_pictures(folder, *parts(root))
        cached_pictures(folder, *parts(labelled(tmp_path / "labelled", root)))
    assert caches(folder) == [first] and tree(folder) == before
    dataset, features, _ = parts(root)
    cached_pictures(folder, dataset, features, dict.fromkeys(IMAGE_KEYS, View(WHOLE, (14, 14))))
    assert len(caches(folder)) == 2
    video = dataset.episodes[1].videos["observation.images.head_camera"].path
    os.utime(video, ns=(0, 0))  # changed
    cached_pictures(folder, *parts(root))
    assert len(caches(folder)) == 3


BUILD = """
import os, signal, sys
from pathlib import Path
from training.datasets.reader import open_dataset
from training.loading.cache import cached_pictures
from training.loading.pictures import DecodedPictures, camera_features
from pi05_progress.models.config import WHOLE, View
from pi05_progress.robots.profile import RobotProfile

dataset, folder, log, last = open_dataset(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
read_one = DecodedPictures.read_one

def logged(self, *which):
    with log.open("a") as file:
        file.write(".")
    if log.stat().st_size == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_one(self, *which)

DecodedPictures.read_one = logged
features = camera_features(dataset, RobotProfile.load("teleavatar"), ())
cached_pictures(folder, dataset, features, dict.fromkeys(features, View(WHOLE, (28, 42))))
"""


def build(folder, log, dies_at=0):
    """A process that makes a cache, one dot in the log for every picture; it is killed at one of them."""
    command = [sys.executable, "-c", BUILD, str(TWO_TASKS), str(folder), str(log), str(dies_at)]
    return subprocess.Popen(command, cwd=ROOT)


def test_a_build_that_is_killed_leaves_nothing_that_looks_finished(tmp_path):
    folder = tmp_path / "cache"
    assert build(folder, tmp_path / "log", dies_at=40).wait(PATIENCE_S) == -signal.SIGKILL
    assert all(name.endswith(".partial") for name in caches(folder)) and caches(folder)
    with loader(TWO_TASKS) as decoded, loader(TWO_TASKS, cache=folder) as cached:
        assert_same(next(decoded), next(cached))
    assert len(caches(folder)) == 1


def test_processes_that_need_it_at_once_make_it_once(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "cache"
    processes = [build(folder, log) for _ in range(2)]
    assert [process.wait(PATIENCE_S) for process in processes] == [0, 0]
    assert log.stat().st_size == 3 * 64 and len(caches(folder)) == 1


@pytest.mark.parametrize(
    "damage", ["shorter", "other pictures", "no description", "half a description", "depth", "no camera"]
)
def test_a_damaged_cache_is_an_error_that_says_what_to_delete(tmp_path, damage):
    cached_pictures(tmp_path, *parts())
    (name,) = caches(tmp_path)
    pictures, description = tmp_path / name / "base_0_rgb.u8", tmp_path / name / "cache.json"
    if damage == "shorter":
        os.truncate(pictures, pictures.stat().st_size - 1)
    elif damage == "other pictures":
        size = pictures.stat().st_size
        pictures.write_bytes(bytes(size))
    elif damage == "no description":
        description.unlink()
    elif damage == "half a description":
        os.truncate(description, description.stat().st_size // 2)
    elif damage == "depth":
        description.write_text("[" * 100_000)
    else:
        pictures.unlink()
    with pytest.raises(DataConfigError, match=f"the cache is damaged; delete .*{name}"):
        loader(TWO_TASKS, cache=tmp_path)
    shutil.rmtree(tmp_path / name)
    loader(TWO_TASKS, cache=tmp_path).close()


def test_a_disk_without_room_is_an_error_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(DecodedPictures, "read_one", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataConfigError, match=r"take 0.0 GB, 0.0 GB are free there; choose another disk"):
        loader(TWO_TASKS, cache=tmp_path)
    assert not caches(tmp_path)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full)
    with pytest.raises(DataConfigError, match=r"--data.cache .*No space left"):
        loader(TWO_TASKS, cache=tmp_path)
    assert not caches(tmp_path)


def test_a_damaged_video_is_named_and_leaves_no_cache(tmp_path):
    root = lerobot_copy(tmp_path)
    video = next(root.glob("videos/*head_camera/*/file-001.mp4"))
    os.truncate(video, video.stat().st_size // 2)
    with pytest.raises(PictureError, match=r"head_camera.*file-001.mp4"):
        loader(root, cache=tmp_path / "cache")
    assert not caches(tmp_path / "cache")
    with pytest.raises(PictureError, match=r"head_camera.*file-001.mp4"), loader(root) as batches:
        take(batches, 8)


def test_the_input_is_not_changed(tmp_path):
    root = lerobot_copy(tmp_path)
    before = tree(root)
    with loader(root, cache=tmp_path / "cache", model=MODEL) as batches:
        next(batches)
    assert tree(root) == before
