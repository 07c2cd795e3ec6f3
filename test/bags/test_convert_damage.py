"""What damaged, cut off and interrupted recordings lead to: a reason that is told, never a traceback, never a guess."""

import json
import multiprocessing
import random
import shutil
import sqlite3
import threading
import time

import pytest
from convert_recordings import (
    EVENT,
    IMAGE,
    NUMBER,
    PROFILE,
    START,
    Message,
    button,
    event,
    joints,
    mcap_records,
    pictures,
    recording,
    serialised,
    split_bag,
    times,
    without,
    write_bag,
    write_mcap,
)
from convert_results import convert
from mcap.writer import CompressionType

PAGE = 4096  # of sqlite's files


@pytest.fixture(scope="module")
def sound():
    """Messages of a sound recording of 1.2 seconds; do not change them."""
    return recording(1.2)


@pytest.fixture
def good(tmp_path, sound):
    """A sound bag, to stand beside damaged ones."""
    return write_bag(tmp_path / "good", sound)


def storage_file(bag):
    return next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3", ".zstd"))


def truncated(bag, share):
    file = storage_file(bag)
    with file.open("r+b") as data:
        data.truncate(round(file.stat().st_size * share))
    return bag


def garbled(monkeypatch, chosen):
    """Makes recordings in which the serialised bytes of the chosen messages end early."""
    import convert_recordings

    monkeypatch.setattr(
        convert_recordings, "serialised", lambda message: serialised(message)[: 6 if chosen(message) else None]
    )


# --- damage ---


@pytest.mark.parametrize(
    ("storage", "rounds"),
    [
        ("mcap", 10),
        ("sqlite3", 10),
        pytest.param("mcap", 40, marks=pytest.mark.long),
        pytest.param("sqlite3", 25, marks=pytest.mark.long),
    ],
)
def test_flipped_bytes_never_stop_the_conversion_of_other_recordings(tmp_path, sound, storage, rounds):
    bag = write_bag(tmp_path / "bag", sound, storage)
    file, metadata = storage_file(bag), bag / "metadata.yaml"
    original, facts = file.read_bytes(), metadata.read_bytes()
    rng = random.Random(7)
    seen = set()
    for number in range(rounds):
        data = bytearray(original)
        kind = ("flips", "zeros", "end", "cut", "facts")[number % 5]
        if kind == "flips":
            for _ in range(20):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == "zeros":
            at = rng.randrange(len(data))
            data[at : at + 4096] = bytes(len(data[at : at + 4096]))
        elif kind == "end":
            for _ in range(5):
                data[-rng.randrange(1, 6000)] = rng.randrange(256)
        elif kind == "cut":
            del data[rng.randrange(len(data)) :]
        spoiled = bytearray(facts)
        if kind == "facts":
            spoiled[rng.randrange(len(facts))] = rng.randrange(256)
        file.write_bytes(data)
        metadata.write_bytes(spoiled)
        run = convert(tmp_path / "ds", bag, **({"dry_run": True} if number % 4 else {}))
        assert run.status == 0 or "not used: " in run.text or "dropped: " in run.text, (kind, run.text)
        seen.add(run.status)
        shutil.rmtree(tmp_path / "ds", ignore_errors=True)
    assert seen == {0, 1}  # some can be read all the same


