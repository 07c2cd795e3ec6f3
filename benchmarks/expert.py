"""Success of the scripted expert over seeds, per task. No cameras, no ROS; one process per core.

python benchmarks/expert.py --episodes 100 --json expert.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from pi05_progress_ros.sim.expert.expert import Expert, run_episode
from pi05_progress_ros.sim.physics.tasks import TASKS
from pi05_progress_ros.sim.physics.world import World


def episode(job: tuple[str, int]) -> dict[str, object]:
    """One episode: its outcome, simulated duration in s, and the wall time it took in s."""
    task, seed = job
    started = time.perf_counter()
    world = World(task, seed)
    run_episode(world, Expert(world, seed))
    status = world.task_status()
    wall = time.perf_counter() - started
    return {"task": task, "seed": seed, "outcome": status.outcome, "duration_s": world.time_s, "wall_s": wall}


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="seeds per task, from 0 (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write every episode to this file, too")
    args = parser.parse_args()
    jobs = [(task, seed) for task in TASKS for seed in range(args.episodes)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(episode, jobs))
    print(f"{'task':<18}{'success':>10}{'duration, s':>14}{'x real time':>13}  failed seeds")
    for task in TASKS:
        rows = [r for r in results if r["task"] == task]
        won = [r for r in rows if r["outcome"] == "success"]
        lost = [r["seed"] for r in rows if r["outcome"] != "success"]
        durations = [r["duration_s"] for r in won]
        speed = np.median([r["duration_s"] / r["wall_s"] for r in rows])
        print(f"{task:<18}{len(won):>6}/{len(rows)}{np.median(durations):>14.1f}{speed:>13.1f}  {lost or 'none'}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
