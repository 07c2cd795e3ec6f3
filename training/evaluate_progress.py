"""Judges a checkpoint's progress on recorded episodes: order, error, outcomes, perturbations, intervals, latency.

    python -m training.evaluate_progress --checkpoint C --dataset D --html page.html --json figures.json
    python -m training.evaluate_progress --checkpoint C --dataset D --held_out RUN/held_out.json
    python -m training.evaluate_progress --checkpoint C --dataset D --train_dataset T --episodes 3 7 12

Every episode goes through the policy frame by frame, as on the robot: only past frames are used. What raw and filtered
progress are, and how every figure is defined: docs/evaluation.md. The data set is only read. A run that was stopped
goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from pi05_progress.checkpoints.description import CheckpointInfo, code_version, read_info
from pi05_progress.errors import UserError, run_program
from pi05_progress.files.output_file import check_output, write_file
from pi05_progress.files.progress_bar import progress_bar
from pi05_progress.observation import UNTRAINED
from pi05_progress.policy import Noise, Policy, PolicyOptions
from pi05_progress.robots.laboratory_shifts import SHIFTS, recorded_shift
from pi05_progress.robots.profile import RobotProfile

from .datasets import layout
from .datasets.frames import Thumbnail, thumbnails
from .datasets.progress_meta import load_progress_meta
from .datasets.reader import Dataset, open_dataset
from .evaluation.cache import FOLDER, AnswerCache, code_digest, fingerprint_of_answers
from .evaluation.evaluation import Evaluation, Settings, evaluate, head_camera
from .evaluation.page import HEADINGS, measured, number, page, record
from .evaluation.playbacks import HELD_S, PERTURBATIONS, PICTURE_NOISE, STATE_NOISE
from .evaluation.predictions import ready_policy
from .evaluation.summary import SOURCES
from .evaluation.truth import training_of
from .loading.split import CONTENTS, episode_name, read_splits, seen_before, splits_of

PICTURE_HEIGHT = 90
SHIFT_HELP = "A named change of the laboratory that all pictures are shown with: " + ", ".join(
    name for name, shift in SHIFTS.items() if shift.in_pictures
)


@dataclass(frozen=True)
class EvaluateOptions:
    """Command line."""

    dataset: Path
    """Folder of the data set; it is only read."""
    checkpoint: Path | None = None
    """Folder of the checkpoint."""
    train_dataset: tuple[Path, ...] = ()
    """Data sets the checkpoint was trained on, for the clock's median durations and for stages; not needed where the
    checkpoint says them. Of a data set that is evaluated, too, the evaluated episodes do not count."""
    html: Path | None = None
    """Write a page to this file."""
    json: Path | None = None
    """Write all figures to this file."""
    episodes: tuple[int, ...] = ()
    """Evaluate these episodes only; all if none is given."""
    held_out: Path | None = None
    """Evaluate the episodes of this data set that training held out, wherever it lies now: held_out.json of the run."""
    limit: int | None = None
    """At most so many episodes, the first ones."""
    rate: float = 5.0
    """Inferences per second of an episode; a whole number of frames lies between two. The node makes 10 at most."""
    perturbations: tuple[Literal["pause", "reversed", "half_speed", "double_speed", "wrong", "black"], ...] = (
        PERTURBATIONS  # type: ignore[assignment]
    )
    """Which perturbations of successful episodes are made; give none to leave all out."""
    black: str = ""
    """Camera that is covered in one of them; the head's if not given."""
    shift: Annotated[str, tyro.conf.arg(help=SHIFT_HELP)] = "none"
    wrong: str = ""
    """The wrong instruction in one of them; if not given another task's that the checkpoint was trained on or the data
    set has, of other words, else "water the plants"."""
    instructions: Path | None = None
    """Other wordings of the data's instructions, and such as are to be refused, as config/instructions.yaml has them;
    successful episodes are shown with one of each, too."""
    robot: str = ""
    """Robot profile: a name, or a YAML file; the checkpoint's if not given."""
    policy: str = "pi05"
    """pi05, or module:function of importable code that takes the profile and returns a policy; then no checkpoint is
    needed."""
    tokenizer: str = ""
    """Path of PaliGemma's tokenizer, for checkpoints that use it."""
    num_steps: int = 10
    """Denoising steps of the actions. They change latency, and nothing about progress."""
    noise: Noise = "fresh"
    """That the actions start from; only a temporal head looks at them."""
    resamples: int = 2000
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap."""
    cache: Path = FOLDER
    """Folder where answers are kept, so that a run that was stopped goes on, and figures can be made anew."""
    cached: bool = True
    """Whether answers are kept, and those that are there are used."""
    pictures: int = 8
    """Pictures of the head's camera per episode on the page."""
    shown: int = 200
    """So many episodes are drawn on the page with pictures, the best and worst ones in any case."""
    overwrite: bool = False
    """Replace files that are there."""


