"""Adds to a checkpoint how the episodes began that it was trained on, which `preflight` and `~/go_to_start` need.

    python -m training.add_starts CHECKPOINT DATASET ANOTHER

Training does so by itself; this is for older checkpoints. It writes starts/starts.npz, some kB, or replaces it; the
parameters stay as they are.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from pi05_progress.checkpoints.description import read_info
from pi05_progress.checkpoints.starts import add_starts
from pi05_progress.errors import UserError, run_program
from pi05_progress.robots.profile import RobotProfile

from .datasets.reader import open_dataset
from .datasets.robot import check_robot
from .loading.starts import gather_starts


@dataclass(frozen=True)
class StartsOptions:
    """Command line."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a checkpoint."""
    datasets: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the data sets that it was trained on."""
    robot: str | None = None
    """Robot profile: a name, or a YAML file; if not given that of the checkpoint."""


def add(args: StartsOptions) -> None:
    """Read first frames and write them down."""
    if not args.datasets:
        raise UserError("give the folders of the data sets that the checkpoint was trained on")
    profile = RobotProfile.load(args.robot or read_info(args.checkpoint).robot)
    datasets = [open_dataset(root) for root in args.datasets]
    for dataset in datasets:
        check_robot(dataset, profile)
    starts = gather_starts(datasets, profile)
    add_starts(args.checkpoint, starts)
    print(f"{args.checkpoint}: {len(starts.arms)} starts, cameras {', '.join(starts.cameras) or 'none'}")


def main() -> int:
    """Parse the command line and add; returns the exit status."""
    args = tyro.cli(StartsOptions, description=__doc__)
    return run_program(lambda: add(args), name="add_starts")


if __name__ == "__main__":
    sys.exit(main())
