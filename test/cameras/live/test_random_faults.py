"""Minutes of random faults on every kind of stream at once: no crash, no growth, nothing used that is damaged or stale.

The faults are drawn by ``SEED``. ``SOAK_S`` in the environment sets how long it takes, s; memory is judged after two
minutes. What cannot be noticed, by docs/node.md, is not among the faults: bytes of a packet or JPEG that were changed
on the way, and a network that delays V2's datagrams.
"""

import array
import contextlib
import os
import socket
import time
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import PATIENCE_S, wait_for
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from video_packets import decoded, messages, moving

from ffmpeg_image_transport_msgs.msg import FFMPEGPacket
from pi05_progress.files.config_files import config_file
from pi05_progress.observation import PolicyOutput
from pi05_progress.policy import Policy
from pi05_progress.robots.messages import decode_image, prepare_image
from pi05_progress.robots.profile import COMPRESSED_TYPE, ArmProfile, RobotProfile
from pi05_progress.robots.video_packets import crop
from pi05_progress_ros.cameras.cameras import open_cameras
from pi05_progress_ros.cameras.rtp import packetize
from pi05_progress_ros.inputs import Inputs, Limits
from pi05_progress_ros.node.inference import InferenceLoop
from pi05_progress_ros.parameters import QosOverrides
from pi05_progress_ros.starting.simulation_choices import free_udp_port

SEED, SECONDS = 0, float(os.environ.get("SOAK_S", "240"))
SETTLED_S, WINDOW_S, GROWTH = 120.0, 30.0, 0.02
RATE_HZ, COUNT, GOP = 15.0, 60, 15  # of pictures, of a clip that comes again and again, from key frame to key frame
STALE_S = 1.5  # older a picture can never be when it is used: 1 s by its stamp, less where the picture hangs
MIXED = f"""
extends: {config_file("teleavatar.yaml")}
name: mixed
cameras: {{head_camera: {{transport: compressed}}}}
"""


def mark(picture):
    """Tells pictures apart that differ anywhere."""
    return zlib.crc32(np.ascontiguousarray(picture))


class Stream:
    """Takes pictures and sends them, for a while well, then with a fault; ``taken`` says when, by their marks."""

    faults = ("lost", "thinned", "hangs")

    def __init__(self, rng, taken):
        self.rng, self.taken, self.fault, self.until_s, self.count = rng, taken, "", 0.0, Counter()
        self.at, self.held, self.again = 0, 0, False  # the next picture, the one that comes again, whether it did

    def step(self, now_s, sound):
        """Take the next picture and send it or not."""
        if now_s >= self.until_s or (sound and self.fault):
            self.end(self.fault)
            well = sound or bool(self.fault)
            self.fault = "" if well else str(self.rng.choice(self.faults))
            self.until_s = now_s + self.rng.uniform(*((1.0, 4.0) if well else (0.2, 2.0)))
            self.count[self.fault or "well"] += 1
            self.held = self.at - self.at % GOP
            self.begin(self.fault)
        number, again = (self.held if self.fault == "hangs" else self.at) % COUNT, self.again
        self.again = self.fault == "hangs"
        for key, shown in () if again and self.again else self.shown(number):
            self.taken[key, shown] = time.time_ns()
        self.at += 1
        if self.fault != "lost" and not (self.fault == "thinned" and self.rng.random() < 0.2):
            self.send(number)

    def often(self, fault):
        return self.fault == fault and self.rng.random() < 0.4

    def begin(self, fault): ...

    def end(self, fault): ...


class Clip:
    """A coded video, and what cameras show of it."""

    def __init__(self, cameras, seed, size, codec="hevc", tiles=None):
        self.packets = messages(moving(COUNT, size, seed=seed), codec=codec, gop=GOP)
        whole = decoded(self.packets)
        tiles = tiles or dict.fromkeys(cameras)
        self.shown = [
            [(key, mark(prepare_image(crop(whole[n], tiles[key]), camera))) for key, camera in cameras.items()]
            for n in range(COUNT)
        ]


