"""Says why a policy does not do the task: what is wrong with its actions, the largest effect first, and the remedy.

    python -m training.explain_actions --checkpoint C --dataset D --html page.html --json figures.json
    python -m training.explain_actions --checkpoint C --dataset D --frames 1000 --episodes 3 7 12

The policy is asked about frames of recorded episodes, as they are and with one input taken away; its answers are held
against the demonstration, against arms that stand still and against the data's mean action. Nothing is driven, and the
data set is only read. Every figure and every rule: docs/acting.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import rich.table
import tyro
from rich.console import Console

from pi05_progress.checkpoints.description import CheckpointInfo, code_version
from pi05_progress.errors import UserError, run_program
from pi05_progress.files.output_file import check_output, write_file
from pi05_progress.files.progress_bar import progress_bar
from pi05_progress.policy import BackendChoice, PolicyOptions
from pi05_progress.robots.profile import DEFAULT, RobotProfile, known_profiles

from .datasets import layout
from .datasets.progress_meta import load_progress_meta
from .datasets.reader import open_dataset
from .datasets.robot import check_robot
from .evaluation.predictions import ready_policy
from .explanation.answers import Asker
from .explanation.demonstrations import demonstrations, sample
from .explanation.figures import Table, figures, questions
from .explanation.findings import Finding, findings, page, verdict

VERSION = 1  # of the JSON


@dataclass(frozen=True)
class ExplainOptions:
    """Command line."""

    dataset: Path
    """Folder of the data set; it is only read."""
    checkpoint: Path | None = None
    """Folder of the checkpoint: of this package, or LeRobot's own."""
    html: Path | None = None
    """Write a page to this file."""
    json: Path | None = None
    """Write findings and all figures to this file."""
    episodes: tuple[int, ...] = ()
    """Look at these episodes only; all if none is given."""
    frames: int = 200
    """Ask about so many frames, half of them around milestones and grippers' closing and opening. The policy is asked
    about fourteen times per frame."""
    robot: str = ""
    """Robot profile: a name, or a YAML file; the data set's if not given."""
    policy: str = "pi05"
    """pi05, or module:function of importable code that takes the profile and returns a policy; then no checkpoint is
    needed."""
    backend: BackendChoice = "auto"
    """jax for this package's checkpoints, torch for LeRobot's, auto for what the folder contains."""
    tokenizer: str = ""
    """Path of PaliGemma's tokenizer, for checkpoints that use it."""
    num_steps: int = 10
    """Denoising steps of the actions."""
    overwrite: bool = False
    """Replace files that are there."""


@dataclass(frozen=True)
class Explanation:
    """What came of it."""

    verdict: str  # how good the actions are
    findings: Sequence[Finding]  # the largest effect first
    tables: Sequence[Table]


def run(args: ExplainOptions) -> Explanation:
    """Explain, and write what was asked for."""
    check_output(args.html, args.json, overwrite=args.overwrite)
    for flag, value, low in (("frames", args.frames, 4), ("num-steps", args.num_steps, 1)):
        if value < low:
            raise UserError(f"--{flag} {value}: expected at least {low}")
    if args.checkpoint is None and args.policy == "pi05":
        raise UserError("--checkpoint is missing: a folder with a trained model")
    dataset, meta = open_dataset(args.dataset), load_progress_meta(args.dataset)
    robot = dataset.info.get("robot_type")
    profile = RobotProfile.load(args.robot or (robot if robot in known_profiles() else DEFAULT))
    cameras = {key: of for key, of in profile.cameras.items() if layout.IMAGES + key in dataset.features}
    check_robot(dataset, profile, cameras=cameras or profile.cameras)
    recorded = profile.model_copy(update={"cameras": cameras})  # the robot with what the data set has of it
    policy = ready_policy(profile, PolicyOptions(
        policy=args.policy, checkpoint=str(args.checkpoint or ""), backend=args.backend, tokenizer=args.tokenizer,
        num_steps=args.num_steps,
    ))  # fmt: skip
    shown = demonstrations(dataset, meta, recorded, dataset.chosen(args.episodes))
    samples = sample(shown, args.frames, dataset.fps)
    if len(samples) < 2:
        raise UserError(f"{args.dataset}: the episodes have {len(samples)} frames to imitate, at least 2 are needed")
    asker = Asker(policy, recorded, samples, dataset.fps)
    with progress_bar("asking", questions(samples, asker), "answers") as advance:
        found = figures(asker, shown, advance)
    info: CheckpointInfo | None = getattr(policy, "info", None)
    result = Explanation(verdict(found), findings(found, info, list(recorded.cameras)), found.tables)
    facts = {
        "checkpoint": str(args.checkpoint or f"policy {args.policy}"), "model": policy.model_id,
        "data set": dataset.root.resolve().name, "robot": profile.name,
        "frames": f"{len(samples)} of {len(shown)} episodes", "code version": code_version(),
    }  # fmt: skip
    if args.json is not None:
        shown_tables = [asdict(of) | {"rows": of.known()} for of in result.tables]
        record = {"version": VERSION, "run": facts, **asdict(result), "tables": shown_tables}
        write_file(args.json, json.dumps(record, indent=1, allow_nan=False) + "\n")
    if args.html is not None:
        write_file(args.html, page(facts, result.verdict, result.findings, found))
    return result


def print_explanation(args: ExplainOptions, result: Explanation, console: Console) -> None:
    """Verdict and findings as text, then the tables, then which files were written."""
    console.print(result.verdict, highlight=False)
    for number, finding in enumerate(result.findings, 1):
        console.print(f"[bold]{number}. {finding.text}[/bold]\n   {finding.remedy}", highlight=False)
    if not result.findings:
        console.print("No rule of docs/acting.md found anything.")
    for table in result.tables:
        shown = rich.table.Table(title=table.title)
        for at, heading in enumerate(table.headings):
            shown.add_column(heading, justify="right" if at else "left")
        for cells in table.shown():
            shown.add_row(*cells)
        console.print(shown)
    for path in filter(None, (args.html, args.json)):
        console.print(f"written: {path}", highlight=False, soft_wrap=True)


def main() -> int:
    """Parse the command line, explain, print; returns the exit status."""
    args = tyro.cli(ExplainOptions, description=__doc__)
    return run_program(lambda: print_explanation(args, run(args), Console(width=None if sys.stdout.isatty() else 130)))


if __name__ == "__main__":
    sys.exit(main())
