"""How long a camera's packet takes to become a picture: in the node's thread, and in the decoder alone.

    python benchmarks/cameras.py --count 90 --json cameras.json

Packets come at a steady rate to one camera, as the executor would hand them over, and V2's stream as datagrams over
this machine's loopback. *Ready* is the time from a packet's arrival to its picture being among the node's inputs,
*alone* that of the decoder in this thread, *used* what conversion to RGB, turning and cutting take of pictures that are
used. A picture that is lost on the way is an error.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pi05_progress.errors import UserError, run_program
from pi05_progress.robots.messages import decode_image, prepare_image
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.video_packets import PacketDecoder, VideoPicture
from pi05_progress_ros.cameras.packets import PacketStream
from pi05_progress_ros.cameras.rtp import packetize
from pi05_progress_ros.cameras.stream import StreamCamera
from pi05_progress_ros.inputs import Inputs, Limits
from pi05_progress_ros.starting.simulation_choices import free_udp_port

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # training/ is used from the checkout, it is not installed

from common.recordings import encoded_packets

CAMERAS = {"left_color": 30.0, "head_camera": 10.0}  # Hz; a frame of the head takes about as long as its period at 30
STREAM_HZ = 20.0  # V2 sends 45: more than one core of a small machine decodes beside the sender
LOST_S = 5.0  # after which a picture does not come any more
COLUMNS = ("ready", "alone", "added", "used")


def main() -> int:
    """Entry point; returns the exit status."""
    return run_program(_run)


def _run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=90, help="packets per camera (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the real sizes (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    profile, stream, rows = RobotProfile.load("teleavatar_v1"), RobotProfile.load("teleavatar_v2"), {}
    print(
        f"{'ms, median (p99)':<26}{'Hz':>5}" + "".join(f"{name:>17}" for name in COLUMNS) + f"{'CPU, % of a core':>20}"
    )
    for key, rate_hz in (*CAMERAS.items(), ("stream", STREAM_HZ)):
        size = stream.stream.size if key == "stream" else profile.cameras[key].size
        width, height = (2 * round(n * args.scale / 2) for n in size)
        packets = moving(width, height, args.count)
        if key == "stream":
            boxes = [(stream.stream.tiles[camera.tile], camera) for camera in stream.cameras.values()]
            row = measured(packets, rate_hz, boxes, lambda *given: Received(stream, *given))
        else:
            row = measured(packets, rate_hz, [(None, profile.cameras[key])], Handed)
        rows[f"{key} {width}x{height}"] = row
        figures = "".join(f"{row[name]['median']:>9.1f} ({row[name]['p99']:>5.1f})" for name in COLUMNS)
        print(f"{key + f' {width}x{height}':<26}{rate_hz:>5g}{figures}{row['cpu_percent']:>20.0f}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def moving(width: int, height: int, count: int) -> list[Any]:
    """Messages of a smooth picture that moves by two pixels a frame."""
    coarse = np.random.default_rng(0).integers(0, 255, (height // 16 + 1, (width + 2 * count) // 16 + 1, 3), np.uint8)
    wide = np.repeat(np.repeat(coarse, 16, axis=0), 16, axis=1)[:height]
    frames = [np.ascontiguousarray(wide[:, 2 * i : 2 * i + width]) for i in range(count)]
    empty = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))
    return [SimpleNamespace(header=empty, **fields) for fields in encoded_packets(frames, count)]


class Handed:
    """Packets go to a camera's decoding thread."""

    def __init__(self, inputs: Inputs, arrived: Any) -> None:
        inputs.add("camera", "/camera", image=True)
        self._stream = PacketStream("camera", "/camera", inputs, arrived, logging.getLogger())
        self.close = self._stream.close

    def push(self, packet: Any) -> None:
        """One has come."""
        self._stream.push(packet, time.time_ns())


class Received:
    """Packets go by RTP to V2's receiver, whose node is made up: nobody listens to what it publishes."""

    def __init__(self, profile: RobotProfile, inputs: Inputs, arrived: Any) -> None:
        now = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=time.time_ns()))
        node = SimpleNamespace(
            get_logger=logging.getLogger, get_clock=lambda: now, destroy_publisher=lambda _: None,
            create_publisher=lambda *_: SimpleNamespace(publish=lambda _: None),
        )  # fmt: skip
        self._to, self._kind = ("127.0.0.1", free_udp_port()), profile.stream.payload_type
        self._count, self._number = 0, 0  # of datagrams and of pictures
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._camera = StreamCamera(node, profile, self._to[1], inputs, arrived)
        self.close = self._camera.close
        self._send(b"\0\0\1\x46\1\x50")  # where the first picture begins is known by what precedes it: a delimiter

    def push(self, packet: Any) -> None:
        """Send one."""
        self._send(packet.data.tobytes())

    def _send(self, data: bytes) -> None:
        for datagram in packetize(data, self._count, 3000 * self._number, 7, self._kind):
            self._socket.sendto(datagram, self._to)
            self._count += 1
        self._number += 1


def measured(packets: list[Any], rate_hz: float, parts: list[tuple[Any, Any]], way: Any) -> dict[str, Any]:
    """Times in ms, and the share of a core while packets come.

    Args:
        packets: one a picture.
        rate_hz: how often one comes.
        parts: of a picture, those that are used: box and camera.
        way: makes what takes them, of inputs and of what is called when a picture is there.
    """
    alone, used, decoder = [], [], PacketDecoder()
    for packet in packets:
        began = time.perf_counter()
        found = decoder.decode(packet, 1)
        decoded = time.perf_counter()
        if found:
            for box, camera in parts:
                np.ascontiguousarray(prepare_image(decode_image(VideoPicture(*found[-1], box), "camera"), camera))
            alone.append(decoded - began)
            used.append(time.perf_counter() - decoded)
    came, ready, inputs = [], [], Inputs(Limits())
    stream = way(inputs, lambda: ready.append(time.perf_counter()))
    began, work = time.perf_counter(), time.process_time()
    for number, packet in enumerate(packets):
        time.sleep(max(0.0, began + number / rate_hz - time.perf_counter()))
        came.append(time.perf_counter())
        stream.push(packet)
    while len(ready) < len(packets) and time.perf_counter() - came[-1] < LOST_S:
        time.sleep(0.01)
    if lost := len(packets) - len(ready):
        raise UserError(f"{lost} pictures were lost on the way: sudo sysctl net.core.rmem_max=4194304, or less --scale")
    share = (time.process_time() - work) / (time.perf_counter() - began)
    stream.close()
    waits = np.subtract(ready, came)
    times = {"ready": waits, "alone": alone, "added": waits - alone, "used": used}
    found = {
        name: dict(zip(("median", "p99"), 1e3 * np.percentile(t, (50, 99)), strict=True)) for name, t in times.items()
    }
    return {"rate_hz": rate_hz, "cpu_percent": 100 * share, **found}


if __name__ == "__main__":
    sys.exit(main())
