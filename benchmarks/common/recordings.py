"""Recordings for benchmarks: moving pictures of any size and form, joints and commands at a robot's rates."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from pi05_progress.robots.profile import RobotProfile
from training.bags.message_types import known_types

Form = Literal["raw", "jpeg", "hevc"]
START = 1_767_225_600 * 10**9
RATES = {"state": 200, "command": 100, "image": 30}
TYPES = {
    "joints": "sensor_msgs/msg/JointState",
    "raw": "sensor_msgs/msg/Image",
    "jpeg": "sensor_msgs/msg/CompressedImage",
    "hevc": "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
}
SUFFIX = {"raw": "", "jpeg": "/compressed", "hevc": "/ffmpeg"}
LOOP = 60  # different pictures per camera, shown forwards and backwards in turn


def pictures(height: int, width: int, seed: int, count: int = LOOP) -> list[np.ndarray]:
    """Pictures (h, w, 3) of a scene that moves a little, with a camera's noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 220, (height // 30 + 2, width // 30 + 2, 3), dtype=np.uint8)
    scene = cv2.resize(coarse, (width + 2 * count, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 2, (height, width, 3)).astype(np.int16)
    frames = []
    for i in range(count):
        frame = scene[:, i : i + width].astype(np.int16) + np.roll(noise, 7 * i, axis=1)
        size = height // 6
        x, y = (width - size) * i // count, height // 2 + int(height / 4 * np.sin(i / 10))
        frame[y : y + size, x : x + size] = (200, 60, 40)
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return frames


def shown(frames: list, index: int) -> Any:
    """The picture at a time: the loop there and back, so that nothing jumps."""
    place = index % (2 * len(frames))
    return frames[place] if place < len(frames) else frames[2 * len(frames) - 1 - place]


def write_recording(path: Path, profile: RobotProfile, seconds: float, size: tuple[int, int], form: Form) -> None:
    """Write a bag (MCAP) of the profile's topics, in bounded memory.

    Args:
        path: the bag's folder.
        profile: the robot, whose cameras are Image topics.
        seconds: how long.
        size: (height, width) of all cameras.
        form: how pictures are recorded; H.265 as a camera's encoder makes it, with a key frame every second.
    """
    store = known_types()
    images = {
        key: _images(pictures(*size, seed), form, round(seconds * 30)) for seed, key in enumerate(profile.cameras)
    }
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}

        def write(topic: str, kind: str, stamp: int, **fields: Any) -> None:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, TYPES[kind], typestore=store)
            time = store.types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
            header = store.types["std_msgs/msg/Header"](stamp=time, frame_id="")
            message = store.types[TYPES[kind]](header=header, **fields)
            writer.write(connections[topic], stamp, store.serialize_cdr(message, TYPES[kind]))

        for tick in range(round(seconds * 600)):  # of which all three rates are parts
            stamp = START + round(tick * 1e9 / 600)
            for side, arm in profile.arms.items():
                gripper = profile.grippers[side]
                if tick % 3 == 0:
                    _joints(write, arm.state_topic, arm.joints, stamp)
                    _joints(write, gripper.state_topic, (gripper.joint,), stamp)
                if tick % 6 == 0:
                    _joints(write, arm.teleoperation_topic, arm.joints, stamp)
                    _joints(write, gripper.teleoperation_topic, (gripper.joint,), stamp)
            if tick % 20 == 0:
                for key, camera in profile.cameras.items():
                    write(camera.topic + SUFFIX[form], form, stamp, **next(images[key]))


def _joints(write: Any, topic: str, names: tuple[str, ...], stamp: int) -> None:
    values = 0.3 * np.sin((stamp - START) * 1e-9 + np.arange(len(names)))
    write(topic, "joints", stamp, name=list(names), position=values, velocity=values, effort=values)


def _images(frames: list[np.ndarray], form: Form, count: int) -> Iterator[dict[str, Any]]:
    """Fields of one camera's messages."""
    height, width = frames[0].shape[:2]
    if form == "raw":
        facts = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
        yield from ({**facts, "data": shown(frames, i).reshape(-1)} for i in range(count))
    elif form == "jpeg":
        coded = [cv2.imencode(".jpg", f[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].ravel() for f in frames]
        yield from ({"format": "rgb8; jpeg compressed bgr8", "data": shown(coded, i)} for i in range(count))
    else:
        yield from encoded_packets(frames, count)


def encoded_packets(frames: list[np.ndarray], count: int) -> Iterator[dict[str, Any]]:
    """Fields of ``count`` messages that hold these pictures as H.265, a key frame a second."""
    height, width = frames[0].shape[:2]
    encoder = av.CodecContext.create("libx265", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), 30
    encoder.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "x265-params": "log-level=none:keyint=30:bframes=0:repeat-headers=1",
    }
    facts = {"width": width, "height": height, "encoding": "hevc", "is_bigendian": False}
    for i in range(count):
        frame = av.VideoFrame.from_ndarray(shown(frames, i), format="rgb24")
        frame.pts = i
        (packet,) = encoder.encode(frame)
        data = np.frombuffer(bytes(packet), np.uint8)
        yield {**facts, "pts": i, "flags": int(packet.is_keyframe), "data": data}
