"""Video packets: pictures are those of a sound stream, bit by bit, or they are not there."""

import re

import numpy as np
import pytest
from video_packets import decoded, messages, moving

from pi05_progress.robots.joints import MessageError
from pi05_progress.robots.video_packets import PacketDecoder, codec_of

PICTURES = moving(40)
GOP = 20
COUNTS, TICKS = (lambda n: n), (lambda n: 1000 * n + n * n % 7)  # a sender's count, and a clock of no even step


def used(sent):
    """What comes of packets, and the decoder that made it."""
    decoder = PacketDecoder()
    return decoded(sent, decoder), decoder


def assert_sound(found, whole):
    assert found and not [number for number, picture in found.items() if (picture != whole[number]).any()]


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        ("hevc", "hevc"), ("hevc_nvenc", "hevc"), ("libx265", "hevc"), ("libx265;yuv420p;bgr8;bgr8", "hevc"),
        ("H265", "hevc"), ("h264", "h264"), ("libx264;yuv420p", "h264"), ("h264_vaapi", "h264"), ("avc1", "h264"),
    ],
)  # fmt: skip
def test_encodings_in_all_their_forms(encoding, codec):
    assert codec_of(encoding) == codec


def test_another_codec_is_refused_by_name():
    with pytest.raises(MessageError, match=r"encoding 'av1'; H\.264 and H\.265 are understood"):
        PacketDecoder().decode(messages(PICTURES[:1], encoding="av1")[0], 0)


@pytest.mark.parametrize("start", [0, 1, 13])
def test_decoding_begins_at_a_key_frame(start):
    sent = messages(PICTURES, gop=GOP)
    found, decoder = used(sent[start:])
    assert_sound(found, decoded(sent))
    assert min(found) == (0 if start == 0 else GOP)
    waited = GOP - start if start else 0
    assert decoder.problems.get("packets without the key frame they build upon", 0) == waited


