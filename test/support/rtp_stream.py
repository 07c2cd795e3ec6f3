"""Made-up H.265 over RTP: the datagrams of moving pictures, and what is left of them after a bad network."""

import numpy as np
from video_packets import encode

from pi05_progress_ros.cameras.rtp import Depacketizer, packetize

ROBOT = ("10.0.0.2", 5004)
PAYLOAD_TYPE, TICKS = 96, 3000  # of RTP's clock, between pictures at 30 Hz


def datagrams(pictures, first=65500, ssrc=7, payload_type=PAYLOAD_TYPE, **options):
    """Per picture its datagrams; sequence numbers run over their end on the way."""
    made, sequence = [], first
    for number, packet in enumerate(encode(pictures, **options)):
        made.append(packetize(bytes(packet), sequence, 4294960000 + number * TICKS, ssrc, payload_type))
        sequence += len(made[-1])
    return made


def received(sent, depacketizer=None, sender=ROBOT, now_s=100.0, rate_hz=1000.0):
    """Access units of datagrams that come one after the other, evenly."""
    depacketizer, units = depacketizer or Depacketizer(PAYLOAD_TYPE), []
    for count, datagram in enumerate(sent):
        units += depacketizer.push(datagram, sender, now_s + count / rate_hz, count)
    return units + depacketizer.take(now_s + len(sent) / rate_hz + 1.0)


def numbered(pictures):
    """Pictures (h, w >= 128, 3) with their number, and its complement as a check, in blocks that survive coding."""
    made = []
    for number, picture in enumerate(pictures):
        bits = np.array([[int(c) for c in f"{value:016b}"] for value in (number, number ^ 0xFFFF)], np.uint8)
        picture = picture.copy()
        picture[:16, :128] = 255 * bits.repeat(8, axis=0).repeat(8, axis=1)[..., None]
        made.append(picture)
    return made


def number_of(picture):
    """What ``numbered`` wrote, or None if the check does not agree: the picture is damaged."""
    blocks = picture[:16, :128].reshape(2, 8, 16, 8, 3).mean(axis=(1, 3, 4)) > 127
    value, check = (int("".join("01"[bit] for bit in row.astype(int)), 2) for row in blocks)
    return value if value ^ check == 0xFFFF else None
