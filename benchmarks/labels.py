"""Labelling a data set, against LeRobot's add_features + recompute_stats: whole processes, the same labels.

    python benchmarks/labels.py --lerobot-python /path/to/an/environment/with/lerobot/bin/python

LeRobot's side runs where lerobot can be imported: in this interpreter, or in the one given. Videos are one episode's
clip per camera (H.264, libx264 veryfast, crf 23), repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # training/ is used from the checkout, it is not installed

from training.datasets import layout  # noqa: E402
from training.datasets.statistics import (  # noqa: E402
    Stats,
    feature_stats,
    flattened,
    picture_stats,
    pool_episodes,
    save_stats,
)

CAMERAS = [f"{layout.IMAGES}{name}" for name in ("left_color", "right_color", "head_camera")]
FPS = 30
REQUIRED = 10  # times as fast as LeRobot

LEROBOT = """
import sys, time, logging
import numpy as np
from lerobot.datasets.dataset_tools import add_features, recompute_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset
source, target, frames = sys.argv[1], sys.argv[2], int(sys.argv[3])
dataset = LeRobotDataset("bench/in", root=source, video_backend="pyav")
count = dataset.meta.total_episodes
one = {"shape": (1,), "names": None}
features = {
    "observation.progress": (np.tile(np.linspace(0, 1, frames, dtype=np.float32), count), {"dtype": "float32", **one}),
    "progress.valid": (np.ones(count * frames, bool), {"dtype": "bool", **one}),
    "progress.seconds_remaining": (
        np.tile(np.arange(frames - 1, -1, -1, dtype=np.float32) / dataset.fps, count), {"dtype": "float32", **one}),
}
started = time.perf_counter()
labelled = add_features(dataset, features, output_dir=target, repo_id="bench/out")
added = time.perf_counter()
recompute_stats(labelled)
print(f"add_features {added - started:.1f} s, recompute_stats {time.perf_counter() - added:.1f} s")
"""


def features(width: int, height: int) -> dict[str, layout.Feature]:
    """48 numbers of state and action, and three cameras."""
    names = [f"joint{i}" for i in range(48)]
    video = {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"]}
    info = {
        "video.height": height, "video.width": width, "video.codec": "h264", "video.pix_fmt": "yuv420p",
        "video.fps": FPS, "video.channels": 3, "has_audio": False, "is_depth_map": False,
    }  # fmt: skip
    joints = {layout.STATE: layout.vector(names), layout.ACTION: layout.vector(names)}
    return {
        **joints,
        layout.DONE: layout.scalar("bool"),
        **{camera: {**video, "info": info} for camera in CAMERAS},
        **layout.DEFAULT_FEATURES,
    }


def pictures(frames: int, width: int, height: int, seed: int) -> Iterator[np.ndarray]:
    """A textured picture under a moving block, with sensor noise: compresses about as a robot's camera does."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(40, 200, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    texture = np.kron(patches, np.ones((8, 8, 1), np.uint8))
    noise = rng.integers(0, 6, (height, width, 3), np.uint8)
    for index in range(frames):
        picture = texture[:height, :width] + np.roll(noise, 7 * index, axis=1)
        x = round((width - 60) * index / frames)
        picture[height // 3 : height // 3 + 60, x : x + 60] = (200, 30, 30)
        yield picture


def encode(path: Path, images: Iterator[np.ndarray], width: int, height: int) -> None:
    """H.264 with a key frame every two seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 2 * FPS
        stream.max_b_frames = 0
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def repeat(clip: Path, target: Path, times: int, frames: int) -> None:
    """The clip's packets, several times one after the other."""
    with av.open(str(target), "w") as output:
        stream = None
        for number in range(times):
            with av.open(str(clip)) as source:
                if stream is None:
                    stream = output.add_stream_from_template(source.streams.video[0])
                base = source.streams.video[0].time_base
                shift = int(Fraction(number * frames, FPS) / base)
                for packet in source.demux(source.streams.video[0]):
                    if packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        output.mux(packet)


def make_dataset(root: Path, episodes: int, frames: int, width: int, height: int) -> None:
    """A data set of joints on random walks; files begin anew at LeRobot's sizes."""
    columns, rng = features(width, height), np.random.default_rng(0)
    spans: dict[str, list[tuple[int, float]]] = {}
    camera_stats: dict[str, Stats] = {}
    for number, camera in enumerate(CAMERAS):
        clip = root.with_name(f"clip_{number}.mp4")
        encode(clip, pictures(frames, width, height, number), width, height)
        camera_stats[camera] = picture_stats(pictures(min(frames, 100), width, height, number))
        per_file = max(1, layout.VIDEO_FILE_MB * 10**6 // clip.stat().st_size)
        spans[camera] = [(i // per_file, i % per_file * frames / FPS) for i in range(episodes)]
        for file in range(spans[camera][-1][0] + 1):
            path = root / layout.VIDEO_PATH.format(video_key=camera, chunk_index=0, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            repeat(clip, path, min(per_file, episodes - file * per_file), frames)
        clip.unlink()
    rows, all_stats = [], []
    schema = layout.arrow_schema(columns)
    path = root / layout.DATA_PATH.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, schema, compression="snappy") as writer:
        for index in range(episodes):
            state = np.cumsum(rng.normal(0, 0.01, (frames, 48)), axis=0).astype(np.float32)
            number = np.arange(frames)
            values = {
                layout.STATE: state, layout.ACTION: state + np.float32(0.01), layout.DONE: number == frames - 1,
                "timestamp": (number / FPS).astype(np.float32), "frame_index": number,
                "episode_index": np.full(frames, index), "index": index * frames + number,
                "task_index": np.zeros(frames, np.int64),
            }  # fmt: skip
            arrays = [
                pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), 48) if v.ndim == 2 else pa.array(v)
                for v in (values[name] for name in schema.names)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            stats = {name: feature_stats(v) for name, v in values.items()} | camera_stats
            all_stats.append(stats)
            row = {"episode_index": index, "tasks": ["stack the cubes"], "length": frames, "data/chunk_index": 0,
                   "data/file_index": 0, "dataset_from_index": index * frames,
                   "dataset_to_index": (index + 1) * frames}  # fmt: skip
            for camera, files in spans.items():
                file, start = files[index]
                row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file,
                        f"videos/{camera}/from_timestamp": start,
                        f"videos/{camera}/to_timestamp": start + frames / FPS}  # fmt: skip
            rows.append(row | flattened(stats) | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
    path = root / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    pq.write_table(layout.tasks_table(["stack the cubes"]), root / layout.TASKS)
    save_stats(root, pool_episodes(all_stats))
    info = layout.info(columns, fps=FPS, robot_type="teleavatar", total_episodes=episodes,
                       total_frames=episodes * frames, total_tasks=1)  # fmt: skip
    (root / layout.INFO).write_text(json.dumps(info, indent=4), encoding="utf-8")


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float, float, str]:
    """Wall time and processor time in s, peak memory in MB and standard output of a whole process.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
        output.seek(0), errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command[:3]} exited with {process.returncode}: {errors.read()[-2000:]}")
        return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3, output.read().strip()


def has_lerobot(python: str) -> bool:
    """Whether an interpreter can import it."""
    return subprocess.run([python, "-c", "import lerobot.datasets"], capture_output=True).returncode == 0


def size(folder: Path) -> float:
    """MB in its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def run(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Make the data set, label it both ways in turn, print and return the figures."""
    source = folder / "in"
    make_dataset(source, args.episodes, args.frames, *args.size)
    print(f"labels: {args.episodes} episodes x {args.frames} frames x 3 cameras {args.size[0]}x{args.size[1]} H.264")
    print(f"  videos {size(source / layout.VIDEOS):.0f} MB, tables {size(source / layout.DATA):.1f} MB")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    ours = [sys.executable, "-m", "training.add_progress_labels", "--input_dataset", str(source), "--output_dataset"]
    target = str(folder / "out")
    commands = {
        "add_progress_labels, videos linked": [*ours, target],
        "add_progress_labels, videos copied": [*ours, target, "--copy-videos"],
        "LeRobot": [args.lerobot_python, "-c", LEROBOT, str(source), target, str(args.frames)],
    }
    if not has_lerobot(args.lerobot_python):
        commands.pop("LeRobot")
    runs: dict[str, list[tuple[float, float, float, str]]] = {name: [] for name in commands}
    for _ in range(args.repeats):
        for name, command in commands.items():
            runs[name].append(timed(command, environment))
            shutil.rmtree(target)
    figures: dict[str, object] = {}
    for name, results in runs.items():
        wall, cpu, memory, said = min(results)
        parts = f"   ({said.splitlines()[-1]})" if name == "LeRobot" else ""
        print(f"  {name:<36}{wall:7.2f} s{cpu:7.2f} s of processor{memory:7.0f} MB{parts}")
        figures[name] = {"s": wall, "cpu_s": cpu, "mb": memory, "all_s": [result[0] for result in results]}
    if "LeRobot" not in commands:
        print(f"  LeRobot: not measured, {args.lerobot_python} cannot import it (give --lerobot-python)")
        return figures
    first, *_, other = (min(results)[0] for results in runs.values())
    print(f"  {other / first:.1f} times as fast as LeRobot (required: {REQUIRED})")
    return figures | {"ratio": other / first}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--frames", type=int, default=600, help="per episode (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(848, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--repeats", type=int, default=3, help="runs; the fastest counts (default: %(default)s)")
    parser.add_argument("--lerobot-python", default=sys.executable, help="interpreter that has lerobot")
    parser.add_argument("--folder", type=Path, help="for what is written (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = run(Path(folder), args)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
