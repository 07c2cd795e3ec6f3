"""A robot's video stream at a UDP port: sound pictures of all its cameras, or what is wrong, said in words."""

import contextlib
import itertools
import queue
import re
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import PATIENCE_S, wait_for
from rtp_stream import PAYLOAD_TYPE, TICKS, datagrams, number_of, numbered
from video_packets import decoded, encode, messages, moving

from pi05_progress.errors import UserError
from pi05_progress.robots.messages import decode_image, stamp_ns
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.video_packets import frame_to_rgb
from pi05_progress_ros.inputs import Inputs, Limits
from pi05_progress_ros.starting.simulation_choices import free_udp_port

pytest.importorskip("ffmpeg_image_transport_msgs.msg")
from pi05_progress_ros.cameras import stream as stream_module
from pi05_progress_ros.cameras.rtp import packetize
from pi05_progress_ros.cameras.stream import StreamCamera

PROFILE, COUNT, GOP, SIZE = RobotProfile.load("teleavatar_v2"), 120, 30, (272, 128)
PICTURES = numbered(moving(COUNT, SIZE))
WHOLE = decoded(messages(PICTURES, gop=GOP))
SENT = datagrams(PICTURES, gop=GOP)
ROBOT = ("10.0.0.2", 5004)
WAITS = "the video waits for its next key frame"


class Queue:
    """Stands in for the socket: datagrams are handed over as they are put, and none is lost."""

    def __init__(self, *_):
        self.came = queue.Queue()

    def recvmsg(self, *_):
        try:
            return self.came.get(timeout=0.01)
        except queue.Empty:
            raise TimeoutError from None

    def setsockopt(self, *_): ...

    settimeout = bind = close = setsockopt


class Receiver:
    """A stream's receiver without a node; it keeps every picture that is stored, and what is logged and published."""

    def __init__(self, port=0, now=lambda: SimpleNamespace(nanoseconds=9)):
        self.inputs, self.said, self.published, self.seen = Inputs(Limits(past_s=1e9, image_age_s=1e9)), [], [], []
        log = SimpleNamespace(warning=self.said.append, error=self.said.append, info=self.said.append)
        node = SimpleNamespace(
            get_logger=lambda: log,
            create_publisher=lambda *_: SimpleNamespace(publish=self.published.append),
            destroy_publisher=lambda _: None,
            get_clock=lambda: SimpleNamespace(now=now),
        )
        self.camera = StreamCamera(node, PROFILE, port, self.inputs, self.arrived)

    def arrived(self):
        self.seen.append({entry.name: entry.message for entry in self.inputs.state()})

    def put(self, *sent, sender=ROBOT):
        for datagram in itertools.chain.from_iterable(sent):
            self.camera._socket.came.put((datagram, [], 0, sender))

    def fact(self, name):
        return self.inputs.state()[0].facts.get(name, 0)

    def until(self, condition, what=""):
        try:
            wait_for(condition, timeout_s=8)
        except AssertionError:
            raise AssertionError(f"{what}: {self.inputs.state()[0]}, {self.said}, {len(self.seen)}") from None

    def why(self, text):
        self.until(lambda: text in self.inputs.state()[0].why, text)

    def taken(self):
        """All that was put has been taken."""
        self.until(self.camera._socket.came.empty)
        self.until(lambda: not self.camera._depacketizer._waiting and not self.camera._stream._waiting)

    def numbers(self):
        """Of the pictures that were stored, all of which are sound to the last bit."""
        found = []
        for pictures in self.seen:
            picture = frame_to_rgb(next(iter(pictures.values())).frame)
            number = number_of(picture)
            assert number is not None and np.array_equal(picture, WHOLE[number]), number
            found.append(number)
        assert found == sorted(set(found))
        return found


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(stream_module.socket, "socket", Queue)
    monkeypatch.setattr(stream_module, "SILENT_S", 1e9)
    receiver = Receiver()
    yield receiver
    receiver.camera.close()


