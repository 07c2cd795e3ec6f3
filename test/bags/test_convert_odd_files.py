"""Recordings whose files are easily overlooked, or taken for others."""

import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml
from convert_recordings import (
    FRAMES,
    JOINTS,
    NUMBER,
    START,
    Message,
    event,
    moved,
    split_bag,
    write_bag,
    write_mcap,
)
from convert_results import convert, only

from training.bags.finding import find_bags

# --- paths ---


@pytest.mark.parametrize(
    ("name", "storage"), [("take%41", "sqlite3"), ("50%?", "sqlite3"), ("a#b", "sqlite3"), ("run:1", "mcap")]
)
def test_the_recording_that_was_named_is_read_whatever_its_name(tmp_path, sound, monkeypatch, name, storage):
    other = [moved(m) for m in sound]
    for m in other:
        m.fields = {**m.fields, "position": m.fields["position"] + 5} if m.type == JOINTS else m.fields
    for folder, messages in (("takeA", sound), (name, other)):
        (tmp_path / folder).mkdir()
        shutil.move(write_bag(tmp_path / "rec", messages, storage), tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    run = convert(Path("out:1/set"), Path(name))
    assert run.status == 0, run.text
    run.root = tmp_path / run.root
    assert 4.5 < run.column("observation.state")[0, 0] < 5.5


def test_a_folder_that_cannot_be_looked_into_costs_itself_only(tmp_path, sound, monkeypatch):
    write_bag(tmp_path / "bags" / "good", sound)
    (tmp_path / "bags" / "lost+found").mkdir()
    usual = Path.iterdir

    def refusing(path):
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    run = convert(tmp_path / "ds", tmp_path / "bags", dry_run=True)
    assert run.status == 0 and "not used: " in run.text and "Permission denied" in run.text


# --- files that belong together ---


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_split_files_in_a_renamed_folder_are_one_recording(tmp_path, sound, storage):
    bag = split_bag(tmp_path / "bags" / "monday", sound, 0.6, storage)
    (bag / "metadata.yaml").unlink()
    bag = bag.rename(tmp_path / "bags" / "take_03")
    assert find_bags([tmp_path / "bags"]) == [bag]
    run = convert(tmp_path / "ds", tmp_path / "bags", dry_run=True)
    assert "take_03 bag: 36 frames" in run.text and "no metadata.yaml" in run.text
    assert ("cut off" in run.text) == (storage == "sqlite3")


def test_recordings_that_are_numbered_are_not_taken_for_one(tmp_path, sound):
    later = [moved(m, 5 * 10**9, 5 * 10**9) for m in sound]
    for number, messages in enumerate((sound, later)):
        write_bag(tmp_path / "tmp" / f"take_{number}", messages)
        shutil.move(only(tmp_path / "tmp" / f"take_{number}", ".mcap"), tmp_path / f"take_{number}.mcap")
    assert [path.name for path in find_bags([tmp_path])][:2] == ["take_0.mcap", "take_1.mcap"]


def test_a_loose_file_that_another_goes_on_with_is_pointed_out(tmp_path, sound):
    bag = split_bag(tmp_path / "monday", sound, 0.6)
    (bag / "metadata.yaml").unlink()
    shutil.copy(bag / "monday_0.mcap", bag / "other.mcap")
    run = convert(tmp_path / "ds", bag.rename(tmp_path / "mixed"), dry_run=True)
    assert "goes on with monday_0.mcap" in run.text and "folder of their own" in run.text


def test_files_that_hold_a_topic_each_are_read_side_by_side(tmp_path, sound):
    events = [event(0, START + 10**8), event(1, START + 10**9)]
    bag = split_bag(tmp_path / "bag", [*sound, *events], 5.0)
    for number, kinds in enumerate(({JOINTS}, {m.type for m in sound} - {JOINTS}, {events[0].type})):
        write_bag(tmp_path / "part", [m for m in [*sound, *events] if m.type in kinds])
        shutil.move(only(tmp_path / "part", ".mcap"), bag / f"bag_{number}.mcap")
        shutil.rmtree(tmp_path / "part")
    (bag / "metadata.yaml").unlink()
    run = convert(tmp_path / "ds", bag, task=None)
    assert run.status == 0 and "set back" not in run.text, run.text
    assert run.numbers("head_camera") == FRAMES[3:31]


def test_a_topic_that_nobody_needs_in_every_file_makes_them_no_parts_of_one_another(tmp_path, sound):
    logs = [Message("/logs", NUMBER, at, at, {"data": 1.0}) for at in range(START, START + 12 * 10**8, 10**8)]
    for number, own in enumerate((True, False)):
        messages = [m for m in sound if (m.type == JOINTS) == own] + logs
        write_mcap(tmp_path / "bag" / f"bag_{number}.mcap", sorted(messages, key=lambda m: m.received))
    run = convert(tmp_path / "ds", tmp_path / "bag")
    assert run.status == 0 and "set back" not in run.text, run.text
    assert run.numbers("head_camera") == FRAMES


def test_compressed_and_upper_case_files_are_found(tmp_path, sound):
    (tmp_path / "bags").mkdir()
    shutil.copy(only(write_bag(tmp_path / "a", sound, mode="file"), ".zstd"), tmp_path / "bags" / "lone.mcap.zstd")
    shutil.copy(only(write_bag(tmp_path / "b", sound), ".mcap"), tmp_path / "bags" / "STICK.MCAP")
    run = convert(tmp_path / "ds", tmp_path / "bags", dry_run=True)
    assert "lone.mcap.zstd bag: 36 frames" in run.text and "STICK.MCAP bag: 36 frames" in run.text


def test_rows_that_a_killed_recorder_left_in_a_journal_are_read(tmp_path, sound):
    bag = write_bag(tmp_path / "tmp", sound, "sqlite3")
    with sqlite3.connect(only(bag, ".db3")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM messages").fetchone()
        rows = connection.execute("SELECT * FROM messages WHERE id > ?", (count // 2,)).fetchall()
        connection.execute("DELETE FROM messages WHERE id > ?", (count // 2,))
        connection.commit()
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", rows)
        connection.commit()
        shutil.copytree(bag, tmp_path / "bag")
    before = {path.name: path.read_bytes() for path in (tmp_path / "bag").iterdir()}
    run = convert(tmp_path / "ds", tmp_path / "bag", dry_run=True)
    assert "bag: 36 frames" in run.text
    assert {path.name: path.read_bytes() for path in (tmp_path / "bag").iterdir()} == before


def test_rows_that_the_metadata_count_and_nobody_copied_are_missed(tmp_path, sound):
    bag = write_bag(tmp_path / "bag", sound, "sqlite3")
    with sqlite3.connect(only(bag, ".db3")) as connection:
        connection.execute("DELETE FROM messages WHERE timestamp >= ?", (START + 6 * 10**8,))
    run = convert(tmp_path / "ds", bag, dry_run=True)
    missed = sum(m.received >= START + 6 * 10**8 for m in sound)
    assert f"counts {len(sound)} messages, of which {missed} are not there" in run.text and "-wal" in run.text
    assert "bag: 18 frames: the recording is cut off" in run.text, run.text


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_counts_that_were_never_written_are_not_believed(tmp_path, sound, storage):
    bag = write_bag(tmp_path / "bag", sound, storage)
    facts = yaml.safe_load((bag / "metadata.yaml").read_text())
    facts["rosbag2_bagfile_information"]["message_count"] = 0
    for topic in facts["rosbag2_bagfile_information"]["topics_with_message_count"]:
        topic["message_count"] = 0
    (bag / "metadata.yaml").write_text(yaml.safe_dump(facts))
    run = convert(tmp_path / "ds", bag, dry_run=True)
    assert "bag: 36 frames" in run.text and ("cut off" in run.text) == (storage == "sqlite3")


def test_files_that_the_metadata_do_not_name_are_read_if_they_go_on(tmp_path, sound):
    bag = split_bag(tmp_path / "bag", sound, 0.6)
    facts = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(facts.replace("  - bag_1.mcap\n", ""))
    shutil.copy(bag / "bag_0.mcap", bag / "copy.mcap")
    run = convert(tmp_path / "ds", bag, dry_run=True)
    assert "bag: 36 frames" in run.text
    assert "does not name bag_1.mcap, which is read" in run.text and "copy.mcap, which is not read" in run.text


@pytest.mark.parametrize("suffix", ["mcap", "mcap.zstd", "db3"])
def test_a_git_lfs_pointer_is_called_so(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in convert(tmp_path / "ds", file, dry_run=True).text
