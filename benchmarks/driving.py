"""The same policy drives the same episodes in closed loop and through the node, over DDS in real time: do they agree?

    python benchmarks/driving.py --checkpoint C --episodes 40 --execute-s 0.5 --noise episode --out driving.jsonl

The closed loop is that of pi05_progress_ros.sim.evaluate; the other side is what DEMO=policy make demo starts: robot,
policy node and arm relay as processes of their own, a goal of RunTask for every episode. Finished episodes are lines
of --out, and the same command goes on with what is missing: an episode takes half a minute in real time. The difference
of the shares of success is given with its 95 % interval, over pairs of the same task and seed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from pi05_progress.errors import UserError, run_program
from pi05_progress.policy import PolicyOptions
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.commanding.command_rules import CommandSettings
from pi05_progress_ros.ros_session import ros_session
from pi05_progress_ros.sim.driving.closed_loop import LoopSettings
from pi05_progress_ros.sim.driving.drivers import Driving, drivers
from pi05_progress_ros.starting.bringup import BRINGUP
from pi05_progress_ros.starting.processes import DEFAULT_ROBOT, make_log_folder, own_variables
from pi05_progress_ros.starting.simulation_choices import SIM_TASKS
from pi05_progress_ros.starting.supervisor import Supervisor, session_environment
from training.evaluation.bootstrap import paired

CLOSED, LIVE = "closed loop", "node"
Found = dict[tuple[str, str, int], str]  # the outcome by side, task and seed


def main() -> int:
    """Run and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder of a trained checkpoint")
    parser.add_argument("--tasks", nargs="+", choices=SIM_TASKS, default=SIM_TASKS, help="(default: all)")
    parser.add_argument("--episodes", type=int, default=40, help="of each task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=700_000, help="of the first episode (default: %(default)s)")
    parser.add_argument("--execute-s", type=float, default=0.5, help="as the node's parameter (default: %(default)s)")
    parser.add_argument("--noise", default="episode", help="as the node's parameter (default: %(default)s)")
    parser.add_argument("--image-scale", type=float, default=0.25, help="of both (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="file of lines with finished episodes")
    args = parser.parse_args()
    return run_program(lambda: _run(args), name="driving")


def _run(args: argparse.Namespace) -> None:
    settings = {key: value for key, value in vars(args).items() if key in ("execute_s", "noise", "image_scale")}
    settings["checkpoint"] = str(Path(args.checkpoint).resolve())
    found = read(args.out, settings)
    seeds = range(args.seed, args.seed + args.episodes)
    for task in args.tasks:
        for side, drive in ((CLOSED, closed), (LIVE, live)):
            missing = [seed for seed in seeds if (side, task, seed) not in found]
            for seed, outcome in drive(args, task, missing) if missing else ():
                found[side, task, seed] = outcome
                line = {"side": side, "task": task, "seed": seed, "outcome": outcome}
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{side}, {task}, seed {seed}: {outcome}", flush=True)
    print("\n".join(table(found, args.tasks, seeds)))


def read(path: Path, settings: dict[str, object]) -> Found:
    """The finished episodes of a file, which is begun if there is none.

    Raises:
        UserError: it is of other settings.
    """
    if not path.exists():
        path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    first, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    if first != settings:
        raise UserError(f"{path}: has episodes of other settings, {first}; choose another --out")
    return {(line["side"], line["task"], line["seed"]): line["outcome"] for line in lines}


def closed(args: argparse.Namespace, task: str, seeds: list[int]) -> Iterator[tuple[int, str]]:
    """Seeds and outcomes in simulated time."""
    commands = CommandSettings(execute_s=args.execute_s)
    loop = LoopSettings(image_scale=args.image_scale, commands=commands)
    driving = Driving(PolicyOptions(checkpoint=args.checkpoint, noise=args.noise), "", loop)
    with drivers(driving, min(os.cpu_count() or 1, len(seeds))) as (_, run):
        for episode in run([(task, seed, "none") for seed in seeds]):
            yield episode.seed, episode.outcome


def live(args: argparse.Namespace, task: str, seeds: list[int]) -> Iterator[tuple[int, str]]:
    """Seeds and outcomes in real time. What is missing is the end of a row of seeds, as they come in order."""
    from rclpy.executors import SingleThreadedExecutor  # only now: ROS's settings are in the environment
    from rclpy.node import Node

    from pi05_progress_ros.sim.driving.live_episodes import LiveEpisode, LiveEpisodes

    os.environ.update(own_variables(os.environ))
    given = {"sim": "true", "sim_task": task, "sim_episodes": "policy", "sim_image_scale": str(args.image_scale),
             "publish_commands": "true", "checkpoint": args.checkpoint}  # fmt: skip
    more = {
        "simulated_robot": {"seed": seeds[0]},
        "policy_node": {"seed": seeds[0], "execute_s": args.execute_s, "noise": args.noise},
    }
    ended: list[LiveEpisode] = []
    folder = make_log_folder(os.environ)
    print(f"logs: {folder}", flush=True)
    with Supervisor(session_environment(), folder) as supervisor, ros_session(["driving"], signals=()):
        for process in BRINGUP.processes(given, os.environ):
            supervisor.start(replace(process, parameters={**process.parameters, **more.get(process.name, {})}))
        node, executor = Node("driving", enable_rosout=False), SingleThreadedExecutor()
        executor.add_node(node)
        profile = RobotProfile.load(DEFAULT_ROBOT)
        work = LiveEpisodes(node, "/policy_node", profile, lambda text: print(text, flush=True), ended.append)
        for seed in seeds:
            while not ended:
                executor.spin_once(timeout_sec=0.1)
                if dead := supervisor.ended():
                    raise UserError(f"{dead[0].process.name} has ended, {dead[0].how_it_ended()}; logs: {folder}")
            episode = ended.pop()
            if episode.name != f"{task}_{seed:06d}":
                raise UserError(f"{episode.name} has ended in the place of seed {seed}; the same command goes on")
            yield seed, episode.outcome
        work.close()


def table(found: Found, tasks: tuple[str, ...], seeds: range) -> list[str]:
    """Successes of both sides by task, and the difference over all pairs, in points, with its interval."""
    lines, differences = [f"{'':<18}{CLOSED:>14}{LIVE:>14}"], []
    for task in tasks:
        won = {side: np.array([found[side, task, seed] == "success" for seed in seeds]) for side in (CLOSED, LIVE)}
        lines.append(f"{task:<18}" + "".join(f"{w.sum():>10}/{len(w)}".rjust(14) for w in won.values()))
        differences.extend(won[LIVE].astype(float) - won[CLOSED])
    middle, half = pooled(np.array(differences))
    return [*lines, f"node minus closed loop, {len(differences)} pairs: {middle:+.1f} points, 95 % {half}"]


def pooled(differences: np.ndarray) -> tuple[float, str]:
    """The mean of paired differences of success (-1, 0 or 1), in points, and its interval."""
    of = paired(differences)
    return 100 * of.value, f"[{100 * of.low:+.1f}, {100 * of.high:+.1f}]"


if __name__ == "__main__":
    sys.exit(main())
