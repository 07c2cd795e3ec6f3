"""Made-up recordings for tests of the converter: known joint courses, pictures that carry their number, any fault."""

import math
import shutil
import struct
from dataclasses import dataclass, field, replace
from fractions import Fraction  # noqa: F401  (who makes up other recordings takes all names of this file)

import cv2
import numpy as np
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from pi05_progress.robots.profile import RobotProfile
from training.bags.message_types import known_types

START = 1_767_225_600 * 10**9
STORE = known_types()
PROFILE = RobotProfile.load("teleavatar")
JOINTS, POSE, NUMBER = "sensor_msgs/msg/JointState", "geometry_msgs/msg/Pose", "std_msgs/msg/Float32"
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
PACKET, EVENT = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "pi05_progress_msgs/msg/EpisodeEvent"
TOPICS = {
    "head_camera": "/head/image_raw",
    "left_color": "/left/color/image_raw",
    "right_color": "/right/color/image_raw",
}
SIZE = (48, 64)  # height, width
SECONDS, FRAMES = 1.2, list(range(36))  # of a sparse recording
BITS = 12


@dataclass
class Message:
    """One message: when it was made and received, ns, and its fields."""

    topic: str
    type: str
    stamp: int
    received: int
    fields: dict = field(default_factory=dict)


def make(type_name, /, **fields):
    return STORE.types[type_name](**fields)


def header(stamp):
    time = make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return make("std_msgs/msg/Header", stamp=time, frame_id="")


def position(joint, time_s):
    """Where a joint (0-15 in a block of the state) is, rad: a smooth course of its own."""
    return 0.3 * math.sin(time_s * (0.5 + 0.1 * joint) + joint)


def numbered(index, size=SIZE):
    """A picture with its number in twelve light or dark fields; survives any codec."""
    height, width = size
    picture = np.zeros((3, 4), np.uint8)
    picture.flat = [255 * (index >> bit & 1) for bit in range(BITS)]
    return np.repeat(cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)[..., None], 3, 2)


