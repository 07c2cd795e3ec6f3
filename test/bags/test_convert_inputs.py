"""What a recording may look like: storages, topics, joints, and everything that can be wrong with them."""

import hashlib
import sqlite3

import numpy as np
import pytest
from convert_recordings import IMAGE, JOINTS, START, STORE, event, moved, recording, split_bag, without, write_bag
from convert_results import convert

LEFT_ARM, LEFT_IMAGES = "/left_arm/joint_states", "/left/color/image_raw/compressed"


@pytest.fixture(scope="module")
def sound():
    """Messages of a sound recording of two seconds; do not change them."""
    return recording(2.0)


def files_of(folder):
    return {
        p: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("mode", [None, "file", "message"])
def test_every_storage_and_compression_gives_the_same_frames(tmp_path, sound, storage, mode):
    if storage == "sqlite3" and mode is None:
        bag = split_bag(tmp_path / "bag", sound, 1.0, storage)
    else:
        bag = write_bag(tmp_path / "bag", sound, storage, mode)
    before = files_of(bag)
    run = convert(tmp_path / "ds", bag)
    assert run.status == 0, run.text
    assert run.numbers("left_color") == list(range(60))
    assert files_of(bag) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag", "ds"]


def test_split_mcap_bags_are_one_recording(tmp_path, sound):
    run = convert(tmp_path / "ds", split_bag(tmp_path / "bag", sound, 0.7))
    assert run.numbers("head_camera") == list(range(60))


def test_compressed_chunks_within_mcap(tmp_path, sound):
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", sound, mode="storage"))
    assert run.numbers("head_camera") == list(range(60))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_without_metadata_is_read_by_its_files(tmp_path, sound, storage):
    bag = split_bag(tmp_path / "bag", sound, 1.0, storage)
    (bag / "metadata.yaml").unlink()
    run = convert(tmp_path / "ds", bag)
    assert run.numbers("head_camera") == list(range(60))
    assert any("no metadata.yaml" in note for note in run.report["bags"][0]["notes"])


def test_a_single_file_can_be_given(tmp_path, sound):
    bag = write_bag(tmp_path / "bag", sound)
    assert convert(tmp_path / "ds", next(bag.glob("*.mcap"))).status == 0


def test_a_truncated_mcap_file_is_read_to_its_last_complete_record(tmp_path):
    messages = sorted(recording(4.0, kind=IMAGE), key=lambda m: m.received)
    bag = write_bag(tmp_path / "bag", messages)  # of several chunks: raw pictures fill them
    file = next(bag.glob("*.mcap"))
    (bag / "metadata.yaml").unlink()
    with file.open("r+b") as data:
        data.truncate(file.stat().st_size * 7 // 10)
    run = convert(tmp_path / "ds", bag)
    assert run.status == 0, run.text
    numbers = run.numbers("left_color")
    assert numbers == list(range(len(numbers))) and 45 < len(numbers) < 90
    assert any("has no proper end" in note and "lost" in note for note in run.report["bags"][0]["notes"])


def test_old_sqlite_bags_embed_no_definitions(tmp_path, sound):
    bag = write_bag(tmp_path / "bag", [*sound, event(0, START), event(1, START + 10**9)], "sqlite3")
    connection = sqlite3.connect(next(bag.glob("*.db3")))
    connection.executescript("DROP TABLE message_definitions; DROP TABLE schema; DROP TABLE metadata;")
    connection.close()
    run = convert(tmp_path / "ds", bag)
    assert run.numbers("left_color") == list(range(31))


def test_a_bag_that_is_no_use_is_reported_and_the_others_are_converted(tmp_path, sound):
    write_bag(tmp_path / "bags" / "good", sound)
    (tmp_path / "bags" / "broken").mkdir()
    (tmp_path / "bags" / "broken" / "broken.mcap").write_bytes(b"")
    run = convert(tmp_path / "ds", tmp_path / "bags")
    assert run.status == 0 and "broken.mcap: the file is empty" in run.text
    assert [b.get("failed", "")[-17:] for b in run.report["bags"]] == ["", "the file is empty"]


def test_a_bag_without_messages(tmp_path):
    bag = write_bag(tmp_path / "bag", [])
    run = convert(tmp_path / "ds", bag)
    assert run.status == 1 and "holds no messages" in run.text
    assert not run.root.exists()


def test_nothing_to_read_is_a_usage_error(tmp_path):
    (tmp_path / "empty").mkdir()
    assert convert(tmp_path / "ds", tmp_path / "empty").status == 2
    assert "no such file" in convert(tmp_path / "ds", tmp_path / "nowhere").text


@pytest.mark.parametrize("topic", [LEFT_ARM, LEFT_IMAGES, "/right_arm/joint_cmd"])
def test_a_missing_topic_is_named(tmp_path, sound, topic):
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", without(sound, topic)))
    assert run.status == 1
    assert topic.removesuffix("/compressed") in run.text


def test_a_missing_gripper_is_named_and_becomes_zero_only_when_asked_for(tmp_path, sound):
    messages = without(without(sound, "/left_gripper/joint_states"), "/left_gripper/joint_cmd")
    bag = write_bag(tmp_path / "bag", messages)
    refused = convert(tmp_path / "ds", bag)
    assert refused.status == 1 and not refused.root.exists()
    assert "left_gripper: nothing on /left_gripper/joint_states" in refused.text
    assert "--allow-missing-grippers" in refused.text
    run = convert(tmp_path / "ds", bag, allow_missing_grippers=True)
    state = run.column("observation.state")
    assert np.all(state[:, [7, 23, 39]] == 0) and np.all(state[:, 15] != 0)
    assert run.report["bags"][0]["absent"] == ["left_gripper", "action left_gripper"]
    assert "left_gripper: nothing was recorded; its entries are 0" in run.text


def test_recordings_with_and_without_a_gripper_are_not_mixed(tmp_path, sound):
    for name in ("a", "b"):
        write_bag(tmp_path / "bags" / name, sound)
    write_bag(tmp_path / "bags" / "odd", without(sound, "/left_gripper/joint_cmd"))
    for options in ({}, {"allow_missing_grippers": True}):
        run = convert(tmp_path / f"ds_{len(options)}", tmp_path / "bags", **options)
        assert run.status == 0 and np.all(run.column("action")[:, 7] != 0)
        assert len(run.episodes()) == 2 and "odd" in run.text and "action left_gripper" in run.text
    write_bag(tmp_path / "bags" / "odd_2", without(sound, "/left_gripper/joint_cmd"))
    write_bag(tmp_path / "bags" / "odd_3", without(sound, "/left_gripper/joint_cmd"))
    run = convert(tmp_path / "ds", tmp_path / "bags", allow_missing_grippers=True)
    assert len(run.episodes()) == 3 and np.all(run.column("action")[:, 7] == 0)
    assert "dropped: a bag: nothing is missing, in most bags action left_gripper" in run.text


def test_a_recording_that_can_be_reached_in_several_ways_is_converted_once(tmp_path, sound):
    bags = tmp_path / "bags"
    write_bag(bags / "a", sound)
    (bags / "latest").symlink_to("a")
    (bags / "loop").symlink_to(".")
    (tmp_path / "link").symlink_to(bags)
    file = next((bags / "a").glob("*.mcap"))
    run = convert(tmp_path / "ds", file, bags, tmp_path / "link", bags / ".." / "bags", bags / "a", dry_run=True)
    assert run.status == 0 and "1 episodes of 60 frames" in run.text


def test_a_link_to_a_recording_is_one_and_a_link_to_a_folder_is_not_followed(tmp_path, sound):
    write_bag(tmp_path / "disk" / "session" / "x", sound)
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "session").symlink_to(tmp_path / "disk" / "session")
    refused = convert(tmp_path / "ds", chosen, dry_run=True)
    assert refused.status == 2 and "links to folders of recordings are not followed" in refused.text
    (chosen / "x").symlink_to(tmp_path / "disk" / "session" / "x")
    assert convert(tmp_path / "ds", chosen, dry_run=True).status == 0


def test_an_unknown_type_of_a_needed_topic_is_named(tmp_path, sound):
    from rosbags.typesys import get_types_from_msg

    STORE.register(get_types_from_msg("std_msgs/Header header\nfloat32[] angles\n", "vendor_msgs/msg/Angles"))
    messages = []
    for m in sound:
        if m.topic == LEFT_ARM:
            m = moved(m)
            m.type, m.fields = "vendor_msgs/msg/Angles", {"angles": np.zeros(7, np.float32)}
        messages.append(m)
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages))
    assert run.status == 1
    assert LEFT_ARM in run.text and "vendor_msgs/msg/Angles" in run.text and JOINTS in run.text


