"""Normalisation statistics of data sets, in openpi's format; no picture is decoded.

    python -m training.compute_norm_stats DATASET
    python -m training.compute_norm_stats DATASET ANOTHER --output norm_stats.json --delta-actions
    python -m training.compute_norm_stats DATASET --horizon 30 --delta-actions --actions-per-row --proprioception

Numbers are what the model sees: arm positions as the state, and action chunks of arm positions and gripper command
numbers, relative to the state with --delta-actions. A chunk that reaches beyond its episode repeats the last action.
Mean, deviation, 1 % and 99 % quantiles, which are exact, are per dimension, over all frames (and all rows of their
chunks). A joint that hardly ever moves gets its range in the place of quantiles, and is named.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from pi05_progress.errors import UserError, run_program
from pi05_progress.files.output_file import check_output
from pi05_progress.files.progress_bar import progress_bar
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import PROPRIOCEPTION, NormStats, save_norm_stats

from .datasets import layout
from .datasets.reader import open_dataset
from .datasets.robot import check_robot
from .loading.norm_stats import compute


@dataclass(frozen=True)
class StatisticsOptions:
    """Command line."""

    datasets: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of data sets; several are taken together."""
    robot: str = "teleavatar"
    """Robot profile: the name of one in config/, or a YAML file."""
    horizon: int = 50
    """Rows of an action chunk."""
    delta_actions: bool = False
    """Arm targets relative to the present state, for models that are trained so."""
    actions_per_row: bool = False
    """Also each row of the chunks by itself (actions_per_row), for models that are trained so."""
    proprioception: bool = False
    """Also positions of joints and grippers (proprioception), for models with a state token."""
    output: Path | None = None
    """File to write; norm_stats.json in the data set if there is one data set."""
    overwrite: bool = False
    """Replace the file if it is there."""


def compute_norm_stats(
    args: StatisticsOptions, notes: list[str] | None = None
) -> tuple[Path, dict[str, NormStats], RobotProfile]:
    """Compute and write; returns the file, the statistics and the profile. ``notes`` gets what is unusual."""
    if not args.datasets:
        raise UserError("give the folder of a data set")
    if args.horizon < 1:
        raise UserError(f"--horizon is {args.horizon}, at least 1 is needed")
    if args.output is None and len(args.datasets) > 1:
        raise UserError(f"{len(args.datasets)} data sets: say with --output where to write their statistics")
    output = args.output or args.datasets[0] / layout.NORM_STATS
    profile = RobotProfile.load(args.robot)
    datasets = [open_dataset(root) for root in args.datasets]
    for dataset in datasets:
        check_robot(dataset, profile)
    check_output(output, overwrite=args.overwrite)
    frames = sum(dataset.frame_count for dataset in datasets)
    told = {"notes": notes, "far": notes}
    with progress_bar("statistics", frames, "frames") as advance:
        kinds = {"relative": args.delta_actions, "per_row": args.actions_per_row, "proprioception": args.proprioception}
        stats = compute(datasets, profile, horizon=args.horizon, progress=advance, **kinds, **told)
    save_norm_stats(output, stats)
    return output, stats, profile


def table(stats: dict[str, NormStats], profile: RobotProfile) -> Table:
    """The statistics by name, for a terminal."""
    rows = Table("", "", "mean", "std", "q01", "q99")
    robot = profile.layout
    names_of = {"state": robot.state_names, "actions": robot.joints, PROPRIOCEPTION: robot.proprioception_names}
    for key, names in names_of.items():
        if (of := stats.get(key)) is None:
            continue
        for name, *values in zip(names, of.mean, of.std, of.q01, of.q99, strict=True):
            rows.add_row(key, name, *(f"{value:.4f}" for value in values))
    return rows


def main() -> int:
    """Parse the command line, compute, report; returns the exit status."""
    args = tyro.cli(StatisticsOptions, description=__doc__)
    kept = "--output writes it elsewhere" if args.output is None else ""
    return run_program(lambda: _compute_and_print(args), kept=kept)


def _compute_and_print(args: StatisticsOptions) -> None:
    notes: list[str] = []
    output, stats, profile = compute_norm_stats(args, notes)
    Console().print(table(stats, profile))
    for note in notes:
        print(f"note: {note}")
    print(f"written: {output}")


if __name__ == "__main__":
    sys.exit(main())