def number_of(image):
    """The number in a picture (h, w, 3)."""
    height, width = image.shape[:2]
    centres = image[height // 6 :: height // 3, width // 8 :: width // 4][:3, :4, 0]
    return sum(int(value > 127) << bit for bit, value in enumerate(centres.ravel()))


def times(rate_hz, seconds, start=START):
    return [start + round(i * 1e9 / rate_hz) for i in range(round(seconds * rate_hz))]


def joint_message(topic, names, values, stamp):
    zeros = np.zeros(len(names))
    fields = {"name": list(names), "position": np.array(values, float), "velocity": zeros + 0.5, "effort": zeros - 0.25}
    return Message(topic, JOINTS, stamp, stamp, fields)


def joints(seconds, start=START, state_hz=200, command_hz=100):
    """States and the operator's commands; commands are the state's course, rounded to the command's own number."""
    made = []
    for side, first in (("left", 0), ("right", 8)):
        arm, gripper = PROFILE.arms[side], PROFILE.grippers[side]
        for stamp in times(state_hz, seconds, start):
            t = (stamp - START) * 1e-9
            values = [position(first + i, t) for i in range(8)]
            made.append(joint_message(arm.state_topic, arm.joints, values[:7], stamp))
            made.append(joint_message(gripper.state_topic, [gripper.joint], values[7:], stamp))
        for i, stamp in enumerate(times(command_hz, seconds, start)):
            made.append(joint_message(arm.teleoperation_topic, arm.joints, [i + 0.01 * j for j in range(7)], stamp))
            made.append(joint_message(gripper.teleoperation_topic, [gripper.joint], [i + 0.5], stamp))
    return made


def pictures(seconds, start=START, rate_hz=30, kind=COMPRESSED, size=SIZE, cameras=tuple(TOPICS), first=0):
    """Numbered pictures of every camera."""
    made = []
    for camera in cameras:
        for i, stamp in enumerate(times(rate_hz, seconds, start)):
            image = numbered(first + i, size)
            if kind == COMPRESSED:
                data = cv2.imencode(".png", image)[1].ravel()
                fields, topic = {"format": "rgb8; png compressed bgr8", "data": data}, f"{TOPICS[camera]}/compressed"
            else:
                fields = {"height": size[0], "width": size[1], "encoding": "rgb8", "is_bigendian": 0}
                fields |= {"step": size[1] * 3, "data": image.ravel()}
                topic = TOPICS[camera]
            made.append(Message(topic, kind, stamp, stamp, fields))
    return made


def packets(seconds, codec="hevc", gop=10, size=(96, 128), camera="left_color", start=START, rate_hz=30):
    """Numbered pictures as packets of H.265 or H.264."""
    from video_packets import encode

    stamps = times(rate_hz, seconds, start)
    encoded = encode([numbered(i, size) for i in range(len(stamps))], codec, gop, rate_hz=rate_hz)
    assert len(encoded) == len(stamps)
    made = []
    for i, (packet, stamp) in enumerate(zip(encoded, stamps, strict=True)):
        fields = {"width": size[1], "height": size[0], "encoding": codec, "pts": i, "flags": int(packet.is_keyframe)}
        fields |= {"is_bigendian": False, "data": np.frombuffer(bytes(packet), np.uint8)}
        made.append(Message(f"{TOPICS[camera]}/ffmpeg", PACKET, stamp, stamp, fields))
    return made


def event(kind, stamp, episode="e1", outcome=0, label="", task="stack the cubes"):
    fields = {"episode_id": episode, "event": kind, "outcome": outcome, "task": task, "label": label}
    return Message("/episode_event", EVENT, stamp, stamp, {**fields, "progress": math.nan})


def button(stamp, pressed=()):
    buttons = np.array([int(i in pressed) for i in range(4)], np.int32)
    fields = {"axes": np.zeros(2, np.float32), "buttons": buttons}
    return Message(PROFILE.marks.topic, "sensor_msgs/msg/Joy", stamp, stamp, fields)


def recording(seconds=2.0, **of_pictures):
    """A sound recording."""
    return joints(seconds) + pictures(seconds, **of_pictures)


def sparse_recording():
    """A sound one, small: its joints come at 60 Hz."""
    return joints(SECONDS, state_hz=60, command_hz=60) + pictures(SECONDS)


def serialised(message):
    fields = dict(message.fields)
    if message.type == JOINTS or "header" in {name for name, _ in STORE.fielddefs[message.type][1]}:
        fields["header"] = header(message.stamp)
    return STORE.serialize_cdr(make(message.type, **fields), message.type)


def write_bag(path, messages, storage="mcap", mode=None, keep_order=False):
    """Write a recording; messages are stored in order of reception unless ``keep_order``.

    Args:
        path: the bag's folder.
        messages: what is in it.
        storage: ``mcap`` or ``sqlite3``.
        mode: ``file`` or ``message`` compression.
        keep_order: store them as they are given.
    """
    plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
    writer = Writer(path, version=9, storage_plugin=plugin)
    if mode:
        writer.set_compression(CompressionMode[mode.upper()], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for message in messages if keep_order else sorted(messages, key=lambda m: m.received):
            key = (message.topic, message.type)
            if key not in connections:
                connections[key] = writer.add_connection(*key, typestore=STORE)
            writer.write(connections[key], message.received, serialised(message))
    return path


def write_mcap(path, messages, **options):
    """Write one MCAP file, messages in the order given; ``options`` are those of mcap's writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=20_000, **options)
        writer.start("ros2")
        channels = {}
        for message in messages:
            if message.topic not in channels:
                text = STORE.generate_msgdef(message.type)[0].encode()
                schema = writer.register_schema(message.type, "ros2msg", text)
                channels[message.topic] = writer.register_channel(message.topic, "cdr", schema)
            writer.add_message(channels[message.topic], message.received, serialised(message), message.received)
        writer.finish()
    return path


def mcap_records(file):
    """Kind, place and bytes of all records of an MCAP file, in order."""
    data, at, found = file.read_bytes(), 8, []
    while at < len(data) - 8:
        kind, length = struct.unpack_from("<BQ", data, at)
        found.append((kind, at, data[at : at + 9 + length]))
        at += 9 + length
    return found


def without(messages, topic=None, after=-math.inf, before=math.inf):
    """The messages but those of a topic (or of all) whose stamps are in (after, before), s from the start."""
    return [
        m for m in messages
        if not ((topic is None or m.topic == topic) and after < (m.stamp - START) * 1e-9 < before)
    ]  # fmt: skip


def moved(message, stamp=0, received=0):
    """The same message made and received later, ns."""
    return replace(message, stamp=message.stamp + stamp, received=message.received + received)


def split_bag(path, messages, at_s, storage="mcap"):
    """One bag of two files, as rosbag2 splits them."""
    import yaml

    halves = [path.with_name(f"{path.name}_{i}") for i in range(2)]
    limit = START + round(at_s * 1e9)
    write_bag(halves[0], [m for m in messages if m.received < limit], storage)
    write_bag(halves[1], [m for m in messages if m.received >= limit], storage)
    facts = [yaml.safe_load((half / "metadata.yaml").read_text())["rosbag2_bagfile_information"] for half in halves]
    path.mkdir()
    for half, fact in zip(halves, facts, strict=True):
        for name in fact["relative_file_paths"]:
            shutil.move(half / name, path / name)
        shutil.rmtree(half)
    whole = dict(facts[0])
    whole["relative_file_paths"] = [name for fact in facts for name in fact["relative_file_paths"]]
    whole["message_count"] = sum(fact["message_count"] for fact in facts)
    start = facts[0]["starting_time"]["nanoseconds_since_epoch"]
    end = facts[1]["starting_time"]["nanoseconds_since_epoch"] + facts[1]["duration"]["nanoseconds"]
    whole["duration"] = {"nanoseconds": end - start}
    for topic in whole["topics_with_message_count"]:
        for other in facts[1]["topics_with_message_count"]:
            if other["topic_metadata"]["name"] == topic["topic_metadata"]["name"]:
                topic["message_count"] += other["message_count"]
    (path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": whole}))
    return path
