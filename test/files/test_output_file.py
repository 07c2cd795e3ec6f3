"""Files appear complete or not at all; locks and fingerprints do what they promise."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pi05_progress.files.fingerprint import files_in, fingerprint, fingerprint_of_arrays
from pi05_progress.files.lock import locked, try_lock, unlock
from pi05_progress.files.output_file import output_file, write_file

HOLDER = """
import sys, pathlib
from pi05_progress.files.lock import locked
with locked(pathlib.Path(sys.argv[1]), lambda: None):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_as_a_whole_and_its_folder_is_made(tmp_path, durable):
    path = tmp_path / "new" / "file.json"
    write_file(path, "first", durable=durable)
    write_file(path, "zweitens: ü", durable=durable)
    assert path.read_bytes() == "zweitens: ü".encode()
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(error), output_file(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    write_file(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "elsewhere/file").read_text() == "text"


def test_a_private_file_is_the_owners_alone(tmp_path):
    write_file(tmp_path / "file", b"secret", private=True)
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, sync, move = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("contents"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("name"), move(*paths)))
    write_file(tmp_path / "file", "text", durable=True)
    assert done == ["contents", "name", "contents"]  # the last are the folder's


def test_processes_that_write_the_same_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with output_file(path, shared=True) as mine:
        other = "import sys, pathlib; from pi05_progress.files.output_file import output_file\n"
        other += "with output_file(pathlib.Path(sys.argv[1]), shared=True) as partial: partial.write_text('other')"
        subprocess.run([sys.executable, "-c", other, str(path)], check=True)
        assert path.read_text() == "other"
        mine.write_text("mine")
    assert path.read_text() == "mine" and os.listdir(tmp_path) == ["file"]


def test_a_lock_is_one_processs_and_ends_with_it(tmp_path):
    path, waited = tmp_path / "lock", []
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"mine\n"
    with path.open("a") as file:
        assert not try_lock(file)

    def waiting():
        waited.append(True)
        holder.kill()

    with locked(path, waiting), path.open("a") as second:
        assert waited == [True] and not try_lock(second)
    holder.wait()
    file = path.open("a")
    assert try_lock(file)
    unlock(file)
    assert file.closed


def test_fingerprints_are_those_that_checkpoints_and_caches_hold():
    assert fingerprint({"b": [1, 2.5], "a": "ü"}) == "31aa6946b90c293864bcc13c"
    assert fingerprint({"a": "ü", "b": (1, 2.5)}, 16) == "31aa6946b90c2938"
    arrays = {"x": np.arange(6, dtype=np.int64).reshape(2, 3), "y": np.float32([0.5])}
    assert fingerprint_of_arrays(arrays, 16) == "f5c505a669c1ed0a"
    assert fingerprint_of_arrays({**arrays, "y": np.float64([0.5])}, 16) != fingerprint_of_arrays(arrays, 16)


def test_a_folder_is_told_by_names_sizes_and_times(tmp_path):
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "file"
    path.write_text("text")
    os.utime(path, ns=(5, 7))
    assert files_in(tmp_path) == [["sub/file", 4, 7]]
    assert files_in(path) == [[".", 4, 7]]
    assert files_in(tmp_path / "absent") == []
