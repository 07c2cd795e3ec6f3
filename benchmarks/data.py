"""Bags to data sets: against LeRobot's own two ways of writing, at training size, and in memory. Whole processes.

    python benchmarks/data.py --lerobot-python ENVIRONMENT/bin/python --json data.json

* `writing`: three cameras of 848x480; codec, preset, quality and key frames are alike on every side. Our side reads a
  bag of raw pictures, finds and aligns everything; LeRobot's sides are handed the very same pictures and vectors from
  memory-mapped arrays, `add_frame` by `add_frame`: its default path (a PNG per picture, then video) and its streaming
  encoder, with its own queue of 30 and with one that never overflows. Frames in the videos are counted.
* `training size`: 224x224 from folders of raw and of H.265 bags of 848x480; how many times faster than they were
  recorded, and how many times it could be at most if all cores were free (from the processor's seconds).
* `memory`: peak of one process that converts recordings of 1, 4 and 16 minutes.

Sides run in turn, round after round; a ratio is the median over the rounds. Labelling has benchmarks/labels.py.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pi05_progress.robots.profile import RobotProfile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # training/ is used from the checkout, it is not installed

from common.recordings import Form, pictures, shown, write_recording  # noqa: E402

from training.datasets.video import VideoOptions, frame_count  # noqa: E402

RECORDED, TRAINING = (480, 848), (224, 224)
FPS = 30
EPISODES = 4  # at training size
REQUIRED = {"default": 5.0, "streaming": 1.0, "training size": 3.0, "memory": 1.15}

LEROBOT = """
import sys
import numpy as np
from lerobot.configs.video import RGBEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
source, target, mode, preset = sys.argv[1:5]
crf, gop = map(int, sys.argv[5:])
cameras = ("head_camera", "left_color", "right_color")
frames = {camera: np.load(f"{source}/{camera}.npy", mmap_mode="r") for camera in cameras}
order = np.load(f"{source}/order.npy")
height, width = frames[cameras[0]].shape[1:3]
video = {"dtype": "video", "shape": (height, width, 3), "names": ["height", "width", "channels"]}
vector = {"dtype": "float32", "shape": (48,), "names": [f"joint{i}" for i in range(48)]}
flag = {"dtype": "bool", "shape": (1,), "names": None}
features = {"observation.state": vector, "action": vector, "next.done": flag, "next.success": flag}
features |= {f"observation.images.{camera}": video for camera in cameras}
encoder = RGBEncoderConfig(vcodec="h264", preset=preset, crf=crf, g=gop, extra_options={"bf": "0"})
streaming = mode != "default"
dataset = LeRobotDataset.create(
    "bench/out", 30, features, root=target, rgb_encoder=encoder, streaming_encoding=streaming,
    encoder_queue_maxsize=len(order) + 1 if mode == "streaming, lossless" else 30,
    image_writer_threads=0 if streaming else 4 * len(cameras),
)
values = np.zeros(48, np.float32)
for i, place in enumerate(order):
    frame = {f"observation.images.{camera}": np.asarray(frames[camera][place]) for camera in cameras}
    last = np.array([i == len(order) - 1])
    dataset.add_frame({**frame, "observation.state": values, "action": values, "next.done": last, "next.success": last,
                       "task": "bench"})