def test_a_page_of_a_database_that_cannot_be_read_costs_its_recording_only(tmp_path, good, sound):
    bag = write_bag(tmp_path / "bad", sound, "sqlite3")
    with storage_file(bag).open("r+b") as data:  # the file opens, some of its messages cannot be had
        data.seek(storage_file(bag).stat().st_size // 2 // PAGE * PAGE + PAGE // 2)
        data.write(bytes(PAGE // 2))
    run = convert(tmp_path / "ds", good, bag)
    assert run.status == 0 and len(run.episodes()) == 1
    assert f"not used: {bag}: " in run.text and "damaged" in run.text


@pytest.mark.parametrize("value", ["x'00'", "-5", "9223372036854775807", "'soon'"])
def test_a_receive_time_that_is_none_costs_its_recording_only(tmp_path, good, sound, value):
    bag = write_bag(tmp_path / "bad", sound, "sqlite3")
    connection = sqlite3.connect(storage_file(bag))
    connection.execute(f"UPDATE messages SET timestamp = {value} WHERE id = 100")
    connection.commit()
    connection.close()
    run = convert(tmp_path / "ds", good, bag)
    assert run.status == 0 and len(run.episodes()) == 1
    assert f"not used: {bag}: damaged: a message was received at" in run.text


def test_names_that_are_no_text_cost_their_recording_only(tmp_path, good, sound):
    bag = write_bag(tmp_path / "bad", sound)
    file = storage_file(bag)
    data = file.read_bytes()
    assert data.count(b"sensor_msgs/msg/JointState")
    file.write_bytes(data.replace(b"sensor_msgs/msg/JointState", b"sensor_msgs/msg/Join\xff\xfe\xff\xfe\xff\xfe"))
    run = convert(tmp_path / "ds", good, bag)
    assert run.status == 0 and len(run.episodes()) == 1
    assert "not used: " in run.text and "left_arm: /left_arm/joint_states is of type unknown" in run.text


def test_metadata_that_are_no_text_are_passed_over(tmp_path, good):
    (good / "metadata.yaml").write_bytes(b"\xff\xfe\x00")
    run = convert(tmp_path / "ds", good)
    assert run.status == 0 and "metadata.yaml cannot be used" in run.text


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_compressed_file_that_ends_early_costs_its_recording_only(tmp_path, good, sound, share):
    bag = truncated(write_bag(tmp_path / "bad", sound, mode="file"), share)
    run = convert(tmp_path / "ds", good, bag)
    assert run.status == 0 and len(run.episodes()) == 1
    assert f"{storage_file(bag).name}: {'cannot be read' if share else 'the file is empty'}" in run.text


def test_a_full_disk_is_no_fault_of_a_recording(tmp_path, sound, monkeypatch):
    bag = write_bag(tmp_path / "bag", sound, mode="file")

    def full(*_):
        raise OSError(28, "No space left on device", "scratch")

    monkeypatch.setattr("training.bags.reading.shutil.copyfileobj", full)
    run = convert(tmp_path / "ds", bag)
    assert run.status == 1 and "No space left on device" in run.text and "--resume" in run.text
    assert "not used" not in run.text


def test_a_worker_that_is_killed_for_want_of_memory_is_explained(tmp_path, good):
    def kill():
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        children[0].kill()

    shutil.copytree(good, tmp_path / "good_2")
    killer = threading.Thread(target=kill)
    killer.start()
    run = convert(tmp_path / "ds", good, tmp_path / "good_2", workers=2)
    killer.join()
    assert run.status == 1 and "--resume and fewer --workers" in run.text
    assert convert(tmp_path / "ds", good, tmp_path / "good_2", workers=1, resume=True).status == 0


# --- single messages ---


def test_a_garbled_event_is_counted_and_the_rest_is_used(tmp_path, sound, monkeypatch):
    at = lambda s: START + round(s * 1e9)  # noqa: E731
    events = [event(0, at(0.1)), event(2, at(0.5), label="bad"), event(2, at(0.7), label="good"), event(1, at(1.1))]
    garbled(monkeypatch, lambda m: m.type == EVENT and m.fields["label"] == "bad")
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", [*sound, *events]), task=None)
    assert run.status == 0, run.text
    assert [m["label"] for m in run.progress["episodes"][0]["milestones"]] == ["good"]
    assert "/episode_event: 1 messages cannot be read and are passed over" in run.text


def test_an_episode_whose_beginning_is_garbled_does_not_become_the_whole_recording(tmp_path, sound, monkeypatch):
    garbled(monkeypatch, lambda m: m.type == EVENT and m.fields["event"] == 0)
    events = [event(0, START + 5 * 10**8), event(1, START + 10**9, outcome=2)]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", [*sound, *events]))
    assert run.status == 1 and not run.root.exists()
    report = json.loads((tmp_path / "ds.report" / "conversion_report.json").read_text())
    assert report["bags"][0]["episodes_by"] == "events" and report["episodes"] == []
    assert any("1 messages cannot be read" in note for note in report["bags"][0]["notes"])


def test_garbled_button_messages_and_numbers_are_counted(tmp_path, monkeypatch):
    bad = {START + 10**8, START + 10**9}
    garbled(monkeypatch, lambda m: m.stamp in bad and m.type in (NUMBER, "sensor_msgs/msg/Joy"))
    presses = {20: (2,), 180: (3,)}
    messages = [m for m in recording(2.0) if "gripper/joint_cmd" not in m.topic and "arm/joint_cmd" not in m.topic]
    for side in ("left", "right"):
        arm = PROFILE.arms[side]
        messages += [
            Message(arm.target_topic, m.type, m.stamp, m.stamp, m.fields)
            for m in joints(2.0)
            if m.topic == arm.teleoperation_topic
        ]
        topic = PROFILE.grippers[side].command_topic
        messages += [Message(topic, NUMBER, t, t, {"data": 0.5}) for t in (START, START + 10**9)]
    messages += [button(t, presses.get(i, ())) for i, t in enumerate(times(100, 2.0))]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages), actions="policy")
    assert run.status == 0, run.text
    notes = str(run.report["bags"][0]["notes"])
    assert f"{PROFILE.marks.topic}: 2 messages cannot be read" in notes
    assert f"{PROFILE.grippers['left'].command_topic}: 1 messages cannot be read" in notes
    assert run.numbers("head_camera") == list(range(6, 55))


# --- recordings and episodes without their end ---


def cut_mcap(folder):
    bag = write_bag(folder / "bag", joints(3.0) + pictures(3.0, kind=IMAGE))  # of several chunks
    (bag / "metadata.yaml").unlink()
    return truncated(bag, 0.7)


def cut_split(folder):
    bag = split_bag(folder / "bag", recording(2.0), 1.0)
    sorted(bag.glob("*.mcap"))[-1].unlink()
    return bag


def cut_sqlite(folder):
    bag = write_bag(folder / "bag", recording(1.0), "sqlite3")
    (bag / "metadata.yaml").unlink()
    return bag


def cut_first(folder):
    bag = split_bag(folder / "bag", recording(2.0), 1.0)
    sorted(bag.glob("*.mcap"))[0].write_bytes(b"")
    return bag


@pytest.mark.parametrize("cut", [cut_mcap, cut_split, cut_sqlite, cut_first])
def test_a_recording_that_is_cut_off_is_marked_so_for_whoever_labels_it(tmp_path, cut):
    run = convert(tmp_path / "ds", cut(tmp_path))
    assert run.status == 0, run.text
    (known,) = run.progress["episodes"]
    assert known["outcome"] == "UNKNOWN" and known["note"].startswith("cut off: ")
    remark = "the episode's end is not the task's end"
    assert remark in run.text and remark in run.report["episodes"][0]["notes"][0]
    assert remark in (run.root / "conversion_report.html").read_text().replace("&#x27;", "'")
    assert not run.column("next.success").any()


def test_an_episode_that_ended_before_its_recording_was_cut_off_is_a_whole_one(tmp_path):
    events = [event(0, START + 10**8), event(1, START + 15 * 10**8, outcome=1), event(0, START + 18 * 10**8, "e2")]
    bag = write_bag(tmp_path / "bag", joints(3.0) + pictures(3.0, kind=IMAGE) + events)
    run = convert(tmp_path / "ds", truncated(bag, 0.75), task=None)
    assert run.status == 0, run.text
    (known,) = run.progress["episodes"]
    assert known["outcome"] == "SUCCESS" and known["note"] == ""
    assert "e2" in run.text and "no stop event" in run.text


def test_a_recording_whose_summary_is_damaged_is_complete_all_the_same(tmp_path, good):
    file = storage_file(good)
    data = bytearray(file.read_bytes())
    data[-8:] = bytes(8)
    file.write_bytes(data)
    run = convert(tmp_path / "ds", good)
    assert run.status == 0 and len(run.column("index")) == 36
    assert run.progress["episodes"][0]["note"] == "" and "its summary cannot be used" in run.text


def test_a_summary_with_a_wrong_checksum_is_not_believed(tmp_path, sound):
    file = write_mcap(tmp_path / "a.mcap", sorted(sound, key=lambda m: m.received))
    data = bytearray(file.read_bytes())
    indexes = [at for kind, at, _ in mcap_records(file) if kind == 8]
    data[indexes[len(indexes) // 2] + 9 + 8 + 3] ^= 0x80  # when a chunk ends
    file.write_bytes(data)
    run = convert(tmp_path / "ds", file)
    assert run.status == 0 and len(run.column("index")) == 36
    assert "its summary cannot be used (its checksum is wrong)" in run.text


@pytest.mark.parametrize("byte", [0, 5])
def test_what_follows_a_damaged_record_outside_chunks_is_missed(tmp_path, sound, byte):
    messages = sorted(sound, key=lambda m: m.received)
    file = write_mcap(tmp_path / "a.mcap", messages, use_chunking=False)
    data = bytearray(file.read_bytes())
    places = [at for kind, at, _ in mcap_records(file) if kind == 5]
    data[places[len(places) // 2] + 1 + byte] ^= 0x10  # the record's length
    file.write_bytes(data)
    run = convert(tmp_path / "ds", file, dry_run=True)
    assert "18 frames: the recording is cut off" in run.text, run.text
    assert f"no proper end (it counts {len(sound)} messages)" in run.text and "are lost" in run.text


@pytest.mark.parametrize("compression", list(CompressionType))
def test_a_chunk_that_a_power_cut_left_half_written_costs_itself_only(tmp_path, sound, compression):
    file = write_mcap(tmp_path / "a.mcap", sorted(sound, key=lambda m: m.received), compression=compression)
    data = file.read_bytes()
    _, at, chunk = [record for record in mcap_records(file) if record[0] == 6][-3]
    file.write_bytes(data[: at + len(chunk) // 2] + bytes(len(chunk)))
    run = convert(tmp_path / "ds", file)
    assert run.status == 0 and 20 < len(run.column("index")) < 36, run.text
    assert "no proper end" in run.text and run.progress["episodes"][0]["note"].startswith("cut off: ")


def test_an_aborted_episode_is_dropped_unless_asked_for(tmp_path, sound):
    note = "aborted: the recorder was stopped"
    events = [event(0, START + 10**8), event(1, START + 11 * 10**8, label=note)]
    bag = write_bag(tmp_path / "bag", [*sound, *events])
    dropped = convert(tmp_path / "ds", bag)
    assert dropped.status == 1 and note in dropped.text and "--keep-aborted" in dropped.text
    kept = convert(tmp_path / "ds", bag, keep_aborted=True)
    assert kept.status == 0 and kept.progress["episodes"][0]["note"] == note
    assert kept.progress["episodes"][0]["outcome"] == "UNKNOWN"


# --- what is told ---


def test_what_is_odd_about_kept_episodes_is_printed_in_a_few_lines(tmp_path, sound):
    for i in range(4):
        messages = without(sound, "/left/color/image_raw/compressed", 0.49 + i / 10, 0.51 + i / 10)
        bag = write_bag(tmp_path / "bags" / f"bag_{i}", messages)
        (bag / "metadata.yaml").unlink()
    run = convert(tmp_path / "ds", tmp_path / "bags")
    lines = run.text[run.text.index("kept, but") :].splitlines()[1:]
    remarks = [line for line in lines if line.startswith("  ")]
    assert remarks == [
        "  bag_0 and 3 more: no metadata.yaml; its files are read in the order of their names",
        "  frames show the nearest picture for want of one of their own: left_color 4 of 144",
    ]
    clean = convert(tmp_path / "clean", write_bag(tmp_path / "clean_bag", sound))
    assert clean.status == 0 and "kept, but" not in clean.text


def test_a_report_is_written_beside_where_no_episode_is_kept_and_goes_when_one_is(tmp_path, sound):
    bag = write_bag(tmp_path / "bag", without(sound, "/left_arm/joint_states", 0.3, 0.9))
    (tmp_path / "broken.mcap").write_bytes(b"")
    run = convert(tmp_path / "ds", bag, tmp_path / "broken.mcap")
    assert run.status == 1 and not run.root.exists()
    folder = tmp_path / "ds.report"
    assert f"report: {folder / 'conversion_report.html'}" in run.text
    report = json.loads((folder / "conversion_report.json").read_text())
    assert report["episodes_kept"] == 0 and "gap of 0.6" in report["episodes"][0]["reasons"][0]
    assert (
        "the file is empty" in str(report["bags"]) and "gap of 0.6" in (folder / "conversion_report.html").read_text()
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag", "broken.mcap", "ds.report"]
    assert convert(tmp_path / "ds", bag, max_gap=1.0).status == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag", "broken.mcap", "ds"]


def test_a_dry_run_leaves_no_report(tmp_path):
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", []), dry_run=True)
    assert run.status == 1 and sorted(p.name for p in tmp_path.iterdir()) == ["bag"]