def test_two_robots_in_a_bag_are_told_apart_by_namespace(tmp_path, sound):
    messages = []
    for robot, sign in (("/robot1", 1), ("/robot2", -1)):
        for m in sound:
            m = moved(m)
            m.topic = robot + m.topic
            if m.type == JOINTS:
                m.fields = {**m.fields, "position": sign * m.fields["position"]}
            messages.append(m)
    bag = write_bag(tmp_path / "bag", messages)
    run = convert(tmp_path / "ds", bag)
    assert run.status == 1
    assert "/robot1, /robot2" in run.text and "--namespace" in run.text
    one = convert(tmp_path / "one", bag, namespace="/robot1").column("observation.state")
    two = convert(tmp_path / "two", bag, namespace="/robot2").column("observation.state")
    assert np.array_equal(one[:, :16], -two[:, :16])


@pytest.mark.parametrize(("prefix", "complaint"), [("other_", "other_l_joint1"), ("", "do two robots send")])
def test_two_robots_on_the_same_topics_are_refused(tmp_path, sound, prefix, complaint):
    other = []
    for m in sound:
        if m.topic == LEFT_ARM:
            m = moved(m, 2_000_000, 2_000_000)
            names = [prefix + name for name in m.fields["name"]]
            m.fields = {**m.fields, "name": names, "position": m.fields["position"] + 0.5}
            other.append(m)
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", [*sound, *other]))
    assert run.status == 1, run.text
    assert complaint in run.text


