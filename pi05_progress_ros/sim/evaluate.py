"""How often a policy does a task of the simulated robot, and whether it knows: the policy drives, physics judges.

    python -m pi05_progress_ros.sim.evaluate --checkpoint C --episodes 50 --json driven.json

Simulated time only: nothing depends on how fast this machine is, so a slow one gives the same figures. Seeds are far
from those that data are usually made of; give others if they are not. Finished episodes are kept in FILE.episodes.jsonl
beside --json FILE until that is written: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pi05_progress.checkpoints.checkpoint import code_version
from pi05_progress.shares import wilson

from ..commanding.commands import CommandSettings
from .driving.closed_loop import ClosedLoopError, DrivenEpisode, LoopSettings
from .driving.drivers import Drivers, Driving, drivers
from .driving.episode_log import SUFFIX, EpisodeLog, files_fingerprint
from .physics.cameras import scaled_sizes
from .physics.gl import NoOpenGLError, require_backend
from .physics.tasks import TASKS

FIRST_SEED = 900_000
PREMATURE_S = 1.0  # declared so long before the physics decided is premature


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
    text = "processes that drive, each with a policy of its own; figures are the same (default: %(default)s, this one)"
    parser.add_argument("--workers", type=int, default=1, help=text)
    parser.add_argument("--json", type=Path, help="write figures and every episode to this file")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace that file, and kept episodes of other settings"
    )
    args = parser.parse_args(arguments)
    limits = (("episodes", 1, 10**5), ("seed", 0, 2**31 - 10**5), ("rate", 0.5, 100), ("latency", 0, 5),
              ("num_steps", 1, 100), ("workers", 1, 512), ("max_joint_speed", 0.01, 3))  # fmt: skip
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


def _driving(args: argparse.Namespace) -> Driving:
    settings = LoopSettings(
        args.rate, args.latency, args.image_scale, commands=CommandSettings(max_joint_speed=args.max_joint_speed)
    )
    return Driving(args.policy, args.checkpoint, args.profile, args.tokenizer, args.num_steps, settings)


def _log(args: argparse.Namespace, driving: Driving) -> EpisodeLog | nullcontext[None]:
    """Where episodes are kept; nowhere without --json."""
    if args.json is None:
        return nullcontext()
    settings = {
        **asdict(driving), "checkpoint": str(Path(args.checkpoint).resolve()) if args.checkpoint else "",
        "checkpoint_files": files_fingerprint(Path(args.checkpoint)) if args.checkpoint else "",
        "code_version": code_version(),
    }  # fmt: skip
    return EpisodeLog(args.json.with_name(args.json.name + SUFFIX), settings, overwrite=args.overwrite)


def drive(args: argparse.Namespace, at_the_wheel: Drivers, log: EpisodeLog | None) -> list[DrivenEpisode]:
    """All episodes of all tasks, in order; those that are kept already are not driven again.

    Raises:
        ClosedLoopError: the policy's answer cannot be used, or the robot cannot be simulated.
        OSError: an episode cannot be kept.
    """
    wanted = [(task, args.seed + n) for task in dict.fromkeys(args.task or TASKS) for n in range(args.episodes)]
    found = {(e.task, e.seed): e for e in (log.episodes if log is not None else ())}
    done = {which: found[which] for which in wanted if which in found}
    if done:
        print(f"{len(done)} of {len(wanted)} episodes were driven before and are kept", flush=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("driving", total=len(wanted), completed=len(done))
        for episode in at_the_wheel.run([which for which in wanted if which not in done]):
            if log is not None:
                log.add(episode)
            done[episode.task, episode.seed] = episode
            won = sum(e.outcome == "success" for e in done.values())
            progress.update(bar, advance=1, description=f"{episode.task}, {won} of {len(done)} done")
    return [done[which] for which in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse(arguments)
    driving, log = _driving(args), None
    try:
        with _log(args, driving) as log, drivers(driving, args.workers) as at_the_wheel:
            started = time.monotonic()
            episodes, who = drive(args, at_the_wheel, log), at_the_wheel.who
            figures = _figures(episodes)
            Console(width=None if sys.stdout.isatty() else 130).print(table(figures))
            inferences, seconds = sum(e.inferences for e in episodes), time.monotonic() - started
            print(f"{len(episodes)} episodes, {inferences} inferences in {seconds:.0f} s; model {who.model_id}")
            if log is not None:
                left_out = ("json", "overwrite", "workers")
                run = {key: value for key, value in vars(args).items() if key not in left_out}
                data = {"version": 1, "run": run | asdict(who), "figures": figures,
                        "episodes": [asdict(e) for e in episodes]}  # fmt: skip
                _write(args.json, json.dumps(data, indent=1) + "\n")
                log.remove()
                print(f"written: {args.json}")
    except (ValueError, ClosedLoopError) as error:  # CheckpointError, ConfigError and their like are ValueErrors
        print(f"evaluate: {error}{_kept(log)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"evaluate: {error.filename or args.json}: {error.strerror or error}{_kept(log)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped{_kept(log) or '; nothing was written'}", file=sys.stderr)
        return 130
    return 0


def _figures(episodes: Sequence[DrivenEpisode]) -> dict[str, dict[str, Any]]:
    by_task = {
        task: summarise([e for e in episodes if e.task == task]) for task in dict.fromkeys(e.task for e in episodes)
    }
    return by_task | ({"total": summarise(episodes)} if len(by_task) > 1 else {})


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _kept(log: EpisodeLog | None) -> str:
    if log is None or not log.episodes:
        return ""
    return f"; {len(log.episodes)} finished episodes are in {log.path}, the same command goes on with what is missing"


if __name__ == "__main__":
    sys.exit(main())