def test_every_camera_gets_its_tile_and_recorders_the_packets(made):
    made.put(*SENT)
    made.until(lambda: made.seen and made.numbers()[-1] == COUNT - 1)
    assert made.numbers() == list(range(GOP, COUNT)), "from the first key frame that is whole"
    last = made.seen[-1]
    for key, camera in PROFILE.cameras.items():
        left, top, right, bottom = PROFILE.stream.tiles[camera.tile]
        part = WHOLE[COUNT - 1][round(top * 272) : round(bottom * 272), round(left * 128) : round(right * 128)]
        np.testing.assert_array_equal(decode_image(last[key], key), part)
    assert [message.flags for message in made.published] == ([1] + [0] * (GOP - 1)) * (COUNT // GOP - 1)
    assert {(m.width, m.height, m.encoding) for m in made.published} == {(128, 272, "hevc")}
    for message in made.published:
        message.header.stamp.sec = message.pts
    assert [number_of(picture) for picture in decoded(made.published).values()] == list(range(GOP, COUNT))
    assert made.inputs.snapshot(9).problems == ()


def test_joined_in_mid_stream_it_waits_for_a_key_frame_however_long_that_takes(made):
    made.put(*SENT[3:GOP])
    made.until(lambda: made.fact("packets without the key frame they build upon") == GOP - 4)
    made.why(WAITS)
    assert made.inputs.snapshot(9).problems[0] == f"head_camera (UDP port 8890): no message yet, {WAITS}"
    assert made.seen == []
    made.put(*SENT[GOP : GOP + 1])
    made.until(lambda: made.seen)
    assert made.numbers() == [GOP] and made.inputs.snapshot(9).problems == ()


LOSSES = {"1 %": (0.01, 1), "10 %": (0.1, 1), "bursts": (0.1, 10)}


def some_lost(share, burst, seed=0):
    """The stream without some of its datagrams, and the numbers of pictures that are known to need none of them."""
    rng, lost, left = np.random.default_rng(seed), 0, []
    for unit in SENT:
        left.append([])
        for datagram in unit:
            lost = burst if lost == 0 and rng.random() < share / burst else max(0, lost - 1)
            left[-1] += [] if lost else [datagram]
    whole = [len(unit) == len(sent) for unit, sent in zip(left, SENT, strict=True)]
    begins = [True] + [unit[-1:] == sent[-1:] for unit, sent in zip(left, SENT, strict=True)]  # where is known
    good = list(map(all, zip(whole, begins[:-1], strict=True)))
    return left, [n for n in range(GOP, COUNT) if all(good[n - n % GOP : n + 1])]


@pytest.mark.parametrize("case", LOSSES)
def test_of_a_stream_with_losses_all_sound_pictures_come_and_no_damaged_one(made, case):
    left, sound = some_lost(*LOSSES[case])
    made.put(*left)
    made.taken()
    made.until(lambda: made.fact("RTP packets lost") > 0)
    made.until(lambda: len(made.seen) >= len(sound))
    assert sound and made.numbers() == sound, "one whose predecessor lost its end is not known to begin where it does"


def test_a_packet_that_was_damaged_costs_pictures_and_is_told(made):
    broken = [*SENT[GOP]]
    broken[3] = broken[3][:12] + b"\x64\x01" + broken[3][14:]  # a kind of payload that is not known
    made.put(*SENT[:GOP], broken, *SENT[GOP + 1 :])
    made.until(lambda: made.seen and made.numbers()[-1] == COUNT - 1)
    assert made.numbers() == list(range(2 * GOP, COUNT))
    made.until(lambda: made.fact("RTP packets that cannot be read") == 1)  # told now and then


def test_key_frames_without_parameter_sets_are_told_as_what_they_are_until_they_have_them(made):
    bare, sequence = [], 100
    for number, packet in enumerate(encode(PICTURES[: GOP + 1], gop=GOP)):
        units = [unit for unit in re.split(rb"\0\0+\x01", bytes(packet)) if unit and not 32 <= unit[0] >> 1 <= 34]
        bare.append(packetize(b"".join(b"\0\0\1" + unit for unit in units), sequence, number * TICKS, 7, PAYLOAD_TYPE))
        sequence += len(bare[-1])
    made.put(*bare)
    made.why("its key frames come without parameter sets: let the encoder repeat them before each")
    assert made.seen == [] and made.published == []
    made.put(*datagrams(PICTURES[: GOP + 1], first=sequence, gop=GOP))
    made.until(lambda: made.seen)
    made.until(lambda: made.inputs.state()[0].why == "")


def test_frames_of_another_size_are_followed_and_of_another_shape_refused(made):
    half = datagrams(moving(2 * GOP, (136, 64)), first=100, ssrc=8, gop=GOP)
    wide = datagrams(moving(2 * GOP, (128, 272)), first=100, ssrc=9, gop=GOP)
    made.put(*SENT[: 2 * GOP])
    made.until(lambda: made.seen and made.numbers()[-1] == 2 * GOP - 1)
    monotonic = stream_module.time.monotonic
    stream_module.time.monotonic = lambda: monotonic() + 10  # nothing came for a while
    try:
        made.put(*half)
        made.until(lambda: made.seen[-1]["left_color"].frame.height == 136)
        made.until(lambda: made.fact("changes of the size, now 64x136") == 1)
        stream_module.time.monotonic = lambda: monotonic() + 20
        made.put(*wide)
        made.why("frames are 272x128, not of the shape that the profile's tiles are cut from")
        assert made.seen[-1]["left_color"].frame.height == 136
    finally:
        stream_module.time.monotonic = monotonic


def test_a_second_sender_is_named_and_nothing_of_it_is_used(made):
    foreign = datagrams(moving(COUNT, SIZE, seed=5), ssrc=99, gop=GOP)
    for ours, theirs in zip(SENT, foreign, strict=True):
        made.put(ours)
        made.put(theirs, sender=("10.0.0.66", 7000))
    made.until(lambda: made.seen and made.numbers()[-1] == COUNT - 1)
    assert made.numbers() == list(range(GOP, COUNT))
    said = "10.0.0.66:7000 sends here, too, and is refused: let one robot send"
    made.until(lambda: any(said in line for line in made.said), said)
    made.until(lambda: made.fact("packets of another sender, refused") == sum(map(len, foreign)))


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([], "nothing arrives: does the robot send to this computer, whose firewall must let UDP 8890 through?"),
        (datagrams(PICTURES[:9], payload_type=97), "nothing arrives but packets of payload type 97 instead of 96"),
        ([[b"hello"]] * 9, "nothing arrives but datagrams that are no RTP"),
    ],
)
def test_that_nothing_of_use_arrives_is_told_with_what_may_help(made, monkeypatch, sent, said):
    monkeypatch.setattr(stream_module, "SILENT_S", 0.0)
    monkeypatch.setattr(stream_module, "REPORT_S", 0.2)
    made.until(lambda: bool(made.put(*sent)) or made.inputs.state()[0].why == said, said)
    made.until(lambda: any(said in line for line in made.said), said)


