"""What is in recordings of a kind that is easily taken for another, or given up for something that does not matter."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from convert_recordings import (
    FRAMES,
    IMAGE,
    NUMBER,
    PROFILE,
    SECONDS,
    START,
    Message,
    event,
    joints,
    mcap_records,
    moved,
    packets,
    pictures,
    write_bag,
    write_mcap,
)
from convert_results import convert, only
from mcap.writer import CompressionType, IndexType

from training.bags.mcap import McapFile


def changed(messages, topic, indices, **fields):
    """The messages with other fields in some of those of a topic."""
    at = [i for i, m in enumerate(messages) if m.topic == topic]
    made = list(messages)
    for index in indices:
        made[at[index]] = moved(made[at[index]])
        made[at[index]].fields = {**made[at[index]].fields, **fields}
    return made


# --- what is in a file ---


def rewritten(file, change):
    """Write an MCAP file anew, not compressed and without chunks or summary; ``change`` gets each schema's parts."""
    source = McapFile(file)
    source.close()
    out = bytearray(file.read_bytes()[:8])

    def put(kind, *parts):
        body = b"".join(struct.pack("<I", len(p)) + p if isinstance(p, bytes) else struct.pack(*p) for p in parts)
        out.extend(struct.pack("<BQ", kind, len(body)) + body)

    put(1, b"ros2", b"")
    for channel in source.channels:
        named = (channel.type.encode(), channel.format.encode(), channel.definition.encode())
        put(3, ("<H", channel.id + 1), *change(*named))
        put(4, ("<HH", channel.id, channel.id + 1), channel.topic.encode(), channel.encoding.encode(), ("<I", 0))
    source = McapFile(file)
    numbers = {channel.topic: channel.id for channel in source.channels}
    for topic, time, data in source.messages(numbers, None, None):
        out.extend(struct.pack("<BQHIQQ", 5, 22 + len(data), numbers[topic], 0, time, time) + bytes(data))
    source.close()
    put(15, ("<I", 0))
    out.extend(struct.pack("<BQQQI", 2, 20, 0, 0, 0) + file.read_bytes()[:8])
    file.write_bytes(out)