class Packets(Stream):
    """A camera of V1."""

    faults = (*Stream.faults, "garbage", "empty", "burst", "size", "codec", "restart", "two", "stamps")

    def __init__(self, rng, taken, node, intruder, key, camera):
        super().__init__(rng, taken)
        size, half = ((64, 128), (48, 96)) if camera.eye else ((96, 128), (48, 64))
        seed = int(rng.integers(1000))
        made = ((size, "hevc"), (half, "hevc"), (size, "h264"), (size, "hevc"))
        self.clips = [Clip({key: camera}, seed + n, *of) for n, of in enumerate(made)]
        self.clip, self.pts, self.waiting, self.intruder, self.topic = self.clips[0], 0, [], intruder, camera.topic
        self.qos = QoSProfile(depth=60, reliability=ReliabilityPolicy.RELIABLE)
        self.publisher, self.second = node.create_publisher(FFMPEGPacket, camera.topic, self.qos), None

    def step(self, now_s, sound):
        super().step(now_s, sound)
        self.pts += 1  # the encoder counts what is lost, too

    def shown(self, number):
        found = self.clip.shown[number]
        return found + self.clips[3].shown[number] if self.second else found  # of the other one they may be, alone

    def begin(self, fault):
        if fault in ("size", "codec"):
            self.clip, self.at = self.clips[0 if self.clip is not self.clips[0] else 1 + (fault == "codec")], 0
        elif fault == "restart":
            self.pts, self.at = 0, int(self.rng.integers(COUNT))
        elif fault == "two":
            self.second = self.intruder.create_publisher(FFMPEGPacket, self.topic, self.qos)

    def end(self, fault):
        for message in self.waiting:
            self.publisher.publish(message)
        self.waiting.clear()
        if self.second:
            self.intruder.destroy_publisher(self.second)
            self.second = None

    def send(self, number):
        message = self.message(self.clip.packets[number])
        if self.often("garbage"):
            message.data = array.array("B", self.rng.bytes(200))
        elif self.often("empty"):
            message.data = array.array("B")
        elif self.fault == "stamps":
            message.header.stamp.sec -= 2
        self.waiting.append(message) if self.fault == "burst" else self.publisher.publish(message)
        if self.second:
            self.second.publish(self.message(self.clips[3].packets[number]))

    def message(self, packet):
        data = array.array("B", packet.data.tobytes())
        fields = {"width": packet.width, "height": packet.height, "encoding": packet.encoding, "flags": packet.flags}
        return stamped(FFMPEGPacket(**fields, pts=self.pts, data=data))