def test_pictures_that_waited_while_the_process_stood_still_are_as_old_as_they_are():
    port, goes_on, stood = free_udp_port(), threading.Event(), threading.Event()

    def now():
        stood.set()
        goes_on.wait(PATIENCE_S)
        return SimpleNamespace(nanoseconds=time.time_ns())

    receiver = Receiver(port, now)
    with contextlib.closing(receiver.camera), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in itertools.chain.from_iterable(SENT[GOP - 1 : GOP + 3]):
            sender.sendto(datagram, ("127.0.0.1", port))
            assert stood.wait(PATIENCE_S)  # the thread has the first one in hand, and gets no further
        sent_ns = time.time_ns()
        time.sleep(0.3)
        goes_on.set()
        receiver.until(lambda: receiver.inputs.state()[0].count >= 3)
        stamps_ns = [pictures["head_camera"].stamp_ns for pictures in receiver.seen]
    assert all(0 < at_ns < sent_ns + 10**8 for at_ns in stamps_ns), "not of when they were taken from the socket"
    assert all(stamp_ns(message) < sent_ns + 10**8 for message in receiver.published), "nor those that are recorded"


def test_a_port_that_is_taken_is_refused_and_a_real_one_receives():
    port = free_udp_port()
    receiver = Receiver(port)
    try:
        with pytest.raises(UserError, match=rf"parameter stream_port: UDP port {port} cannot be opened .*in use"):
            Receiver(port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:

            def again():  # as often as it takes: UDP may lose what a busy machine does not take
                number = again.at = (getattr(again, "at", -1) + 1) % COUNT
                for datagram in SENT[number]:
                    sender.sendto(datagram, ("127.0.0.1", port))
                return len(receiver.seen) > 5

            receiver.until(again)
    finally:
        receiver.camera.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("", port))
