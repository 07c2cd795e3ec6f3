"""Samples for training: our loader against LeRobotDataset with torch's DataLoader, on the same data set.

    python benchmarks/loading.py --lerobot-python /path/to/an/environment/with/lerobot/bin/python

The data set is as the converter writes it: three cameras of 848x480, H.264 with a key frame every ten, 48 numbers of
state and action, chunks of 30 actions. Batches are drawn at random. Ours are ready for the model: pictures resized as
the policy does, vectors normalised, prompts tokenised. LeRobot's are as its DataLoader gives them: whole pictures as
float32, neither resized nor tokenised, which is less work. Sides run in turn, each round in a process of its own, and
start to count after their first batch; a ratio is the median over the rounds. LeRobot's side runs where lerobot can be
imported: in this interpreter, or in the one given.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # training/ is used from the checkout, it is not installed

from labels import has_lerobot, pictures, size  # noqa: E402

from pi05_progress.models.config import mid  # noqa: E402
from pi05_progress.robots.profile import RobotProfile  # noqa: E402
from pi05_progress.units.tokenizer import ByteEncoder  # noqa: E402
from training.datasets import layout  # noqa: E402
from training.datasets.progress_meta import EpisodeMeta  # noqa: E402
from training.datasets.statistics import picture_stats  # noqa: E402
from training.datasets.video import VideoFile, VideoOptions  # noqa: E402
from training.datasets.writer import VECTOR_FILES, EpisodeFiles, write_dataset  # noqa: E402
from training.loading.cache import cached_pictures  # noqa: E402
from training.loading.config import DataConfig  # noqa: E402
from training.loading.loader import TrainLoader  # noqa: E402
from training.loading.pictures import camera_features  # noqa: E402

FPS, HORIZON = 30, 30
REQUIRED = 5  # times as many samples per second as LeRobot, with a cache
CACHED, DECODED, BUILD, LEROBOT = "ours, cached", "ours, without a cache", "ours, first pass: the cache", "LeRobot"

LEROBOT_CODE = """
import json, sys, time
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
root, fps, horizon, batch, seconds, workers, backend = sys.argv[1], *map(int, sys.argv[2:7]), sys.argv[7]
chunk = {"action": [i / fps for i in range(horizon)]}
dataset = LeRobotDataset("bench/in", root=root, video_backend=backend, delta_timestamps=chunk)
options = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
torch.manual_seed(0)
if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(dataset, batch, shuffle=True, num_workers=workers, drop_last=True, **options)
    count, started = 0, None
    while started is None or time.perf_counter() - started < seconds:
        for got in loader:
            if started is None:
                started = time.perf_counter()
                continue
            count += len(got["index"])
            if time.perf_counter() - started >= seconds:
                break
    print(json.dumps({"samples": count, "s": time.perf_counter() - started}))
"""


def make_dataset(root: Path, work: Path, episodes: int, frames: int, shape: tuple[int, int]) -> None:
    """A data set as the converter writes it; ``shape`` is (width, height)."""
    width, height = shape
    profile, rng = RobotProfile.load("teleavatar"), np.random.default_rng(0)
    made = []
    for index in range(episodes):
        folder = work / str(index)
        folder.mkdir(parents=True)
        stats = {}
        for number, camera in enumerate(profile.cameras):
            seed = 10 * index + number
            with VideoFile(folder / f"{camera}.mp4", FPS, VideoOptions()) as video:
                for image in pictures(frames, width, height, seed):
                    video.write(image)
            stats[camera] = picture_stats(pictures(min(frames, 20), width, height, seed))
        state = np.cumsum(rng.normal(0, 0.01, (frames, profile.vector_size)), axis=0).astype(np.float32)
        for name, values in ((layout.STATE, state), (layout.ACTION, state + np.float32(0.01))):
            values.tofile(folder / VECTOR_FILES[name])
        made.append(EpisodeFiles(folder, frames, "stack the cubes", EpisodeMeta(), stats))
    root.mkdir()
    write_dataset(root, made, profile, dict.fromkeys(profile.cameras, (height, width)), FPS, VideoOptions())


def measure_ours(root: Path, cache: Path | None, args: argparse.Namespace) -> dict[str, float]:
    """Samples of our loader in some seconds, after its first batch."""
    model = dataclasses.replace(mid(), action_horizon=HORIZON)
    config = DataConfig(
        repo_id=str(root), cache=cache, workers=args.workers, threads=args.threads, validation_fraction=0
    )
    with TrainLoader(config, model, ByteEncoder(), batch_size=args.batch, seed=0) as batches:
        next(batches)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < args.seconds:
            count += len(next(batches).actions)
        return {"samples": count, "s": time.perf_counter() - started}


def measure_build(root: Path, cache: Path) -> dict[str, float]:
    """Decode every picture once into a cache."""
    from training.datasets.reader import open_dataset

    dataset = open_dataset(root)
    features = camera_features(dataset, RobotProfile.load("teleavatar"), ())
    started = time.perf_counter()
    cached_pictures(cache, dataset, features, mid().views)
    return {"samples": dataset.frame_count, "s": time.perf_counter() - started}


def rate(command: list[str], environment: dict[str, str]) -> float:
    """Samples per second that a process reports.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[:3]} exited with {done.returncode}: {done.stderr[-2000:]}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return result["samples"] / result["s"]


