"""H.265 over RTP: access units come out whole, in order and of one sender, or not at all."""

import itertools
import struct

import numpy as np
import pytest
from rtp_stream import PAYLOAD_TYPE, ROBOT, datagrams, received
from video_packets import encode, moving

from pi05_progress_ros.cameras.rtp import LARGEST, MAX_PAYLOAD, REORDERED, Depacketizer, packetize

PICTURES = moving(12)
WHOLE = [b"".join(b"\0\0\0\1" + unit for unit in bytes(p).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:])
         for p in encode(PICTURES, gop=5)]  # fmt: skip


def flat(sent):
    return list(itertools.chain.from_iterable(sent))


@pytest.fixture(scope="module")
def sent():
    return datagrams(PICTURES, gop=5)


def test_access_units_come_as_they_were_sent_but_the_first_whose_beginning_is_not_known(sent):
    assert max(map(len, flat(sent))) <= MAX_PAYLOAD + 20 and len(flat(sent)) > 3 * len(sent)
    units = received(flat(sent))
    assert [unit.data for unit in units] == WHOLE[1:]
    assert [b.number - a.number for a, b in itertools.pairwise(units)] == [1] * 10
    assert [unit.arrived_ns for unit in units] == list(itertools.accumulate(map(len, sent)))[:-1], "of the first packet"


def test_packets_that_changed_places_or_came_twice_are_put_in_order(sent):
    mixed, depacketizer = flat(sent), Depacketizer(PAYLOAD_TYPE)
    order = np.argsort(np.arange(len(mixed)) + np.random.default_rng(0).uniform(0, 6, len(mixed)), kind="stable")
    order = [0, *(i for i in order if i)]
    units = received([mixed[i] for i in order for _ in range(1 + i % 2)], depacketizer)
    assert [unit.data for unit in units] == WHOLE[1:]
    assert set(+depacketizer.problems) == {"packets that came twice or too late"}


@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_a_picture_of_which_a_packet_is_missing_does_not_come_and_the_count_has_a_hole(sent, which):
    lost = {"first": 0, "middle": 1, "last": -1}[which]
    depacketizer = Depacketizer(PAYLOAD_TYPE)
    without = [packet for n, unit in enumerate(sent) for packet in unit if n != 5 or packet is not unit[lost]]
    units = received(without, depacketizer)
    gone = {5, 6} if which == "last" else {5}  # where the next one begins is not known then
    assert [unit.data for unit in units] == [data for n, data in enumerate(WHOLE) if n and n not in gone]
    assert sum(b.number - a.number > 1 for a, b in itertools.pairwise(units)) == 1
    assert +depacketizer.problems == {"RTP packets lost": 1}


def test_a_missing_packet_is_waited_for_no_longer_than_it_can_be_late(sent):
    depacketizer, (head, *rest) = Depacketizer(PAYLOAD_TYPE), flat(sent)
    depacketizer.push(head, ROBOT, 10.0, 0)
    assert not [unit for n, packet in enumerate(rest[1:20]) for unit in depacketizer.push(packet, ROBOT, 10.001, n)]
    assert depacketizer.take(10.04) == [] and not +depacketizer.problems
    assert depacketizer.take(10.06) and +depacketizer.problems == {"RTP packets lost": 1}


def payload(*parts):
    """Datagram number 1, the last of its picture."""
    return struct.pack("!BBHII", 0x80, PAYLOAD_TYPE | 0x80, 1, 9, 7) + b"".join(parts)


ONE, TWO, BEFORE = b"\x40\1one", b"\x42\1second", struct.pack("!BBHII", 0x80, PAYLOAD_TYPE | 0x80, 0, 8, 7) + b"\x26\1x"
BROKEN = {
    "an aggregation that ends early": payload(b"\x60\1", b"\0\x20", ONE),
    "a fragment without its beginning": payload(b"\x62\1", b"\x41", b"more"),
    "a fragment without its end": payload(b"\x62\1", b"\x81", b"more"),
    "a kind that is not known": payload(b"\x64\1more"),
    "nothing": payload(),
    "more padding than packet": bytes([0xA0]) + payload(b"\x26\1", bytes(180), b"\xff")[1:],
}


def test_units_sent_together_are_taken_apart_whatever_else_a_packet_holds():
    together = b"".join(struct.pack("!H", len(unit)) + unit for unit in (ONE, TWO))
    (unit,) = received([BEFORE, payload(b"\x60\1", together)])
    assert unit.data == b"\0\0\0\1" + ONE + b"\0\0\0\1" + TWO
    further = payload(b"\1\2\3\4", b"\xbe\xde\0\1", b"five", ONE, b"\0\0\3")  # a contributor, an extension, padding
    (unit,) = received([BEFORE, bytes([0x80 | 0x20 | 0x10 | 1]) + further[1:]])
    assert unit.data == b"\0\0\0\1" + ONE


def test_a_unit_that_is_only_a_header_is_one():
    (unit,) = received([BEFORE, payload(b"\x48\1")])  # end of sequence
    assert unit.data == b"\0\0\0\1\x48\1"