def test_joints_in_another_order_are_matched_by_name(tmp_path, sound):
    messages = []
    for m in sound:
        if m.topic == LEFT_ARM:
            m = moved(m)
            m.fields = {k: v[::-1] if k == "name" else v[::-1].copy() for k, v in m.fields.items()}
        messages.append(m)
    a = convert(tmp_path / "a", write_bag(tmp_path / "bag_a", sound)).column("observation.state")
    b = convert(tmp_path / "b", write_bag(tmp_path / "bag_b", messages)).column("observation.state")
    assert np.array_equal(a, b)


def test_joint_messages_without_velocity_and_effort_as_rclpy_sends_them(tmp_path, sound, monkeypatch):
    pytest.importorskip("rclpy")
    import convert_recordings
    from builtin_interfaces.msg import Time
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import JointState

    def as_rclpy_does(message, usual=convert_recordings.serialised):
        if message.topic != LEFT_ARM:
            return usual(message)
        sent = JointState(name=message.fields["name"], position=message.fields["position"].tolist())
        sent.header.stamp = Time(sec=message.stamp // 10**9, nanosec=message.stamp % 10**9)
        data = serialize_message(sent)
        assert len(data) > len(STORE.serialize_cdr(without_rest(message), JOINTS))  # undefined bytes at the end
        return data

    def without_rest(message):
        fields = {**message.fields, "velocity": np.zeros(0), "effort": np.zeros(0)}
        return convert_recordings.make(JOINTS, header=convert_recordings.header(message.stamp), **fields)

    monkeypatch.setattr(convert_recordings, "serialised", as_rclpy_does)
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", sound))
    assert run.status == 0, run.text
    state = run.column("observation.state")
    assert np.all(state[:, 16:23] == 0) and np.all(state[:, 24:31] == 0.5) and np.ptp(state[:, 0]) > 0


def test_renamed_joints_are_named(tmp_path, sound):
    messages = []
    for m in sound:
        if m.topic == LEFT_ARM:
            m = moved(m)
            m.fields = {**m.fields, "name": [name.replace("l_", "left_") for name in m.fields["name"]]}
        messages.append(m)
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages))
    assert run.status == 1
    assert "joints l_joint1" in run.text and "left_joint1" in run.text


@pytest.mark.parametrize(
    "bad", [np.nan, pytest.param(np.inf, marks=pytest.mark.long), 1e300]
)  # the last is more than a float32 can hold
def test_a_number_that_is_not_finite_never_reaches_the_data_set(tmp_path, sound, bad):
    def spoiled(start, stop):
        messages = []
        for m in sound:
            if m.topic == LEFT_ARM and start <= (m.stamp - START) * 1e-9 < stop:
                m = moved(m)
                m.fields = {**m.fields, "position": np.full(7, bad)}
            messages.append(m)
        return messages

    few = convert(tmp_path / "few", write_bag(tmp_path / "bag", spoiled(1.0, 1.05)))
    assert few.status == 0 and np.isfinite(few.column("observation.state")).all()
    assert few.report["episodes"][0]["parts"][0]["inputs"]["left_arm"]["bad"] >= 1
    many = convert(tmp_path / "many", write_bag(tmp_path / "bag2", spoiled(1.0, 1.5)))
    assert many.status == 1 and "not finite" in many.text
    split = convert(tmp_path / "split", tmp_path / "bag2", on_gap="split", max_gap=0.1)
    lengths = [e["length"] for e in split.episodes()]
    assert lengths == [30] and split.numbers("head_camera") == list(range(30))


def test_a_read_only_bag_is_enough(tmp_path, sound):
    for storage in ("mcap", "sqlite3"):
        bag = write_bag(tmp_path / storage, sound, storage)
        for path in (*bag.iterdir(), bag):
            path.chmod(0o555 if path.is_dir() else 0o444)
        assert convert(tmp_path / f"ds_{storage}", bag).status == 0
        bag.chmod(0o755)
        assert sorted(p.suffix for p in bag.iterdir()) == sorted([".yaml", ".mcap" if storage == "mcap" else ".db3"])


def test_topics_that_nobody_asks_for_may_be_of_any_type(tmp_path, sound):
    from rosbags.typesys import get_types_from_msg

    STORE.register(get_types_from_msg("uint8[] blob\n", "vendor_msgs/msg/Blob"))
    extra = [moved(m) for m in sound if m.topic == LEFT_ARM][:5]
    for m in extra:
        m.topic, m.type, m.fields = "/vendor", "vendor_msgs/msg/Blob", {"blob": np.zeros(3, np.uint8)}
    bag = write_bag(tmp_path / "bag", [*sound, *extra])
    file = next(bag.glob("*.mcap"))
    data = file.read_bytes()
    assert data.count(b"uint8[] blob") >= 1
    file.write_bytes(data.replace(b"uint8[] blob", b"uint8[[ ????"))  # a definition that cannot be parsed
    assert convert(tmp_path / "ds", bag).status == 0