def run(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Make the data set, measure the sides in turn, print and return the figures."""
    source, cache, code = folder / "in", folder / "cache", folder / "lerobot_side.py"
    make_dataset(source, folder / "work", args.episodes, args.frames, tuple(args.size))
    code.write_text(LEROBOT_CODE, encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    same = [f"--{name}={getattr(args, name)}" for name in ("batch", "seconds", "workers", "threads")]
    ours = [sys.executable, __file__, *same, "--root", str(source), "--measure"]
    sides: dict[str, list[str]] = {
        DECODED: [*ours, "decoded"],
        BUILD: [*ours, "build", "--cache", str(cache / "ROUND")],
        CACHED: [*ours, "cached", "--cache", str(cache / "0")],
    }
    if has_lerobot(args.lerobot_python):
        for workers in args.lerobot_workers:
            numbers = [FPS, HORIZON, args.batch, args.seconds, workers]
            command = [args.lerobot_python, str(code), str(source), *map(str, numbers), args.video_backend]
            sides[f"{LEROBOT}, {workers} workers, {args.video_backend}"] = command
    print(f"loading: {args.episodes} episodes x {args.frames} frames x 3 cameras {args.size[0]}x{args.size[1]} H.264, "
          f"{size(source / layout.VIDEOS):.0f} MB, batches of {args.batch}; ours with {args.threads} threads, "
          f"{args.workers} worker processes")  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(args.rounds):
        for name, command in sides.items():
            rates[name].append(rate([part.replace("ROUND", str(number)) for part in command], environment))
        if number:  # the first round's is used in all of them
            shutil.rmtree(cache / str(number))
    baselines = [name for name in sides if name.startswith(LEROBOT)]
    best = max(baselines, key=lambda name: statistics.median(rates[name]), default=None)
    figures: dict[str, object] = {}
    print(f"  {'':<32}{'samples/s':>10}{'lowest':>9}{'highest':>9}{'  x LeRobot' if best else ''}")
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, rates[best], strict=True)) if best else None
        said = "" if ratio is None else f"{ratio:11.1f}"
        print(f"  {name:<32}{statistics.median(values):10.1f}{min(values):9.1f}{max(values):9.1f}{said}")
        figures[name] = {"samples_per_s": statistics.median(values), "all": values, "ratio": ratio}
    if best is None:
        print(f"  {LEROBOT}: not measured, {args.lerobot_python} cannot import it (give --lerobot-python)")
    else:
        print(f"  cached: {figures[CACHED]['ratio']:.1f} times {best} (required: {REQUIRED})")
    print(f"  the cache takes {size(cache / '0'):.0f} MB")
    return figures


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--frames", type=int, default=300, help="per episode (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(848, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=15, help="that a side is measured (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of our loader (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes of our loader (default: %(default)s)")
    parser.add_argument("--lerobot-python", default=sys.executable, help="interpreter that has lerobot")
    parser.add_argument("--lerobot-workers", type=int, nargs="+", default=[0, os.cpu_count()], metavar="N",
                        help="of torch's DataLoader; the best counts (default: %(default)s)")  # fmt: skip
    parser.add_argument("--video-backend", default="pyav", help="of LeRobot (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="for what is written (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--measure", choices=["decoded", "build", "cached"], help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:  # one side of a round
        result = (
            measure_build(args.root, args.cache)
            if args.measure == "build"
            else measure_ours(args.root, args.cache, args)
        )
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = run(Path(folder), args)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