ODD = {
    "jsonschema of a topic that is not needed": lambda n, e, d: (
        (n, b"jsonschema", b"{}") if b"Float32" in n else (n, e, d)
    ),
    "garbage of a topic that is not needed": lambda n, e, d: (n, e, b"\xff{{{") if b"Float32" in n else (n, e, d),
    "a name that is no text": lambda n, e, d: (b"\xff/msg/A", e, d) if b"Float32" in n else (n, e, d),
    "a comment in Latin 1": lambda n, e, d: (n, e, b"# Gr\xf6\xdfe\n" + d),
    "lines that end as on Windows": lambda n, e, d: (n, e, d.replace(b"\n", b"\r\n")),
    "no dependencies": lambda n, e, d: (n, e, d.split(b"=" * 80)[0]),
    "only names": lambda n, e, d: (n, e, n),
    "names as of ROS 1": lambda n, e, d: (n.replace(b"/msg/", b"/"), e, d),
    "nothing": lambda n, e, d: (n, e, b""),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_definition_costs_nothing_where_its_type_is_known_or_not_needed(tmp_path, sound, odd):
    extra = [Message("/temperature", NUMBER, START, START, {"data": 1.0})]
    bag = write_bag(tmp_path / "bag", [*sound, *extra])
    rewritten(only(bag, ".mcap"), ODD[odd])
    run = convert(tmp_path / "ds", bag)
    assert run.status == 0 and run.numbers("left_color") == FRAMES, run.text
    assert ("definition of sensor_msgs/msg/JointState cannot be used" in run.text) == (odd == "only names")


CHUNK, CHUNK_INDEX, DATA_END, FOOTER = 6, 8, 15, 2
PRIVATE = struct.pack("<BQ", 0x90, 5) + b"hello"


def unpacked(records, which):
    """The messages of some chunks stand in the file by themselves."""
    chosen = [at for kind, at, _ in records if kind == CHUNK][which]
    for kind, at, data in records:
        (name,) = struct.unpack_from("<I", data, 37) if kind == CHUNK else (0,)
        if kind != CHUNK_INDEX or struct.unpack_from("<Q", data, 25)[0] not in chosen:
            yield kind, data[49 + name :] if at in chosen else data


LAYOUTS = {
    "no index of chunks": ({"index_types": IndexType.NONE}, None),
    "neither index nor counts": ({"index_types": IndexType.NONE, "use_statistics": False}, None),
    "no chunks": ({"use_chunking": False}, None),
    "a private kind of record": (
        {"index_types": IndexType.NONE},
        lambda all_: ((k, PRIVATE + d if k == CHUNK else d) for k, _, d in all_),
    ),
    "the index of some chunks lost": (
        {}, lambda all_: ((k, d) for i, (k, _, d) in enumerate(all_) if k != CHUNK_INDEX or i % 3)
    ),
    "messages after those in chunks": ({}, lambda all_: unpacked(all_, slice(-1, None))),
    "messages between those in chunks": (
        {"index_types": IndexType.NONE}, lambda all_: unpacked(all_, slice(None, None, 2))
    ),
}  # fmt: skip


def laid_out(file, records):
    """Write these records, (kind, bytes), as an MCAP file whose summary has no checksum."""
    magic, data, start = file.read_bytes()[:8], b"", 0
    for kind, record in records:
        data += record if kind != FOOTER else struct.pack("<BQQQI", FOOTER, 20, start, 0, 0)
        start = len(data) + 8 if kind == DATA_END else start
    file.write_bytes(magic + data + magic)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_complete_file_is_read_however_it_is_laid_out_and_ordered(tmp_path, sound, layout):
    options, change = LAYOUTS[layout]
    rng = np.random.default_rng(0)
    late = sorted(sound, key=lambda m: m.received + rng.integers(2 * 10**8))  # not in the order of reception
    file = write_mcap(tmp_path / "a.mcap", late, compression=CompressionType.NONE, **options)
    if change:
        laid_out(file, change(mcap_records(file)))
    run = convert(tmp_path / "ds", file)
    assert run.status == 0 and "kept, but" not in run.text, run.text
    assert run.numbers("head_camera") == FRAMES


def test_messages_that_are_not_cdr_are_named(tmp_path, sound):
    bag = write_bag(tmp_path / "bag", sound, "sqlite3")
    with sqlite3.connect(only(bag, ".db3")) as connection:
        connection.execute("UPDATE topics SET serialization_format = 'json' WHERE name = '/left_arm/joint_states'")
    run = convert(tmp_path / "ds", bag)
    assert run.status == 1 and "JointState encoded as json" in run.text


@pytest.mark.parametrize("encoding", ["av1", "mjpeg", "mpeg4", ""])
def test_packets_of_another_codec_cost_their_recording_only(tmp_path, sound, encoding):
    write_bag(tmp_path / "bags" / "good", sound)
    sent = [moved(m) for m in packets(SECONDS, "h264", camera="left_color")]
    for m in sent:
        m.fields = {**m.fields, "encoding": encoding}
    rest = [m for m in sound if "/left/color" not in m.topic]
    write_bag(tmp_path / "bags" / "odd", rest + sent)
    run = convert(tmp_path / "ds", tmp_path / "bags", dry_run=True)
    assert run.status == 0 and f"odd: left_color: packets of encoding {encoding!r}" in run.text


def test_an_error_that_nobody_thought_of_costs_its_recording_only(tmp_path, sound, monkeypatch):
    from training.bags import pool

    for name in ("a", "b", "c"):
        write_bag(tmp_path / "bags" / name, sound)
    fault = {"a": ("scan_bag", 0), "b": ("convert_episode", 1)}

    def failing(name, position):
        usual = getattr(pool, name)

        def run(*arguments):
            of = arguments[0] if position == 0 else arguments[1].path
            if Path(of).name in fault and fault[Path(of).name][0] == name:
                raise KeyError("unheard of")
            return usual(*arguments)

        monkeypatch.setattr(pool, name, run)

    for each in fault.values():
        failing(*each)
    run = convert(tmp_path / "ds", tmp_path / "bags")
    assert run.status == 0 and len(run.episodes()) == 1 and run.text.count("KeyError: 'unheard of'") == 2


# --- first and last messages ---

ARM, COMMAND = PROFILE.arms["left"].state_topic, PROFILE.arms["left"].teleoperation_topic
GRIPPER, CAMERA = PROFILE.grippers["left"].state_topic, "/head/image_raw/compressed"
NAN = {"position": np.full(7, np.nan)}
EMPTY = {"name": [], "position": np.zeros(0), "velocity": np.zeros(0), "effort": np.zeros(0)}


@pytest.mark.parametrize("index", [0, -1])
@pytest.mark.parametrize(
    ("topic", "fields"),
    [(ARM, NAN), (ARM, EMPTY), (COMMAND, NAN), (GRIPPER, {"position": np.full(1, np.nan)}),
     (CAMERA, {"data": np.frombuffer(b"no picture", np.uint8)})],
)  # fmt: skip
def test_a_message_at_an_end_that_cannot_be_used_costs_a_frame_at_most(tmp_path, sound, topic, fields, index):
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", changed(sound, topic, [index], **fields)))
    assert run.status == 0 and len(run.column("index")) in (35, 36), run.text


@pytest.mark.parametrize(("topic", "fields"), [(ARM, NAN), (COMMAND, NAN), (CAMERA, {"data": np.zeros(3, np.uint8)})])
def test_an_input_whose_first_messages_cannot_be_used_begins_late_and_that_is_said(tmp_path, topic, fields):
    count = 15 if topic == CAMERA else 30  # of half a second
    messages = joints(2.0, state_hz=60, command_hz=60) + pictures(2.0)
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", changed(messages, topic, range(count), **fields)))
    assert run.status == 0, run.text
    assert run.numbers("left_color") == list(range(15, 60))
    assert "begins 0.50 s late; the first frame is there" in run.text


@pytest.mark.parametrize("field", ["velocity", "effort"])
def test_a_field_that_is_not_measured_names_the_remedy(tmp_path, sound, field):
    count = sum(m.topic == ARM for m in sound)
    messages = changed(sound, ARM, range(count), **{field: np.full(7, np.nan)})
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages))
    assert run.status == 1 and f"{field} of l_joint1" in run.text and f"must leave {field} empty" in run.text