def stamped(message):
    """It is taken now."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.time_ns(), 10**9)
    return message


class Pictures(Stream):
    """A camera that sends whole pictures."""

    faults = (*Stream.faults, "cut", "empty", "encoding", "frozen", "stamps")

    def __init__(self, rng, taken, node, key, camera):
        super().__init__(rng, taken)
        topic, kind = camera.source
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.jpeg, self.publisher = kind == COMPRESSED_TYPE, None
        self.publisher = node.create_publisher(CompressedImage if self.jpeg else Image, topic, qos)
        self.pictures = [np.ascontiguousarray(p) for p in moving(COUNT, (48, 64), seed=int(rng.integers(1000)))]
        self.marks = [[(key, mark(decode_image(self.message(n), key)))] for n in range(COUNT)]
        self.newest = None

    def shown(self, number):
        return self.marks[number]

    def message(self, number):
        picture = self.pictures[number]
        if self.jpeg:
            return stamped(CompressedImage(format="jpeg", data=cv2.imencode(".jpg", picture)[1].tobytes()))
        data = array.array("B", picture.tobytes())
        return stamped(Image(height=48, width=64, step=192, encoding="rgb8", data=data))

    def send(self, number):
        message = self.message(number)
        if self.often("cut"):
            message.data = message.data[: len(message.data) // 2]
        elif self.often("empty"):
            message.data = array.array("B")
        elif self.often("encoding") and not self.jpeg:
            message.encoding = "32FC1"
        elif self.fault == "stamps":
            message.header.stamp.sec += int(self.rng.choice([-2, 1]))
        elif self.fault == "frozen" and self.newest:
            message.header.stamp = self.newest.header.stamp
        self.newest = message
        self.publisher.publish(message)


class Rtp(Stream):
    """V2's stream."""

    faults = (*Stream.faults, "datagrams", "mixed", "twice", "junk", "type", "kind", "two", "restart", "again")

    def __init__(self, rng, taken, profile, port):
        super().__init__(rng, taken)
        tiles = {key: profile.stream.tiles[camera.tile] for key, camera in profile.cameras.items()}
        self.clips = [Clip(profile.cameras, n, size, tiles=tiles) for n, size in enumerate([(272, 128), (136, 64)])]
        self.foreign = Clip(profile.cameras, 9, (272, 128), tiles=tiles)
        self.clip, self.to, self.sequence, self.ssrc, self.silent_s = self.clips[0], ("127.0.0.1", port), 0, 7, 0.0
        self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        self.sockets[1].bind(("127.0.0.2", 0))

    def shown(self, number):
        return self.clip.shown[number]

    def begin(self, fault):
        if fault in ("restart", "again"):
            self.silent_s = time.monotonic() + 1.5
            self.clip, self.at = self.clips[int(self.rng.integers(2))], 0
            self.ssrc, self.sequence = self.ssrc + (fault == "restart"), self.sequence + 5000

    def send(self, number):
        if time.monotonic() < self.silent_s:
            return
        sent = self.packed(self.clip, number, self.ssrc, 97 if self.often("type") else 96)
        self.sequence += len(sent)
        match self.fault:
            case "datagrams":
                sent = [datagram for datagram in sent if self.rng.random() > 0.1]
            case "mixed":
                sent = [sent[i] for i in np.argsort(np.arange(len(sent)) + self.rng.uniform(0, 4, len(sent)))]
            case "twice":
                sent = [datagram for datagram in sent for _ in range(2)]
            case "junk":
                sent = [self.rng.bytes(int(self.rng.integers(1, 1400))), *sent]
            case "kind":
                sent[0] = sent[0][:12] + b"\x64\x01" + sent[0][14:]
        for datagram in sent:
            self.sockets[0].sendto(datagram, self.to)
        if self.fault == "two":
            for datagram in self.packed(self.foreign, number, 99, 96):
                self.sockets[1].sendto(datagram, self.to)

    def packed(self, clip, number, ssrc, kind):
        return packetize(clip.packets[number].data.tobytes(), self.sequence, self.at * 6000, ssrc, kind)


class Judge(Policy):
    """Looks at every picture that would lead to a command."""

    model_id, horizon, action_dt_s = "judge", 1, 1 / 30

    def __init__(self, taken):
        self.taken, self.asked_ns, self.wrong, self.oldest_s, self.frames = taken, 0, [], 0.0, 0

    def infer(self, frame, prompt):
        self.frames += 1
        for key, picture in frame.images.items():
            taken_ns = self.taken.get((key, mark(picture)))
            if taken_ns is None:
                self.wrong.append(f"{key}: a picture that nobody took")
                continue
            age_s = (self.asked_ns - taken_ns) * 1e-9
            self.oldest_s = max(self.oldest_s, age_s)
            if age_s > STALE_S:
                self.wrong.append(f"{key}: {age_s:.2f} s old")
        return PolicyOutput(np.zeros((1, 16), np.float32), None)


class Listening(QosOverrides, Node):
    """As the policy node listens."""