def run(args: EvaluateOptions) -> Evaluation:
    """Evaluate, and write what was asked for."""
    _check(args)
    info = _info(args)
    dataset, meta = open_dataset(args.dataset), load_progress_meta(args.dataset)
    wanted = _wanted(args, dataset)
    profile = RobotProfile.load(args.robot or (info.robot if info else "teleavatar"))
    if args.black and args.black not in profile.cameras:
        raise UserError(f"--black {args.black}: robot {profile.name} has {', '.join(profile.cameras)}")
    recorded_shift(args.shift)
    name = str(args.checkpoint or f"policy {args.policy}")
    training = training_of(args.train_dataset, info.labels if info else {}, name, args.dataset, wanted)
    settings = Settings(
        args.rate,
        tuple(args.perturbations),
        args.black,
        args.wrong,
        args.resamples,
        args.seed,
        args.shift,
        str(args.instructions or ""),
    )
    policy = _policy(args, profile)
    cache = AnswerCache(_cache_folder(args, profile))
    with progress_bar("evaluating", len(wanted), "episodes") as advance:
        evaluation = evaluate(
            policy, profile, dataset, meta, training, wanted, settings, cache=cache, advance=advance
        )  # fmt: skip
    evaluation = replace(evaluation, notes=[*trained_on(args, dataset, wanted), *evaluation.notes])
    facts = {
        "checkpoint": name, "model": policy.model_id, "data set": args.dataset.resolve().name, "robot": profile.name,
        "training durations and stages": training.source, "inferences per second": f"{args.rate:g}",
        "laboratory shifted": args.shift,
    }  # fmt: skip
    if args.json is not None:
        more = {"median_durations_s": dict(training.durations_s), "code_version": code_version(),
                "episodes": sorted(wanted), "settings": asdict(settings), "num_steps": args.num_steps}  # fmt: skip
        write_file(args.json, json.dumps(record(evaluation, facts | more), indent=1, allow_nan=False) + "\n")
    if args.html is not None:
        pictures = _pictures(dataset, evaluation, head_camera(profile), args)
        write_file(args.html, page(evaluation, facts, pictures, dataset.fps))
    return evaluation


def _check(args: EvaluateOptions) -> None:
    check_output(args.html, args.json, overwrite=args.overwrite)
    for flag, value, low in (("rate", args.rate, 0.5), ("limit", args.limit, 1), ("resamples", args.resamples, 100),
                             ("pictures", args.pictures, 1), ("num-steps", args.num_steps, 1)):  # fmt: skip
        if value is not None and value < low:
            raise UserError(f"--{flag} {value}: expected at least {low}")


def _info(args: EvaluateOptions) -> CheckpointInfo | None:
    """What the checkpoint says of itself, if it can be evaluated at all."""
    if args.checkpoint is None:
        if args.policy == "pi05":
            raise UserError("--checkpoint is missing: a folder with a trained model")
        return None
    info = read_info(args.checkpoint)
    if info.model.progress.kind == "none":
        raise UserError(
            f"{args.checkpoint}: its model has no progress head (progress kind none), there is nothing to evaluate"
        )
    if info.model_id == UNTRAINED:
        raise UserError(f"{args.checkpoint}: is untrained by its own account, its progress means nothing")
    return info


def _wanted(args: EvaluateOptions, dataset: Dataset) -> list[int]:
    if args.episodes and args.held_out:
        raise UserError("--episodes and --held_out both say which episodes are evaluated; give one of them")
    chosen = _held_out(args.held_out, dataset) if args.held_out else args.episodes
    return dataset.chosen(chosen)[: args.limit]


def _held_out(path: Path, dataset: Dataset) -> set[int]:
    """Episodes of a data set that a run held out, and that no run before it was trained on."""
    splits = read_splits(path)
    episodes, trained = seen_before(splits, dataset.root, _names(dataset))
    if not episodes:
        known = ", ".join({split.folder: None for split in splits}) or "nothing"
        told = f"no episode of {dataset.root.resolve()} was held out, {len(trained)} were trained on"
        raise UserError(f"--held_out {path}: {told}; it is about {known}; give one of those, or choose by --episodes")
    return episodes


