"""A camera's packets among the node's inputs: the newest sound picture, or what is wrong."""

import re
import threading
from types import SimpleNamespace

import av
import numpy as np
import pytest
from conftest import wait_for
from video_packets import decoded, messages, moving

from pi05_progress.errors import UserError
from pi05_progress.robots.messages import decode_image
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.video_packets import PacketDecoder
from pi05_progress_ros.cameras.cameras import check_cameras
from pi05_progress_ros.cameras.packets import QUEUE, PacketStream
from pi05_progress_ros.inputs import Inputs, Limits

PICTURES = moving(40)
WAITS = "left_color (/left/ffmpeg): no message yet, the video waits for its next key frame"


class Watched:
    """A stream, its inputs, and what it logs."""

    def __init__(self, hardware=""):
        self.inputs, self.said, self.arrived = Inputs(Limits(past_s=1e9)), [], []
        self.inputs.add("left_color", "/left/ffmpeg", image=True)
        logger = SimpleNamespace(warning=self.said.append, error=self.said.append, info=self.said.append)
        self.stream = PacketStream(
            "left_color", "/left/ffmpeg", self.inputs, lambda: self.arrived.append(self.picture()), logger,
            hardware=hardware,
        )  # fmt: skip

    def push(self, *sent):
        for message in sent:
            self.stream.push(message, 0)

    def facts(self, **expected):
        """Wait for these figures; returns all."""
        (entry,) = self.inputs.state()
        wait_for(lambda: expected.items() <= self.inputs.state()[0].facts.items(), what=f"{expected}, {entry.facts}")
        return self.inputs.state()[0].facts

    def picture(self):
        message = self.inputs.state()[0].message
        return message.stamp_ns // 10**9, decode_image(message, "left_color")

    def problems(self):
        return list(self.inputs.snapshot(40 * 10**9).problems)


@pytest.fixture
def watched():
    made = Watched()
    yield made
    made.stream.close()
    assert not made.stream._thread.is_alive()


def test_before_the_first_key_frame_there_is_no_picture_and_the_reason_is_told(watched):
    sent = messages(PICTURES, gop=20)
    watched.push(*sent[13:20])
    facts = watched.facts(packets=7)
    assert watched.problems() == [WAITS] and watched.arrived == []
    assert facts["packets without the key frame they build upon"] == 7 and facts["encoding"] == "hevc"
    (line,) = watched.said
    assert line.startswith("left_color (/left/ffmpeg): packets without the key frame they build upon, ")
    watched.push(sent[20])
    watched.facts(pictures=1)
    assert watched.problems() == []


def test_of_a_burst_with_losses_every_packet_is_decoded_and_no_damaged_picture_arrives(watched):
    sent = messages(PICTURES, gop=10)
    whole = decoded(sent)
    watched.push(*(message for number, message in enumerate(sent) if number not in (7, 25)))
    facts = watched.facts(packets=38)
    assert facts["holes in the count of packets"] == 2 and facts["pictures"] == 40 - 3 - 5
    assert {number for number, _ in watched.arrived} <= {*range(7), *range(10, 25), *range(30, 40)}
    assert not [number for number, picture in watched.arrived if (picture != whole[number]).any()]
    assert watched.picture()[0] == 39
    assert any(re.search(r"holes in the count of packets, \d+ so far: the video waits", line) for line in watched.said)


def test_packets_that_the_middleware_lost_cost_the_pictures_up_to_the_next_key_frame(watched):
    sent = messages(PICTURES, gop=10, pts=lambda number: 0)  # a sender that does not count
    watched.push(*sent[:5])
    watched.stream.lost()
    watched.push(*sent[6:])
    watched.facts(packets=39)
    assert watched.picture()[0] == 39 and {5, 6, 7, 8, 9}.isdisjoint(number for number, _ in watched.arrived)
    assert watched.facts()["packets lost on the way"] == 1


def test_a_decoder_that_does_not_keep_up_begins_anew_at_a_key_frame_and_says_so(watched, monkeypatch):
    gate, decode = threading.Event(), PacketDecoder.decode
    monkeypatch.setattr(PacketDecoder, "decode", lambda *arguments: gate.wait() and decode(*arguments))
    sent = messages(moving(40), gop=5)
    for _ in range(QUEUE // 40 + 1):
        watched.push(*sent)
    gate.set()
    facts = watched.facts(**{"packets dropped because decoding does not keep up": 1})
    wait_for(lambda: watched.picture()[0] == 39)
    assert facts["packets"] < QUEUE


def test_a_codec_that_is_not_understood_is_named(watched):
    sent = messages(PICTURES[:1], encoding="av1")
    watched.push(*sent)
    watched.facts(packets=1)
    text = "packets of encoding 'av1'; H.264 and H.265 are understood"
    assert watched.problems() == [f"left_color (/left/ffmpeg): no message yet, {text}"]
    assert watched.said == [f"left_color (/left/ffmpeg): {text}"]


def test_what_no_library_expected_costs_a_picture_and_not_the_camera(watched):
    sent = messages(PICTURES, gop=10)
    watched.push(sent[0], SimpleNamespace(**{**vars(sent[1]), "pts": "soon"}), *sent[2:])
    watched.facts(packets=40)
    assert watched.picture()[0] == 39 and "ValueError" in "".join(watched.said)
    assert np.array_equal(watched.picture()[1], decoded(sent)[39])


class Device:
    """Stands in for hardware: what is asked of it a decoder in software does, which says that it is not one."""

    def __init__(self, name, allow_software_fallback):
        if name != "vaapi":
            raise av.error.OSError(5, "no device")
        assert allow_software_fallback
        self.name = name

    @staticmethod
    def create(codec, mode, device=None):
        made = create(codec, mode)
        if device is None or codec == "h264":
            return made
        return Hardware(made)


class Hardware:
    """Of a fake device."""

    is_hwaccel = True

    def __init__(self, made):
        self.decode, self.flush_buffers = made.decode, made.flush_buffers


create = av.CodecContext.create


@pytest.mark.parametrize(
    ("hardware", "codec", "decoder"),
    [
        ("", "hevc", "software"),
        ("vaapi", "hevc", "vaapi"),
        ("vaapi", "h264", "software, as PyAV has no h264 by vaapi"),
        ("cuda", "hevc", "software, as cuda cannot be used ([Errno 5] no device)"),
    ],
)
def test_hardware_decodes_where_it_is_there_and_software_otherwise_and_that_is_told(
    monkeypatch, hardware, codec, decoder
):
    monkeypatch.setattr(av.codec.hwaccel, "HWAccel", Device)
    monkeypatch.setattr(av, "CodecContext", Device)
    watched, sent = Watched(hardware), messages(PICTURES[:5], codec=codec)
    watched.push(*sent)
    watched.facts(pictures=5, decoder=decoder)
    watched.stream.close()
    whole = decoded(sent)
    assert all(np.array_equal(picture, whole[stamp]) for stamp, picture in watched.arrived)


def test_with_pyavs_own_devices_pictures_come_whether_there_is_one_or_not():
    real = Watched("cuda")
    real.push(*messages(PICTURES[:2]))
    assert re.fullmatch(r"cuda|software, as .*cuda.*", real.facts(pictures=2)["decoder"])
    real.stream.close()


def test_a_device_that_nobody_knows_is_refused():
    with pytest.raises(UserError, match="parameter hardware_decoding: PyAV knows no 'gpu', but vdpau, cuda, vaapi"):
        check_cameras(RobotProfile.load("teleavatar_v1"), "gpu")