@pytest.mark.parametrize("pts", [COUNTS, TICKS], ids=["counts", "ticks"])
@pytest.mark.parametrize(("codec", "bframes"), [("hevc", 0), ("hevc", 3), ("h264", 0)])
@pytest.mark.parametrize("lost", [[1], [5], [6], [11, 12], [5, 25]])
def test_what_builds_upon_a_lost_packet_is_not_used(codec, lost, bframes, pts):
    sent = messages(PICTURES, codec=codec, gop=GOP, bframes=bframes, pts=pts)
    found, decoder = used([message for at, message in enumerate(sent) if at not in lost])
    assert_sound(found, decoded(sent))
    if not bframes:
        kept = {number for number in range(40) if all(not at <= number < (at // GOP + 1) * GOP for at in lost)}
        assert set(found) == kept and sum(decoder.problems.values()) >= len(lost)


@pytest.mark.parametrize("codec", ["hevc", "h264"])
@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize("burst", [1, 5])
def test_of_random_losses_no_damaged_picture_is_left(share, burst, codec, capfd):
    sent, rng = messages(moving(200), gop=10, codec=codec, pts=TICKS), np.random.default_rng(0)
    lost = {at + i for at in np.flatnonzero(rng.random(200) < share / burst) for i in range(burst)}
    found, decoder = used([message for at, message in enumerate(sent) if at not in lost])
    assert_sound(found, decoded(sent))
    begun = {at // 10 for at in lost}
    assert len(found) >= 200 - 10 * len(begun | {group + 1 for group in begun})
    assert all("(" not in text or "Errno" not in text for text in decoder.problems)
    assert capfd.readouterr() == ("", "")  # what a decoder says is read here and nowhere else


@pytest.mark.parametrize("lost", [2, 7])
def test_a_lost_packet_of_h264_is_known_by_the_count(lost):
    sent = messages(PICTURES, codec="h264", gop=GOP)
    found, decoder = used([message for at, message in enumerate(sent) if at != lost])
    assert_sound(found, decoded(sent))
    assert set(found) == {*range(lost), *range(GOP, 40)} and decoder.problems["holes in the count of packets"] == 1


@pytest.mark.parametrize("rate_hz", [24, 29.97, 30, 48, 60])
def test_clocks_that_are_rounded_have_no_holes(rate_hz):
    sent = messages(PICTURES, gop=GOP, pts=lambda number: round(1000 * number / rate_hz))
    found, decoder = used(sent)
    assert set(found) == set(range(40)) and decoder.problems == {}


@pytest.mark.parametrize("data", [b"", b"no video", bytes(300), "half"], ids=["empty", "text", "zeros", "half"])
def test_a_corrupt_packet_is_passed_over_up_to_the_next_key_frame(data):
    sent = messages(PICTURES, gop=GOP, codec="h264" if data == "half" else "hevc")  # half a picture of H.265 is whole
    whole = decoded(sent)
    sent[7].data = sent[7].data[: len(sent[7].data) // 2] if data == "half" else np.frombuffer(data, np.uint8)
    found, decoder = used(sent)
    assert_sound(found, whole)
    assert set(found) == {*range(7), *range(GOP, 40)} and sum(decoder.problems.values()) == GOP - 7


def test_another_size_codec_or_encoding_is_followed_at_its_first_key_frame():
    plain = messages(PICTURES[:15], gop=10)
    small = messages(moving(25, (64, 96)), gop=10, first_stamp=100)
    other = messages(PICTURES[:25], gop=10, codec="h264", first_stamp=200)
    renamed = messages(PICTURES[:25], gop=10, encoding="hevc_nvenc", first_stamp=300)
    found, decoder = used([*plain, *small[3:], *other[4:], *renamed[5:]])
    whole = decoded(plain) | decoded(small) | decoded(other) | decoded(renamed)
    assert_sound(found, whole)
    assert set(found) == {*range(15), *range(110, 125), *range(210, 225), *range(310, 325)}
    assert found[110].shape == (64, 96, 3)
    for text in ("changes of the size, now 96x64", "changes of the encoding, now h264", "now hevc_nvenc"):
        assert any(text in problem for problem in decoder.problems), decoder.problems


@pytest.mark.parametrize("missed", [0, 3])
@pytest.mark.parametrize("bframes", [0, 3])
def test_a_sender_that_begins_anew_is_followed_from_its_first_key_frame(missed, bframes):
    before = messages(PICTURES[:35], gop=40, bframes=bframes)
    after = messages(moving(30, seed=1), gop=15, bframes=bframes, first_stamp=100)
    found, decoder = used([*before, *after[missed:]])
    assert_sound(found, decoded(before) | decoded(after))
    assert max(found) == 129 and (100 in found) == (not missed)
    assert any("the sender was restarted" in problem for problem in decoder.problems)


def test_a_sender_that_begins_anew_at_once_is_known_to_count_all_the_same():
    one, other = (messages(moving(30, seed=n), codec="h264", gop=15, first_stamp=100 * n) for n in range(2))
    found, _ = used([one[15], one[17], *other[:4], *other[5:]])
    assert_sound(found, decoded(one) | decoded(other))
    assert set(found) == {15, *range(100, 104), *range(115, 130)}


def test_two_senders_on_one_topic_give_nothing_wrong():
    one, other = messages(PICTURES, gop=GOP), messages(moving(40, seed=1), gop=GOP, first_stamp=100)
    mixed = [*one[:10], *(message for pair in zip(one[10:], other, strict=False) for message in pair)]
    found, decoder = used(mixed)
    assert_sound(found, decoded(one) | decoded(other))
    assert any("or there are two" in problem for problem in decoder.problems)


def test_parameter_sets_that_come_once_are_kept_over_a_loss():
    sent = messages(PICTURES, gop=GOP)
    whole = decoded(sent)
    *_, picture = re.finditer(rb"\x00\x00\x01[\x20-\x2b]", sent[GOP].data.tobytes())  # behind the parameter sets
    assert picture.start() > 20
    sent[GOP].data = sent[GOP].data[picture.start() :]
    found, _ = used([message for at, message in enumerate(sent) if at != 7])
    assert_sound(found, whole)
    assert set(found) == {*range(7), *range(GOP, 40)}
