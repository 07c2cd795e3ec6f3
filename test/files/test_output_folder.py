"""Folders that appear complete or not at all: what may be replaced, who may write, and what links mean."""

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_S
from places import ROOT

from pi05_progress.files.output_folder import OutputFolderError, finish, output_folder, refuse_overlap, start_writing

MARKER = ("is_ours",)


def write(folder, text="new", replaces=None):
    with output_folder(folder, replaces=replaces) as partial:
        (partial / MARKER[0]).write_text("")
        (partial / "text").write_text(text)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_complete_and_nothing_is_left_beside(tmp_path):
    with output_folder(tmp_path / "x") as partial:
        (partial / "a").write_text("")
        assert names(tmp_path) == ["x.partial"]
    assert names(tmp_path) == ["x"] and names(tmp_path / "x") == ["a"]


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), output_folder(tmp_path / "x") as partial:
        (partial / "a").mkdir()
        raise RuntimeError
    assert names(tmp_path) == []


def test_what_is_there_stays_unless_it_may_be_replaced(tmp_path):
    write(tmp_path / "x", "old")
    with pytest.raises(OutputFolderError, match="already there"):
        write(tmp_path / "x")
    assert (tmp_path / "x/text").read_text() == "old" and names(tmp_path) == ["x"]
    write(tmp_path / "x", replaces=MARKER)
    assert (tmp_path / "x/text").read_text() == "new" and names(tmp_path) == ["x"]


def test_only_what_is_of_its_kind_or_empty_is_replaced(tmp_path):
    for name in ("recordings", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "recordings/monday.mcap").write_text("precious")
    with pytest.raises(OutputFolderError, match="has no is_ours"):
        write(tmp_path / "recordings", replaces=MARKER)
    write(tmp_path / "empty", replaces=MARKER)
    assert (tmp_path / "recordings/monday.mcap").read_text() == "precious"
    assert names(tmp_path) == ["empty", "recordings"]


def test_somebodys_own_copies_beside_are_not_removed(tmp_path):
    for name in ("x.old", "x.old.1", "y.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("precious")
    write(write(tmp_path / "x"), replaces=MARKER)
    with pytest.raises(OutputFolderError, match=r"y\.partial: is in the way"):
        write(tmp_path / "y")
    for name in ("x.old", "x.old.1", "y.partial"):
        assert (tmp_path / name / "mine").read_text() == "precious"
    assert names(tmp_path) == ["x", "x.old", "x.old.1", "y.partial"]


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    write(tmp_path / "disk/real", "old")
    for name, target in (("link", "disk/real"), ("dangling", "disk/other")):
        (tmp_path / name).symlink_to(target)
        write(tmp_path / name, replaces=MARKER)
        assert (tmp_path / name).is_symlink() and (tmp_path / target / "text").read_text() == "new"
    assert names(tmp_path) == ["dangling", "disk", "link"] and names(tmp_path / "disk") == ["other", "real"]


def test_files_and_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OutputFolderError, match="is a file"):
        write(tmp_path / "file", replaces=MARKER)
    with pytest.raises(OutputFolderError, match="loop"):
        write(tmp_path / "a")
    with pytest.raises(OutputFolderError, match="cannot be written"):
        write(tmp_path / "file" / "below")
    with pytest.raises(OutputFolderError, match="root of the file system"):
        write(Path("/"))
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["", "."])
def test_the_working_directory_can_be_the_output(tmp_path, monkeypatch, name):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    with pytest.raises(OutputFolderError, match="already there"):
        write(Path(name))
    write(Path(name), replaces=MARKER)
    assert (tmp_path / "x/text").read_text() == "new" and names(tmp_path) == ["x"]


def test_a_source_is_not_written_to_whatever_it_is_called(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    for folder in ("in", "in/out", "link", "link/../in", ".", "link/new/out"):
        with pytest.raises(OutputFolderError, match="input"):
            refuse_overlap(tmp_path / folder, [tmp_path / "elsewhere", tmp_path / "in"])
    refuse_overlap(tmp_path / "in2", [tmp_path / "in"])


def test_only_one_writes_at_a_time(tmp_path):
    first = start_writing(tmp_path / "x")
    (first.path / "text").write_text("first")
    with pytest.raises(OutputFolderError, match="another process is writing there"):
        start_writing(tmp_path / "x", replaces=MARKER)
    assert (first.path / "text").read_text() == "first"
    finish(first)
    assert (tmp_path / "x/text").read_text() == "first" and names(tmp_path / "x") == ["text"]
    first.abandon()  # too late to do any harm
    assert names(tmp_path) == ["x"]


def test_a_hold_that_was_given_back_is_taken_over_and_cleared(tmp_path):
    first = start_writing(tmp_path / "x")
    (first.path / "left").write_text("")
    first.release()
    assert names(write(tmp_path / "x")) == ["is_ours", "text"]


def test_a_folder_that_moved_while_its_lock_was_opened_is_not_written_to(tmp_path, monkeypatch):
    """The other process finishes between opening its lock and having it."""
    first = start_writing(tmp_path / "x")
    (first.path / MARKER[0]).write_text("")
    flock = fcntl.flock

    def late(*arguments):
        monkeypatch.setattr(fcntl, "flock", flock)
        finish(first)
        return flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(OutputFolderError, match="already there"):
        write(tmp_path / "x", "second")
    assert names(tmp_path) == ["x"] and names(tmp_path / "x") == ["is_ours"]


def test_what_appears_meanwhile_is_not_replaced_and_what_was_written_is_kept(tmp_path):
    pending = start_writing(tmp_path / "x")
    (pending.path / "text").write_text("new")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine").write_text("precious")
    with pytest.raises(OutputFolderError, match=r"complete, it is in .*x\.partial"):
        finish(pending)
    assert (tmp_path / "x/mine").read_text() == "precious" and (pending.path / "text").read_text() == "new"


KILLED = """
import os, signal, sys
from pathlib import Path
from pi05_progress.files import output_folder as subject
moves = int(sys.argv[2])
replace = os.replace
def dying(*paths):
    global moves
    if not moves:
        os.kill(os.getpid(), signal.SIGKILL)
    moves -= 1
    replace(*paths)
os.replace = dying
with subject.output_folder(Path(sys.argv[1]), replaces=("is_ours",)) as partial:
    (partial / "is_ours").write_text("")
    (partial / "text").write_text("new")
"""


@pytest.mark.parametrize(("moves", "left"), [(0, ["x", "x.partial"]), (1, ["x.old", "x.partial"])])
def test_a_process_killed_while_it_replaces_leaves_both_and_is_no_obstacle(tmp_path, moves, left):
    write(tmp_path / "x", "old")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "x"), str(moves)]
    done = subprocess.run(command, cwd=ROOT, timeout=PATIENCE_S)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == left and (tmp_path / left[0] / "text").read_text() == "old"
    write(tmp_path / "x", replaces=MARKER)
    assert (tmp_path / "x/text").read_text() == "new" and "x.partial" not in names(tmp_path)