@pytest.mark.parametrize("kind", ["units", "fragments"])
def test_a_picture_that_never_ends_is_given_up_and_the_next_one_comes(kind):
    depacketizer, part = Depacketizer(PAYLOAD_TYPE), bytes(60000)
    endless = [BEFORE]
    for number in range(1, 2 + LARGEST // len(part)):
        head = b"\x26\1" if kind == "units" else b"\x62\1" + bytes([0x80 * (number == 1) | 19])
        endless.append(struct.pack("!BBHII", 0x80, PAYLOAD_TYPE, number, 9, 7) + head + part)
    after = packetize(b"\0\0\1\x26\1key", len(endless), 10, 7, PAYLOAD_TYPE)
    (unit,) = received([*endless, *after], depacketizer)
    assert unit.data.endswith(b"key") and +depacketizer.problems == {"RTP packets that cannot be read": 1}


@pytest.mark.parametrize("case", BROKEN)
def test_a_packet_that_makes_no_sense_costs_its_picture(case, sent):
    depacketizer = Depacketizer(PAYLOAD_TYPE)
    assert received([BEFORE, BROKEN[case]], depacketizer) == []
    assert "end" in case or +depacketizer.problems == {"RTP packets that cannot be read": 1}
    after = packetize(b"\0\0\1\x26\1key", 2, 10, 7, PAYLOAD_TYPE)
    (unit,) = received(after, depacketizer, now_s=100.1)
    assert unit.data.endswith(b"key") and unit.number > 3


@pytest.mark.parametrize(("sender", "ssrc"), [(("10.0.0.3", 5004), 7), (ROBOT, 8), (("10.0.0.2", 5005), 7)])
def test_a_second_sender_is_refused_and_counted_and_changes_nothing(sent, sender, ssrc):
    foreign, depacketizer = flat(datagrams(moving(12, seed=1), ssrc=ssrc, gop=5)), Depacketizer(PAYLOAD_TYPE)
    units = []
    for n, packet in enumerate(flat(sent)):
        units += depacketizer.push(packet, ROBOT, 10 + n * 1e-3, n)
        units += depacketizer.push(foreign[n % len(foreign)], sender, 10 + n * 1e-3, n)
    assert [unit.data for unit in units] == WHOLE[1:]
    assert +depacketizer.problems == {"packets of another sender, refused": len(flat(sent))}
    assert depacketizer.refused == sender


def test_a_sender_that_stopped_may_begin_anew_from_its_own_address_only(sent):
    depacketizer, other = Depacketizer(PAYLOAD_TYPE), flat(datagrams(PICTURES, first=9, ssrc=99, gop=5))
    before = received(flat(sent), depacketizer)
    assert received(other, depacketizer, sender=("10.0.0.9", 5004), now_s=200.0) == []
    again = received(other, depacketizer, sender=("10.0.0.2", 6000), now_s=201.0)
    assert [unit.data for unit in again] == WHOLE[1:]
    assert again[0].number > before[-1].number + 1
    assert depacketizer.problems["senders that began anew"] == 1


def test_a_sender_of_whom_nothing_whole_comes_locks_nobody_out(sent):
    depacketizer, stray = Depacketizer(PAYLOAD_TYPE), ("10.0.0.9", 1)
    units = []
    for n, packet in enumerate(flat(sent)):  # that one goes on, without a picture
        now_s = 100 + n * 0.04
        depacketizer.push(payload(b"\x64\1")[:2] + struct.pack("!HII", n, n, 1), stray, now_s, n)
        units += depacketizer.push(packet, ROBOT, now_s + 0.01, n)
    assert units and units[-1].data == WHOLE[-1]
    assert depacketizer.refused == stray and depacketizer.problems["senders that began anew"] == 1


def test_a_sender_that_only_paused_goes_on(sent):
    depacketizer = Depacketizer(PAYLOAD_TYPE)
    units = received(flat(sent[:6]), depacketizer) + received(flat(sent[6:]), depacketizer, now_s=200.0)
    assert [unit.data for unit in units] == WHOLE[1:] and not +depacketizer.problems


def test_a_sender_that_counts_anew_without_a_pause_is_followed(sent):
    depacketizer = Depacketizer(PAYLOAD_TYPE)
    before = received(flat(sent), depacketizer)
    long = moving(60)
    again = received(flat(datagrams(long, first=60000, gop=5)), depacketizer, now_s=100.3)
    assert again and again[0].number > before[-1].number + 1
    assert depacketizer.problems["packets that came twice or too late"] == REORDERED + 1


def test_what_is_no_rtp_or_of_another_kind_is_counted_and_locks_nobody_out(sent):
    depacketizer = Depacketizer(PAYLOAD_TYPE)
    strange = [b"", b"hello", b"GET / HTTP/1.1\r\n\r\n", *flat(datagrams(PICTURES[:1], payload_type=97))]
    assert received(strange, depacketizer, sender=("10.0.0.9", 1)) == []
    assert len(received(flat(sent), depacketizer)) == 11
    assert depacketizer.problems["datagrams that are no RTP"] == 3
    assert depacketizer.problems["packets of payload type 97 instead of 96"] == len(strange) - 3