def test_an_event_of_an_unknown_kind_ends_nothing(tmp_path, sound):
    events = [event(0, START + 10**8), event(7, START + 5 * 10**8), event(1, START + 10**9, outcome=1)]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", [*sound, *events]), task=None)
    assert run.numbers("head_camera") == FRAMES[3:31] and "kinds that are not known, [7]" in run.text


# --- pictures ---


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "8UC3", "32FC1"])
def test_pictures_that_do_not_name_their_colours_are_refused(tmp_path, sound, encoding):
    raw = pictures(SECONDS, kind=IMAGE, cameras=("left_color",))
    for m in raw:
        rows = 72 if encoding[:2] == "nv" else 48
        step = {"8UC3": 192, "32FC1": 256}.get(encoding, 64)
        m.fields |= {"encoding": encoding, "step": step, "data": np.zeros(rows * step, np.uint8)}
    bag = write_bag(tmp_path / "bag", [m for m in sound if "/left/color" not in m.topic] + raw)
    run = convert(tmp_path / "ds", bag, image_size="48x64")
    assert run.status == 1 and f"left_color: cannot decode {encoding!r}" in run.text and "rgb8" in run.text


def test_text_of_any_language_whatever_the_locale(tmp_path, sound):
    bag = write_bag(
        tmp_path / "积木", [*sound, event(0, START, label="起"), event(1, START + 10**9, task="收拾", label="好")]
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "training.convert_rosbags", "--input", bag, "--fps", "30", "--overwrite"]
    output = tmp_path / "ds"
    done = subprocess.run([*command, "--output", output, "--task", "叠积木", "--episodes", "bag"], env=environment)
    assert done.returncode == 0
    report = json.loads((output / "conversion_report.json").read_text(encoding="utf-8"))
    assert report["episodes"][0]["task"] == "叠积木"
    assert "积木: episodes by bag" in (output / "conversion_report.html").read_text(encoding="utf-8")
    refused = subprocess.run([*command, "--output", tmp_path / "数据"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 2 and "LC_ALL=C.UTF-8" in refused.stderr


def test_the_operators_later_judgement_is_the_outcome_and_the_note_stays(tmp_path, sound):
    said = "SUCCEEDED by ours with 0 interventions: done"
    events = [
        event(0, START), event(1, START + 4 * 10**8, outcome=1, label=said),
        event(0, START + 5 * 10**8, "e2"), event(1, START + 9 * 10**8, "e2", outcome=1, label=said),
        event(1, START + 95 * 10**7, outcome=2, label="judged: it fell"),
    ]  # fmt: skip
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", [*sound, *events]), task=None)
    assert run.status == 0, run.text
    assert [(of["outcome"], of["note"]) for of in run.progress["episodes"]] == [("FAILURE", said), ("SUCCESS", said)]
