"""How often a policy does a task of the simulated robot, and whether it knows: the policy drives, physics judges.

    python -m pi05_progress_ros.sim.evaluate --checkpoint C --episodes 50 --json driven.json

Simulated time only: nothing depends on how fast this machine is, so a slow one gives the same figures. Seeds are far
from those that data are usually made of; give others if they are not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pi05_progress.checkpoint import read_info
from pi05_progress.policy import UNTRAINED, Policy, make_policy
from pi05_progress.robots.profile import RobotProfile

from ..commands import CommandSettings
from .cameras import scaled_sizes
from .closed_loop import ClosedLoop, ClosedLoopError, DrivenEpisode, LoopSettings
from .gl import NoOpenGLError, require_backend
from .tasks import TASKS

FIRST_SEED = 900_000
PREMATURE_S = 1.0  # declared so long before the physics decided is premature
CONFIDENCE = 0.95


def wilson(count: int, total: int) -> tuple[float, float]:
    """Ends of the 95 % interval of a share, by Wilson's score ("Probable inference ...", JASA 1927).

    Args:
        count: of ``total``, which is at least 1.
        total: of all.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, spread = count / total, z * z / total
    middle = share + spread / 2
    reach = z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))


def summarise(episodes: Sequence[DrivenEpisode]) -> dict[str, Any]:
    """Figures of episodes, at least one. Shares come with count, total and 95 % interval.

    Success is the physics'. Agreement is the share of episodes in which the status was SUCCEEDED at some time if and
    only if the task was done.
    """
    n = len(episodes)
    done = [e.outcome == "success" for e in episodes]
    declared = [e.declared_s is not None for e in episodes]
    estimated = [e.progress for e in episodes if e.progress is not None]
    known = bool(estimated)  # whether there is a progress head at all
    early = [
        e.declared_s is not None and e.declared_s < e.decided_s - PREMATURE_S
        for e in episodes
        if e.outcome == "success"
    ]
    errors = [abs(e.progress - e.true_progress) for e in episodes if e.progress is not None]
    return {
        "episodes": n,
        "success": _share(sum(done), n),
        "milestones": mean(e.true_progress for e in episodes),
        "seconds_to_success": mean(e.decided_s for e in episodes if e.outcome == "success") if any(done) else None,
        "progress_at_end": mean(estimated) if known else None,
        "progress_error_at_end": mean(errors) if known else None,
        "agreement": _share(sum(a == b for a, b in zip(done, declared, strict=True)), n) if known else None,
        "declared_and_done": sum(a and b for a, b in zip(done, declared, strict=True)),
        "done_but_not_declared": sum(a and not b for a, b in zip(done, declared, strict=True)),
        "declared_but_not_done": sum(b and not a for a, b in zip(done, declared, strict=True)),
        "declared_prematurely": sum(early),
        "stopped": sum(bool(e.stopped) for e in episodes),
    }


def _share(count: int, total: int) -> dict[str, float]:
    low, high = wilson(count, total)
    return {"share": count / total, "count": count, "total": total, "low": low, "high": high}


def table(figures: dict[str, dict[str, Any]]) -> Table:
    """Figures by task, for people."""
    made = Table(title="The policy drives the simulated robot; 95 % Wilson intervals")
    made.add_column("")
    for task in figures:
        made.add_column(task, justify="right")
    rows = (
        ("success", "success"), ("milestones", "milestones that hold in the end, share"),
        ("seconds_to_success", "seconds to success"), ("progress_at_end", "estimated progress at the end"),
        ("progress_error_at_end", "its distance from the share of milestones"),
        ("agreement", "status SUCCEEDED agrees with the truth"),
        ("done_but_not_declared", "done, not declared"), ("declared_but_not_done", "declared, not done"),
        ("declared_prematurely", f"declared more than {PREMATURE_S:g} s too early"),
        ("stopped", "commanding ended by itself"),
    )  # fmt: skip
    for key, title in rows:
        made.add_row(title, *(_cell(of[key]) for of in figures.values()))
    return made