def _names(dataset: Dataset) -> list[str]:
    """What each episode is called by its contents, in the order of their index."""
    names = {episode.index: episode_name(columns) for episode, columns in dataset.frames(CONTENTS)}
    return [names[index] for index in sorted(names)]


def trained_on(args: EvaluateOptions, dataset: Dataset, wanted: Sequence[int]) -> list[str]:
    """A note on episodes that the checkpoint was trained on, if its run says so."""
    if args.checkpoint is None or not (splits := splits_of(args.checkpoint)):
        return []
    if not (trained := sorted(seen_before(splits, dataset.root, _names(dataset))[1] & set(wanted))):
        return []
    shown = f"{', '.join(map(str, trained[:10]))}{' ...' * (len(trained) > 10)}"
    return [
        f"{len(trained)} of {len(wanted)} episodes ({shown}) were trained on: their figures say little about new ones. "
        "Those that the run held out are evaluated by --held_out RUN/held_out.json"
    ]


def _policy(args: EvaluateOptions, profile: RobotProfile) -> Policy:
    checkpoint = str(args.checkpoint or "")
    options = PolicyOptions(
        policy=args.policy, checkpoint=checkpoint, tokenizer=args.tokenizer, num_steps=args.num_steps,
        noise=args.noise,
    )  # fmt: skip
    policy = ready_policy(profile, options)
    if policy.model_id == UNTRAINED:
        raise UserError(f"policy {args.policy}: is untrained by its own account, its progress means nothing")
    return policy


def _cache_folder(args: EvaluateOptions, profile: RobotProfile) -> Path | None:
    """Answers of a policy of other code are not kept: it cannot be told whether that has changed."""
    if not args.cached or args.policy != "pi05" or args.checkpoint is None:
        return None
    settings = {
        "num_steps": args.num_steps, "tokenizer": args.tokenizer, "code": code_digest(), "held_s": HELD_S,
        "robot": profile.model_dump(mode="json"), "noise": [PICTURE_NOISE, STATE_NOISE],
        "shift": args.shift, "start": args.noise,
    }  # fmt: skip
    return args.cache.expanduser() / fingerprint_of_answers([args.checkpoint, args.dataset], settings)


def _pictures(
    dataset: Dataset, evaluation: Evaluation, camera: str, args: EvaluateOptions
) -> Mapping[int, Sequence[Thumbnail]]:
    """Pictures of the episodes that are drawn with some: of the best and of the worst ones, if not of all."""
    ordered = sorted(evaluation.episodes, key=lambda r: r.error)
    ends = [r for pair in zip(ordered, reversed(ordered), strict=True) for r in pair]  # best, worst, second best ...
    chosen = list({r.episode.index: r.episode for r in ends}.values())[: args.shown]
    with progress_bar("pictures", len(chosen), "episodes") as advance, ThreadPoolExecutor(os.cpu_count()) as pool:

        def make(index: int) -> tuple[int, list[Thumbnail]]:
            span = dataset.episodes[index].videos[layout.IMAGES + camera]
            made = thumbnails(span, dataset.fps, args.pictures, PICTURE_HEIGHT)
            advance(1)
            return index, made

        return dict(pool.map(make, [episode.index for episode in chosen]))


def print_table(evaluation: Evaluation, console: Console) -> None:
    """The figures of all tasks together."""
    table = Table(title=f"{len(evaluation.episodes)} episodes, 95 % bootstrap intervals over episodes")
    table.add_column("")
    for source in SOURCES:
        table.add_column(HEADINGS[source], justify="right")
    table.add_column("episodes", justify="right")
    for section, measure, found, count in measured(evaluation.total):
        if section:
            table.add_section()
            table.add_row(f"[bold]{section}")
        shown = [("", "") if figure is None else number(figure, measure.unit) for figure in found.values()]
        cells = [f"{value} \\{interval}" if interval else value for value, interval in shown]
        table.add_row(measure.title, *cells, count)
    console.print(table)
    for note in evaluation.notes:
        console.print(f"note: {note}", highlight=False)


def main() -> int:
    """Parse the command line, evaluate, print; returns the exit status."""
    args = tyro.cli(EvaluateOptions, description=__doc__)
    return run_program(lambda: _run_and_print(args), stopped="stopped; the same command goes on where it was")


def _run_and_print(args: EvaluateOptions) -> None:
    evaluation = run(args)
    print_table(evaluation, Console(width=None if sys.stdout.isatty() else 130))
    if written := [str(path) for path in (args.html, args.json) if path]:
        print(f"written: {', '.join(written)}")


if __name__ == "__main__":
    sys.exit(main())