class Robot:
    """Streams of a robot, the node's cameras that listen to them, and its inference."""

    def __init__(self, profile, listener, node, intruder, rng):
        self.taken, self.answers, self.said, self.profile = {}, 0, [], profile
        self.judge, self.inputs = Judge(self.taken), Inputs(Limits(), profile)
        logger = SimpleNamespace(**dict.fromkeys(("error", "warning", "info", "debug"), self.hear))
        port = free_udp_port()
        self.loop = InferenceLoop(
            self.judge, profile, 30.0, snapshot=self.snapshot, task=lambda: "work", generation=lambda: 0,
            episode=lambda: None, publish=self.answer, failed=lambda text: None, logger=logger,
        )  # fmt: skip
        self.cameras = open_cameras(listener, profile, self.inputs, self.loop.frame_arrived, port)
        for name, part in profile.joint_parts().items():
            self.inputs.add(name, part.state_topic, image=False, required=isinstance(part, ArmProfile))
        if profile.stream:
            self.streams = [Rtp(rng, self.taken, profile, port)]
        elif profile.name == "mixed":
            self.streams = [Pictures(rng, self.taken, node, key, c) for key, c in profile.cameras.items()]
        else:
            self.streams = [Packets(rng, self.taken, node, intruder, key, c) for key, c in profile.cameras.items()]
        self.loop.start()

    def snapshot(self):
        now_ns = time.time_ns()
        self.judge.asked_ns = now_ns
        return self.inputs.snapshot(now_ns)

    def hear(self, text):
        self.said += [text] if "Traceback" in text else []

    def answer(self, result):
        self.answers += 1

    def step(self, now_s, sound=False):
        for stream in self.streams:
            stream.step(now_s, sound)
        for name, part in self.profile.joint_parts().items():
            names = list(part.joints) if isinstance(part, ArmProfile) else [part.joint]
            values = [0.3 * np.sin(2 * now_s)] * len(names)
            state = JointState(name=names, position=values, velocity=values, effort=values)
            self.inputs.store(name, stamped(state), time.time_ns())

    def close(self):
        self.loop.stop()
        for camera in self.cameras:
            camera.close()


def memory():
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
@pytest.mark.timeout(2 * SECONDS + 3 * PATIENCE_S)
def test_random_faults_on_every_stream_crash_nothing_and_nothing_is_used_that_is_damaged_or_stale(ros, tmp_path):
    (tmp_path / "mixed.yaml").write_text(MIXED, encoding="utf-8")
    profiles = [RobotProfile.load(name) for name in (str(tmp_path / "mixed.yaml"), "teleavatar_v1", "teleavatar_v2")]
    listener, node, intruder = Listening("listening"), ros.create_node("robot"), ros.create_node("intruder")
    executor, sizes, next_s = SingleThreadedExecutor(), [], 0.0
    executor.add_node(listener)
    robots = [Robot(p, listener, node, intruder, np.random.default_rng([SEED, n])) for n, p in enumerate(profiles)]

    def spin(sound=False):
        nonlocal next_s
        now_s = time.monotonic()
        if now_s >= next_s:
            next_s = now_s + 1 / RATE_HZ
            for robot in robots:
                robot.step(now_s, sound)
        executor.spin_once(timeout_sec=0.003)
        assert not [wrong for robot in robots for wrong in robot.judge.wrong], [r.judge.wrong for r in robots]

    began_s = time.monotonic()
    while (passed_s := time.monotonic() - began_s) < SECONDS:
        spin()
        if len(sizes) < passed_s:
            sizes.append(memory())
    before, tired = [robot.answers for robot in robots], []
    with contextlib.suppress(AssertionError):
        wait_for(lambda: all(r.answers > b + 20 for r, b in zip(robots, before, strict=True)), lambda: spin(True))
    for robot, answers in zip(robots, before, strict=True):
        problems = robot.snapshot().problems
        faults = sum((stream.count for stream in robot.streams), Counter())
        print(
            f"{robot.profile.name}: {robot.answers} answers, oldest picture {robot.judge.oldest_s:.2f} s, "
            f"{sum(faults.values()) - faults['well']} faults {dict(faults)}"
        )
        tired += [] if robot.answers > answers + 20 else [f"{robot.profile.name} does not recover: {problems}"]
    for robot in robots:
        robot.close()
    executor.shutdown()
    listener.destroy_node()
    text = [line for robot in robots for line in robot.said]
    assert not tired and not text, (tired, text[:1])
    assert all(answers > SECONDS / 4 for answers in before), f"there were answers between the faults: {before}"
    if len(sizes) > SETTLED_S + WINDOW_S:
        settled = [np.median(sizes[at:][: int(WINDOW_S)]) for at in (int(SETTLED_S), -int(WINDOW_S))]
        print(f"{SECONDS:.0f} s; {settled[0] / 2**20:.1f} MiB after two minutes, {settled[1] / 2**20:.1f} at the end")
        assert settled[1] / settled[0] - 1 < GROWTH, [round(size / 2**20) for size in sizes[:: len(sizes) // 20]]
