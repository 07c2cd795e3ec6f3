"""Made-up video: pictures that move, coded as a camera's packets, and what a sound decoder makes of them."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np

from pi05_progress.robots.video_packets import PacketDecoder, frame_to_rgb


def encode(pictures, codec="hevc", gop=10, bframes=0, rate_hz=30):
    """PyAV's packets of pictures (h, w, 3), in the order in which they are decoded."""
    encoder = av.CodecContext.create({"hevc": "libx265", "h264": "libx264"}[codec], "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, rate_hz), rate_hz
    same = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={bframes}:repeat-headers=1"
    options = {"preset": "ultrafast", **({} if bframes else {"tune": "zerolatency"})}
    encoder.options = options | (
        {"x265-params": f"log-level=none:{same}"} if codec == "hevc" else {"x264-params": same}
    )
    packets = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = number
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


def moving(count, size=(96, 128), seed=0):
    """Pictures of which each is the one before, shifted: what is built upon a wrong one looks wrong."""
    texture = np.random.default_rng(seed).integers(0, 255, (size[0], size[1] + count, 3), dtype=np.uint8)
    return [texture[:, i : i + size[1]] for i in range(count)]


def messages(pictures, encoding="", pts=lambda number: number, first_stamp=0, **options):
    """``FFMPEGPacket`` messages; stamps are the pictures' numbers, in s, from ``first_stamp``."""
    height, width = pictures[0].shape[:2]
    return [
        SimpleNamespace(
            header=SimpleNamespace(stamp=SimpleNamespace(sec=first_stamp + packet.pts, nanosec=0)),
            width=width,
            height=height,
            encoding=encoding or options.get("codec", "hevc"),
            pts=pts(packet.pts),
            flags=int(packet.is_keyframe),
            is_bigendian=False,
            data=np.frombuffer(bytes(packet), np.uint8),
        )
        for packet in encode(pictures, **options)
    ]


def decoded(sent, decoder=None, flush=True):
    """Pictures (h, w, 3) by the seconds of their stamps."""
    decoder, found = decoder or PacketDecoder(), {}
    for message in sent:
        found |= {stamp: frame_to_rgb(frame) for stamp, frame in decoder.decode(message, message.header.stamp.sec)}
    return found | ({stamp: frame_to_rgb(frame) for stamp, frame in decoder.flush()} if flush else {})
