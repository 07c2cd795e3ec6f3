"""How long a camera's packet takes to become a picture: in the node's thread, and in the decoder alone.

    python benchmarks/cameras.py --count 90 --json cameras.json

Packets come at a steady rate to one camera, as the executor would hand them over. *Ready* is the time from a packet's
arrival to its picture being among the node's inputs, *alone* that of the decoder in this thread, *used* what conversion
to RGB, turning and cutting take of a picture that is used.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pi05_progress.robots.messages import decode_image, prepare_image
from pi05_progress.robots.packets import PacketDecoder, VideoPicture
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.cameras.packets import PacketStream
from pi05_progress_ros.inputs import Inputs, Limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # training/ is used from the checkout, it is not installed

from common.recordings import encoded_packets

CAMERAS = {"left_color": 30.0, "head_camera": 10.0}  # Hz; a frame of the head takes about as long as its period at 30
COLUMNS = ("ready", "alone", "added", "used")


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=90, help="packets per camera (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the real sizes (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    profile, rows = RobotProfile.load("teleavatar_v1"), {}
    print(
        f"{'ms, median (p99)':<26}{'Hz':>5}" + "".join(f"{name:>17}" for name in COLUMNS) + f"{'CPU, % of a core':>20}"
    )
    for key, rate_hz in CAMERAS.items():
        camera = profile.cameras[key]
        width, height = (2 * round(n * args.scale / 2) for n in camera.size)
        row = measured(moving(width, height, args.count), rate_hz, camera)
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


def measured(packets: list[Any], rate_hz: float, camera: Any) -> dict[str, Any]:
    """Times in ms, and the share of a core while packets come."""
    alone, used, decoder = [], [], PacketDecoder()
    for packet in packets:
        began = time.perf_counter()
        found = decoder.decode(packet, 1)
        decoded = time.perf_counter()
        if found:
            np.ascontiguousarray(prepare_image(decode_image(VideoPicture(*found[-1]), "camera"), camera))
            alone.append(decoded - began)
            used.append(time.perf_counter() - decoded)
    came, ready, inputs = [], [], Inputs(Limits())
    inputs.add("camera", "/camera", image=True)
    stream = PacketStream("camera", "/camera", inputs, lambda: ready.append(time.perf_counter()), logging.getLogger())
    began, work = time.perf_counter(), time.process_time()
    for number, packet in enumerate(packets):
        time.sleep(max(0.0, began + number / rate_hz - time.perf_counter()))
        came.append(time.perf_counter())
        stream.push(packet, time.time_ns())
    while len(ready) < len(packets):
        time.sleep(0.01)
    share = (time.process_time() - work) / (time.perf_counter() - began)
    stream.close()
    waits = np.subtract(ready, came)
    times = {"ready": waits, "alone": alone, "added": waits - alone, "used": used}
    found = {
        name: dict(zip(("median", "p99"), 1e3 * np.percentile(t, (50, 99)), strict=True)) for name, t in times.items()
    }
    return {"rate_hz": rate_hz, "cpu_percent": 100 * share, **found}


if __name__ == "__main__":
    main()
