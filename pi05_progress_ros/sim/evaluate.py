"""How often a policy does a task of the simulated robot, and whether it knows: the policy drives, physics judges.

    python -m pi05_progress_ros.sim.evaluate --checkpoint C --episodes 50 --json driven.json

Simulated time only: nothing depends on how fast this machine is, so a slow one gives the same figures. Seeds are far
from those that data are usually made of; give others if they are not. Finished episodes are kept in FILE.episodes.jsonl
beside --json FILE until that is written: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from pi05_progress.checkpoints.description import code_version
from pi05_progress.errors import UserError, run_program
from pi05_progress.files.fingerprint import files_in, fingerprint
from pi05_progress.files.output_file import write_file
from pi05_progress.files.progress_bar import progress_bar
from pi05_progress.policy import Noise, PolicyOptions

from ..command_line import check_ranges, read_options
from ..commanding.command_rules import CommandSettings
from ..starting.simulation_choices import SIM_TASKS, LaboratoryName, TaskName
from .driving.closed_loop import DrivenEpisode, LoopSettings
from .driving.drivers import Driving, Run, Which, drivers
from .driving.episode_log import SUFFIX, EpisodeLog
from .physics.cameras import check_rendering
from .physics.laboratory import SHIFT_HELP, Laboratory

PREMATURE_S = 1.0  # declared so long before the physics decided is premature


def summarise(episodes: Sequence[DrivenEpisode]) -> dict[str, Any]:
    """Figures of episodes, at least one. Shares come with count, total and 95 % interval.

    Success is the physics'. Agreement is the share of episodes in which the status was SUCCEEDED at some time if and
    only if the task was done.
    """
    n, done = len(episodes), [e for e in episodes if e.outcome == "success"]
    declared, estimated = ([e for e in episodes if getattr(e, name) is not None] for name in ("declared_s", "progress"))
    known = bool(estimated)  # whether there is a progress head at all
    right = [e for e in done if e.declared_s is not None]
    missed, wrong = len(done) - len(right), len(declared) - len(right)
    return {
        "episodes": n,
        "success": _share(len(done), n),
        "milestones": mean(e.true_progress for e in episodes),
        "seconds_to_success": mean(e.decided_s for e in done) if done else None,
        "progress_at_end": mean(e.progress for e in estimated) if known else None,
        "progress_error_at_end": mean(abs(e.progress - e.true_progress) for e in estimated) if known else None,
        "agreement": _share(n - missed - wrong, n) if known else None,
        "declared_and_done": len(right),
        "done_but_not_declared": missed,
        "declared_but_not_done": wrong,
        "declared_prematurely": sum(e.declared_s < e.decided_s - PREMATURE_S for e in right),
        "stopped": sum(bool(e.stopped) for e in episodes),
    }


def _share(count: int, total: int) -> dict[str, float]:
    interval = binomtest(count, total).proportion_ci(0.95, "wilson")
    low, high = float(interval.low), float(interval.high)
    return {"share": count / total, "count": count, "total": total, "low": low, "high": high}


def table(figures: dict[str, dict[str, Any]], shift: str = "none") -> Table:
    """Figures by task, for people."""
    where = "" if shift == "none" else f", laboratory shifted: {shift}"
    made = Table(title=f"The policy drives the simulated robot{where}; 95 % Wilson intervals")
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
    if isinstance(value, dict):
        return f"{value['count']}/{value['total']}  {value['share']:.2f} \\[{value['low']:.2f}, {value['high']:.2f}]"
    return "unknown" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"


def figures_by_task(episodes: Sequence[DrivenEpisode]) -> dict[str, dict[str, Any]]:
    """Figures of the episodes of every task, and of all where there are several tasks."""
    by_task = {
        task: summarise([e for e in episodes if e.task == task]) for task in dict.fromkeys(e.task for e in episodes)
    }
    return by_task | ({"total": summarise(episodes)} if len(by_task) > 1 else {})


MODULE = "pi05_progress_ros.sim.evaluate"
FIRST_SEED = 900_000
RANGES = {  # of options: least and most
    "episodes": (1, 10**5), "seed": (0, 2**31 - 10**5), "rate": (0.5, 100), "latency": (0, 5), "num_steps": (1, 100),
    "workers": (1, 512), "max_joint_speed": (0.01, 3), "execute_s": (0, 10),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Command line."""

    checkpoint: str = ""
    """Folder of a trained checkpoint."""
    policy: str = "pi05"
    """pi05, planner (the expert, from true positions: a bound for every policy), or module:function of importable code
    that takes the profile and returns a policy."""
    task: tyro.conf.UseAppendAction[tuple[TaskName, ...]] = ()
    """What is done; may be repeated. If not given every task."""
    episodes: int = 50
    """Of each task."""
    seed: int = FIRST_SEED
    """Of the first episode."""
    profile: str = ""
    """Robot profile; if not given the checkpoint's."""
    rate: float = LoopSettings.inference_rate_hz
    """Inferences a second; the default is the node's."""
    latency: float = LoopSettings.latency_s
    """Simulated seconds from a frame to its actions."""
    execute_s: float = CommandSettings.execute_s
    """Seconds for which a chunk is carried out before a newer one takes over; 0: every newer one does."""
    noise: Noise = "fresh"
    """What actions start from: fresh noise in every inference, one noise for the episode, or zeros."""
    max_joint_speed: float = CommandSettings.max_joint_speed
    """Largest speed of a commanded joint, rad/s; the default is the node's."""
    image_scale: float = LoopSettings.image_scale
    """Image size as a share of the real cameras'; the default is that of generated data."""
    laboratory: LaboratoryName = "plain"
    """Where the robot stands: always the same, or in a laboratory drawn at random from every seed."""
    shift: Annotated[tuple[str, ...], tyro.conf.arg(help=f"{SHIFT_HELP} Several are tried one after the other.")] = (
        "none",
    )
    num_steps: int = 10
    """Denoising steps."""
    tokenizer: str = ""
    """Path of PaliGemma's tokenizer, for checkpoints that use it."""
    workers: Annotated[int, tyro.conf.arg(aliases=["--jobs"])] = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that drive, each with a policy of its own; figures are the same. 1 is this process."""
    json: Path | None = None
    """Write figures and every episode to this file."""
    overwrite: bool = False
    """Replace that file, and kept episodes of other settings."""

    def check(self) -> None:
        """Raise a ``UserError`` if one of the options cannot be used."""
        check_ranges(self, RANGES)
        if self.policy == "pi05" and not self.checkpoint:
            raise UserError("--checkpoint is missing: a folder with a trained model")
        if self.json is not None and self.json.exists() and not self.overwrite:
            raise UserError(f"--json {self.json} is already there; choose another name, or --overwrite it")
        if self.json is not None and not (folder := self.json.absolute().parent).is_dir():
            raise UserError(f"--json {self.json}: there is no folder {folder}; make it first")
        check_rendering(self.image_scale)
        for shift in self.shift:
            Laboratory(self.laboratory, shift)

    def wanted(self) -> list[Which]:
        """The episodes to drive, in order."""
        tasks = dict.fromkeys(self.task or SIM_TASKS)
        seeds, shifts = range(self.seed, self.seed + self.episodes), dict.fromkeys(self.shift)
        return [(task, seed, shift) for shift in shifts for task in tasks for seed in seeds]

    def told(self) -> dict[str, Any]:
        """What decides about figures, for the file."""
        values = {k: v for k, v in asdict(self).items() if k not in ("json", "overwrite", "workers")}
        return values | {"task": list(self.task) or None}


def _driving(options: Options) -> Driving:
    settings = LoopSettings(
        options.rate,
        options.latency,
        options.image_scale,
        commands=CommandSettings(max_joint_speed=options.max_joint_speed, execute_s=options.execute_s),
        laboratory=Laboratory(options.laboratory),
    )
    policy = PolicyOptions(
        policy=options.policy, checkpoint=options.checkpoint, tokenizer=options.tokenizer,
        num_steps=options.num_steps, noise=options.noise,
    )  # fmt: skip
    return Driving(policy, options.profile, settings)


def _log(options: Options, driving: Driving) -> EpisodeLog | nullcontext[None]:
    """Where episodes are kept; nowhere without --json."""
    if options.json is None:
        return nullcontext()
    policy = driving.policy
    settings = {
        "policy": policy.policy, "profile": driving.profile, "tokenizer": policy.tokenizer,
        "num_steps": policy.num_steps, "noise": policy.noise, "loop": asdict(driving.loop),
        "checkpoint": str(Path(options.checkpoint).resolve()) if options.checkpoint else "",
        "checkpoint_files": fingerprint(files_in(Path(options.checkpoint))) if options.checkpoint else "",
        "code_version": code_version(),
    }  # fmt: skip
    return EpisodeLog(options.json.with_name(options.json.name + SUFFIX), settings, overwrite=options.overwrite)


def drive(options: Options, run: Run, log: EpisodeLog | None) -> list[DrivenEpisode]:
    """All episodes, in order, those that are kept already not driven again; raises as ``Driver`` and ``EpisodeLog``."""
    wanted = options.wanted()
    found = {(e.task, e.seed, e.shift): e for e in (log.episodes if log is not None else ())}
    done = {which: found[which] for which in wanted if which in found}
    if done:
        print(f"{len(done)} of {len(wanted)} episodes were driven before and are kept", flush=True)
    with progress_bar("driving", len(wanted), "episodes", done=len(done)) as advance:
        for episode in run([which for which in wanted if which not in done]):
            if log is not None:
                log.add(episode)
            done[episode.task, episode.seed, episode.shift] = episode
            won = sum(e.outcome == "success" for e in done.values())
            advance(1, f"{episode.task}, {won} of {len(done)} done")
    return [done[which] for which in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = read_options(Options, MODULE, __doc__, arguments, Options.check)
    return run_program(lambda: _run(options), name="evaluate")


def _run(options: Options) -> None:
    driving, log = _driving(options), None
    try:
        with _log(options, driving) as log, drivers(driving, min(options.workers, len(options.wanted()))) as (who, run):
            started = time.monotonic()
            episodes = drive(options, run, log)
            by_shift = {s: figures_by_task([e for e in episodes if e.shift == s]) for s in dict.fromkeys(options.shift)}
            for shift, figures in by_shift.items():
                Console(width=None if sys.stdout.isatty() else 130).print(table(figures, shift))
            inferences, seconds = sum(e.inferences for e in episodes), time.monotonic() - started
            print(f"{len(episodes)} episodes, {inferences} inferences in {seconds:.0f} s; model {who.model_id}")
            if log is not None:
                data = {"version": 1, "run": options.told() | asdict(who), "figures": by_shift[options.shift[0]],
                        "figures_by_shift": by_shift, "episodes": [asdict(e) for e in episodes]}  # fmt: skip
                write_file(options.json, json.dumps(data, indent=1) + "\n")
                log.remove()
                print(f"written: {options.json}")
    except BaseException as error:
        if log is None or not log.episodes:
            raise
        kept = f"{len(log.episodes)} finished episodes are in {log.path}, the same command goes on with what is missing"
        if isinstance(error, UserError | OSError):
            raise UserError(f"{error}; {kept}") from error
        print(kept, file=sys.stderr)
        raise


if __name__ == "__main__":
    sys.exit(main())