def _cell(value: Any) -> str:
    match value:
        case None:
            return "unknown"
        case dict():
            return (
                f"{value['count']}/{value['total']}  {value['share']:.2f} \\[{value['low']:.2f}, {value['high']:.2f}]"
            )
        case int():
            return str(value)
        case _:
            return f"{value:.2f}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pi05_progress_ros.sim.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    loop, commands = LoopSettings(), CommandSettings()
    parser.add_argument("--checkpoint", default="", help="folder of a trained checkpoint")
    text = "pi05, or module:function of importable code that takes the profile and returns a policy"
    parser.add_argument("--policy", default="pi05", help=text)
    parser.add_argument("--task", action="append", choices=sorted(TASKS), help="may be repeated (default: every task)")
    parser.add_argument("--episodes", type=int, default=50, help="of each task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="of the first episode (default: %(default)s)")
    text = "robot profile (default: the checkpoint's)"
    parser.add_argument("--profile", default="", help=text)
    text = "inferences a second (default: %(default)s, as the node)"
    parser.add_argument("--rate", type=float, default=loop.inference_rate_hz, help=text)
    text = "simulated s from a frame to its actions (default: %(default)s)"
    parser.add_argument("--latency", type=float, default=loop.latency_s, help=text)
    text = "largest speed of a commanded joint, rad/s (default: %(default)s, as the node)"
    parser.add_argument("--max-joint-speed", type=float, default=commands.max_joint_speed, help=text)
    text = "image size as a share of the real cameras' (default: %(default)s, as generated data)"
    parser.add_argument("--image-scale", type=float, default=loop.image_scale, help=text)
    parser.add_argument("--num-steps", type=int, default=10, help="denoising steps (default: %(default)s)")
    parser.add_argument("--tokenizer", default="", help="path of PaliGemma's tokenizer, for checkpoints that use it")
    parser.add_argument("--json", type=Path, help="write figures and every episode to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    args = parser.parse_args(arguments)
    limits = (("episodes", 1, 10**5), ("seed", 0, 2**31 - 10**5), ("rate", 0.5, 100), ("latency", 0, 5),
              ("num_steps", 1, 100), ("max_joint_speed", 0.01, 3))  # fmt: skip
    for name, low, high in limits:
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: expected {low} to {high}")
    if args.policy == "pi05" and not args.checkpoint:
        parser.error("--checkpoint is missing: a folder with a trained model")
    if args.json is not None and args.json.exists() and not args.overwrite:
        parser.error(f"--json {args.json} is already there; choose another name, or --overwrite it")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.absolute().parent}; make it first")
    try:
        scaled_sizes(args.image_scale)
        require_backend()
    except (ValueError, NoOpenGLError) as error:
        parser.error(str(error))
    return args


def _policy(args: argparse.Namespace) -> tuple[Policy, RobotProfile]:
    info = read_info(Path(args.checkpoint)) if args.checkpoint else None
    profile = RobotProfile.load(args.profile or (info.robot if info else "teleavatar"))
    policy = make_policy(
        profile, policy=args.policy, checkpoint=args.checkpoint, tokenizer=args.tokenizer, num_steps=args.num_steps
    )
    if policy.model_id == UNTRAINED:
        raise ClosedLoopError("the model is untrained by its own account, its actions mean nothing: give another")
    policy.warm_up()
    return policy, profile


def drive(args: argparse.Namespace, policy: Policy, profile: RobotProfile) -> list[DrivenEpisode]:
    """All episodes of all tasks, one after the other.

    Raises:
        ClosedLoopError: the policy's answer cannot be used, or the robot cannot be simulated.
    """
    tasks = list(dict.fromkeys(args.task or TASKS))
    settings = LoopSettings(
        args.rate, args.latency, args.image_scale, commands=CommandSettings(max_joint_speed=args.max_joint_speed)
    )
    episodes: list[DrivenEpisode] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("driving", total=args.episodes * len(tasks))
        for task in tasks:
            loop = ClosedLoop(policy, profile, task, settings)
            try:
                for seed in range(args.seed, args.seed + args.episodes):
                    episodes.append(loop.run(seed))
                    won = sum(e.outcome == "success" for e in episodes)
                    progress.update(bar, advance=1, description=f"{task}, {won} of {len(episodes)} done")
            finally:
                loop.close()
    return episodes


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse(arguments)
    started = time.monotonic()
    try:
        policy, profile = _policy(args)
        episodes = drive(args, policy, profile)
    except (ValueError, ClosedLoopError) as error:  # CheckpointError, ConfigError and their like are ValueErrors
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    by_task = {
        task: summarise([e for e in episodes if e.task == task]) for task in dict.fromkeys(e.task for e in episodes)
    }
    figures = by_task | ({"total": summarise(episodes)} if len(by_task) > 1 else {})
    Console(width=None if sys.stdout.isatty() else 130).print(table(figures))
    inferences, seconds = sum(e.inferences for e in episodes), time.monotonic() - started
    print(f"{len(episodes)} episodes, {inferences} inferences in {seconds:.0f} s; model {policy.model_id}")
    if args.json is not None:
        run = {key: value for key, value in vars(args).items() if key not in ("json", "overwrite")}
        data = {"version": 1, "run": run | {"model_id": policy.model_id, "robot": profile.name}, "figures": figures,
                "episodes": [asdict(e) for e in episodes]}  # fmt: skip
        partial = args.json.with_name(args.json.name + ".partial")
        partial.write_text(json.dumps(data, indent=1) + "\n")
        os.replace(partial, args.json)
        print(f"written: {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
