#!/usr/bin/env python3
"""Films what the node publishes: the cameras' pictures, and under them the curve of progress as it grows.

    make demo                                                        # in one terminal; it prints its ROS domain
    ROS_DOMAIN_ID=N .venv/bin/python scripts/with_ros.py .venv/bin/python scripts/film_demo.py --out demo.gif

It begins with the first progress of an episode, and ends --after seconds behind the first SUCCEEDED, or at --seconds.
The film plays at double speed. Needs Pillow and matplotlib (extra train).
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pi05_progress.files.output_file import write_file
from pi05_progress.robots.messages import decode_image
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.msg import TaskProgress
from pi05_progress_ros.starting.processes import use_image_transport

HEAD, WRISTS = "head_camera", ("left_color", "right_color")
STATUS = {getattr(TaskProgress, n): n for n in ("UNKNOWN", "ADVANCING", "STALLED", "REGRESSING", "SUCCEEDED", "FAILED")}
START = 0.15  # a film begins with progress below this, so not in the middle of an episode
WIDTH = 480  # of the film, pixels
COLOURS = 96  # of a frame
FAST = 2  # times as fast as it was


@dataclass(frozen=True)
class Shot:
    """What was seen at a moment, s; progress may be NaN."""

    time_s: float
    pictures: dict[str, np.ndarray]
    message: Any


class Camera:
    """Subscribes, and keeps a shot every ``period_s``."""

    def __init__(self, node: Any, profile: RobotProfile, period_s: float) -> None:
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image as ImageMessage

        self._node, self._period_s = node, period_s
        self._pictures: dict[str, Any] = {}
        self.shots: list[Shot] = []
        self.done_s: float | None = None
        for key in (HEAD, *WRISTS):
            topic = profile.cameras[key].topic
            node.create_subscription(
                ImageMessage, topic, lambda m, key=key: self._pictures.update({key: m}), qos_profile_sensor_data
            )
        node.create_subscription(TaskProgress, "/task_progress", self._on_progress, 10)

    def _on_progress(self, message: TaskProgress) -> None:
        now = time.monotonic()
        if len(self._pictures) < 3 or (not self.shots and not message.progress < START):
            return
        if self.shots and now - self.shots[-1].time_s < self._period_s:
            return
        pictures = {key: decode_image(picture, key) for key, picture in self._pictures.items()}
        self.shots.append(Shot(now, pictures, message))
        if message.status == TaskProgress.SUCCEEDED and self.done_s is None:
            self.done_s = now


def fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture at another size."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def curve(shots: list[Shot], count: int, height: int) -> np.ndarray:
    """The curve of progress after the first ``count`` shots, on axes that hold all of them."""
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    start = shots[0].time_s
    seen = [(s.time_s - start, s.message) for s in shots[:count]]
    times = [t for t, _ in seen]
    axes.fill_between(times, [m.lower for _, m in seen], [m.upper for _, m in seen], color="C0", alpha=0.2, linewidth=0)
    axes.plot(times, [m.progress_raw for _, m in seen], color="0.7", linewidth=0.8)
    axes.plot(times, [m.progress for _, m in seen], color="C0", linewidth=2)
    message = seen[-1][1]
    value = "-" if math.isnan(message.progress) else f"{100 * message.progress:.0f} %"
    axes.set_title(f"{value}   {STATUS[message.status]}", fontsize=10, loc="left", fontfamily="monospace")
    axes.set_xlim(0, max(shots[-1].time_s - start, 0.1))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("s", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def film(shots: list[Shot]) -> bytes:
    """An animated GIF, ``FAST`` times as fast as it was; it rests on the last picture.

    Args:
        shots: at least one, in order of time.
    """
    frames = []
    for count in range(1, len(shots) + 1):
        pictures = shots[count - 1].pictures
        head = fitted(pictures[HEAD], WIDTH, WIDTH * 9 // 16)
        wrists = [fitted(pictures[key], WIDTH // 2, WIDTH * 9 // 32) for key in WRISTS]
        rows = [head, np.concatenate(wrists, axis=1), curve(shots, count, 170)]
        picture = Image.fromarray(np.concatenate(rows))
        # The other methods let small things of strong colours, as the cubes are, go down in the table's browns.
        frames.append(picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE))
    times = np.diff([s.time_s for s in shots], append=shots[-1].time_s + 2.0 * FAST)
    durations = [max(20, round(1000 * t / FAST)) for t in times]
    out = io.BytesIO()
    frames[0].save(
        out, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True, disposal=1
    )
    return out.getvalue()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="GIF file to write; replaced if it is there")
    text = "longest time that is filmed, s; the film takes half of it (default: %(default)s)"
    parser.add_argument("--seconds", type=float, default=60.0, help=text)
    parser.add_argument("--after", type=float, default=2.0, help="s to go on once it is done (default: %(default)s)")
    parser.add_argument("--period", type=float, default=0.4, help="s between two pictures (default: %(default)s)")
    parser.add_argument("--robot", default="teleavatar", help="robot profile (default: %(default)s)")
    args = parser.parse_args(arguments)
    folder = args.out.absolute().parent
    if not folder.is_dir():
        parser.error(f"--out {args.out}: there is no folder {folder}; make it first")
    if args.out.is_dir():
        parser.error(f"--out {args.out}: is a folder; name a file in it")
    if not os.access(folder, os.W_OK):
        parser.error(f"--out {args.out}: nothing can be written in {folder}")
    return args


def main() -> int:
    """Entry point; returns the exit status."""
    args = parse()
    use_image_transport()
    import rclpy

    rclpy.init()
    node = rclpy.create_node("film_demo")
    camera = Camera(node, RobotProfile.load(args.robot), args.period)
    waited_s = time.monotonic()
    try:
        while True:
            rclpy.spin_once(node, timeout_sec=0.1)
            now = time.monotonic()
            if camera.done_s is not None and now - camera.done_s > args.after:
                break
            if camera.shots and now - camera.shots[0].time_s > args.seconds:
                break
            if not camera.shots and now - waited_s > 180:
                print("film_demo: no progress near the start of an episode in 180 s; is ROS_DOMAIN_ID the demo's, and "
                      "is its model a trained one?", file=sys.stderr)  # fmt: skip
                return 1
    except KeyboardInterrupt:
        if not camera.shots:
            return 130
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    try:
        write_file(args.out, film(camera.shots))
    except KeyboardInterrupt:
        print("film_demo: stopped; nothing was written", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"film_demo: {args.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {len(camera.shots)} pictures, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