dataset.save_episode()
dataset.finalize()
"""


@dataclass
class Side:
    """One way of doing the work.

    Attributes:
        command: a whole process; ``{out}`` is where it writes.
        environment: of the process.
    """

    command: Sequence[str]
    environment: Mapping[str, str]


def main() -> int:
    """Run what was asked for and print the tables; 1 if a requirement is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--lerobot-python", help="an interpreter with lerobot 0.6.1; without it those sides are left out"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of the recording for writing (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 4, 16], help="for memory (default: 1 4 16)")
    parser.add_argument("--parts", nargs="+", choices=("writing", "training", "memory"), help="(default: all)")
    parser.add_argument("--folder", type=Path, help="for bags and data sets; by default a temporary one")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    parts = args.parts or ("writing", "training", "memory")
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load_at_start": round(os.getloadavg()[0], 2)}
    print(f"{figures['cores']} cores, load {figures['load_at_start']}")
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench_data_") as name:
        folder = Path(name)
        if "writing" in parts:
            figures["writing"] = writing(folder, args.seconds, args.rounds, args.lerobot_python)
        if "training" in parts:
            figures["training size"] = training_size(folder, 2 * args.seconds, args.rounds)
        if "memory" in parts:
            figures["memory"] = memory(folder, args.minutes)
    figures["required"] = required(figures)
    print("\nrequired")
    for text, held in figures["required"].items():
        print(f"  {'ok    ' if held else 'MISSED'} {text}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if all(figures["required"].values()) else 1


def ours(bag: Path, *options: str) -> Side:
    """The converter as a command."""
    command = [sys.executable, "-m", "training.convert_rosbags", "--input", str(bag), "--output", "{out}"]
    return Side([*command, "--fps", str(FPS), "--task", "bench", *options], {"PYTHONPATH": str(ROOT)})


def writing(folder: Path, seconds: float, rounds: int, lerobot: str | None) -> dict[str, Any]:
    """The same pictures written by each side."""
    profile, options = RobotProfile.load("teleavatar"), VideoOptions()
    preset, crf = options.resolved()
    bag, arrays = folder / "raw", folder / "arrays"
    write_recording(bag, profile, seconds, RECORDED, "raw")
    arrays.mkdir()
    for seed, key in enumerate(profile.cameras):
        np.save(arrays / f"{key}.npy", np.stack(pictures(*RECORDED, seed)))
    count = round(seconds * FPS)
    np.save(arrays / "order.npy", np.array([shown(list(range(60)), i) for i in range(count)]))
    sides = {"converter": ours(bag)}
    if lerobot:
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        script = folder / "lerobot_side.py"
        script.write_text(LEROBOT, encoding="utf-8")
        for mode in ("default", "streaming", "streaming, lossless"):
            command = [lerobot, str(script), str(arrays), "{out}", mode, preset, str(crf), str(options.gop)]
            sides[f"LeRobot, {mode}"] = Side(command, offline)
    title = f"writing {count} frames of three 848x480 cameras, {options.codec} {preset} crf {crf}, a key frame every "
    results = in_turn(sides, rounds, folder, lambda out: {"frames": frames_in(out), "mb": size_mb(out / "videos")})
    show(f"{title}{options.gop} frames; {rounds} rounds", results, {"frames lost": lambda r: 3 * count - r["frames"]})
    shutil.rmtree(bag)
    return {"frames": 3 * count, "codec": options.codec, "preset": preset, "crf": crf, "gop": options.gop, **results}


def training_size(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """224x224 from folders of raw and of H.265 recordings, as one converts what was recorded in a day."""
    profile, height_width = RobotProfile.load("teleavatar"), "x".join(map(str, TRAINING))
    sides = {}
    forms: tuple[Form, ...] = ("raw", "hevc")
    for form in forms:
        bags = folder / form
        bags.mkdir()
        for episode in range(EPISODES):
            write_recording(bags / f"episode_{episode}", profile, seconds, RECORDED, form)
        sides[form] = ours(bags, "--image-size", height_width)
    results = in_turn(sides, rounds, folder, lambda out: {"frames": frames_in(out), "mb": size_mb(out / "videos")})
    for form in forms:
        results[form]["bag_mb"] = size_mb(folder / form)
        recorded = EPISODES * seconds
        results[form]["times_recorded"] = recorded / results[form]["s"]
        results[form]["times_recorded_on_free_cores"] = recorded * os.cpu_count() / results[form]["cpu_s"]
        shutil.rmtree(folder / form)
    columns = {
        "bag, MB": lambda r: round(r["bag_mb"]),
        "x recorded": lambda r: round(r["times_recorded"], 2),
        "at most": lambda r: round(r["times_recorded_on_free_cores"], 2),  # had all cores been free, and no wait
    }
    show(
        f"{EPISODES} episodes of {seconds:g} s, three 848x480 cameras, to {height_width}; {rounds} rounds",
        results,
        columns,
    )
    return results


def memory(folder: Path, minutes: Sequence[float]) -> dict[str, Any]:
    """Peak memory of the converting process."""
    profile, results = RobotProfile.load("teleavatar"), {}
    for length in minutes:
        bag, out = folder / "long", folder / "out"
        write_recording(bag, profile, 60 * length, (120, 212), "jpeg")
        started = time.perf_counter()
        peak = peak_mb(filled(ours(bag, "--workers", "1"), out))
        results[f"{length:g} min"] = {
            "s": time.perf_counter() - started, "peak_mb": peak, "bag_mb": size_mb(bag), "mb": size_mb(out / "videos")
        }  # fmt: skip
        shutil.rmtree(bag)
        shutil.rmtree(out)
    columns = {"peak, MB": lambda r: round(r["peak_mb"]), "bag, MB": lambda r: round(r["bag_mb"])}
    show("one episode, three 212x120 JPEG cameras, one process", results, columns)
    return results


def filled(side: Side, out: Path) -> Side:
    """The side, writing to a place."""
    return Side([part.replace("{out}", str(out)) for part in side.command], side.environment)


def start(side: Side) -> subprocess.Popen:
    """Start a side's process, whose messages are shown only if it fails."""
    environment = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    return subprocess.Popen(
        side.command,
        env=environment | dict(side.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """Wait for a process; its output.

    Raises:
        RuntimeError: it failed.
    """
    output = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"{' '.join(process.args[:3])} failed:\n{output[-3000:]}")
    return output


def peak_mb(side: Side) -> float:
    """Largest resident size of a process, as the system counted it."""
    measured = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=sys.stderr); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    output = finish(start(Side([sys.executable, "-c", measured, *side.command], side.environment)))
    return int(output.strip().splitlines()[-1]) / 1024


def in_turn(
    sides: Mapping[str, Side], rounds: int, folder: Path, look: Callable[[Path], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Run all sides round after round.

    Returns:
        Per side the median seconds ``s``, the median ``ratio`` to the first side's, ``all_s``, the processor's seconds
        ``cpu_s``, and what ``look`` says about its last result.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    seen: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            out = folder / "out"
            before, started = children_cpu(), time.perf_counter()
            finish(start(filled(side, out)))
            seconds[name].append(time.perf_counter() - started)
            processor[name].append(children_cpu() - before)
            seen[name] = look(out)
            shutil.rmtree(out)
    first = next(iter(seconds.values()))
    return {
        name: {
            "s": statistics.median(own),
            "ratio": statistics.median(a / b for a, b in zip(own, first, strict=True)),
            "cpu_s": statistics.median(processor[name]),
            "all_s": own,
            **seen[name],
        }
        for name, own in seconds.items()
    }


def children_cpu() -> float:
    """Processor time of all processes that were started and have ended, s."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def frames_in(root: Path) -> int:
    """Frames in all videos of a data set."""
    return sum(frame_count(path) for path in root.rglob("*.mp4"))


def size_mb(path: Path) -> float:
    """Size of a folder's files."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 2**20


def show(
    title: str, results: Mapping[str, Mapping[str, Any]], columns: Mapping[str, Callable[[Mapping[str, Any]], Any]]
) -> None:
    """Print a table."""
    print(f"\n{title}\n{'':<30}{'s':>9}{'ratio':>8}{'CPU s':>8}{'video MB':>10}" + "".join(f"{c:>14}" for c in columns))
    for name, row in results.items():
        cells = f"{row['s']:>9.1f}{row.get('ratio', 1):>8.2f}{row.get('cpu_s', 0):>8.1f}{row.get('mb', 0):>10.1f}"
        print(f"{name:<30}{cells}" + "".join(f"{of(row)!s:>14}" for of in columns.values()))


def required(figures: Mapping[str, Any]) -> dict[str, bool]:
    """What the issue asks for, as far as it was measured."""
    held = {}
    written = figures.get("writing", {})
    if "LeRobot, default" in written:
        ratio = written["LeRobot, default"]["ratio"]
        held[f"{ratio:.1f} times LeRobot's default path; {REQUIRED['default']:g} wanted"] = ratio >= REQUIRED["default"]
        ratio = written["LeRobot, streaming"]["ratio"]
        held[f"{ratio:.2f} times LeRobot's streaming encoder; 1 wanted"] = ratio >= REQUIRED["streaming"]
    if written:
        lost = written["frames"] - written["converter"]["frames"]
        held[f"{lost} frames lost; none wanted"] = lost == 0
    for form, row in figures.get("training size", {}).items():
        text = (
            f"{row['times_recorded']:.2f} times faster than recorded from {form}; {REQUIRED['training size']:g} wanted"
        )
        held[text] = row["times_recorded"] >= REQUIRED["training size"]
    if peaks := [row["peak_mb"] for row in figures.get("memory", {}).values()]:
        growth = peaks[-1] / peaks[0]
        held[f"peak memory grows by {growth:.2f}; at most {REQUIRED['memory']:g} wanted"] = growth <= REQUIRED["memory"]
    return held


if __name__ == "__main__":
    sys.exit(main())
