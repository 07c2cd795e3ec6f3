"""Turns ROS 2 bags into a LeRobot v3.0 data set, with a report of what was kept, what was dropped and why.

    python -m training.convert_rosbags --input bags --output datasets/stack --fps 30 --robot teleavatar

At the size the model is trained at; only look at what would be kept:

    python -m training.convert_rosbags --input bags --output datasets/stack --fps 30 --image-size 224x224 --dry-run

A policy's rollouts, episodes cut where an input falls silent:

    python -m training.convert_rosbags --input rollouts --output rollouts_set --fps 30 --actions policy --on-gap split

Bags are only read, in bounded memory. The data set appears complete or not at all; what a killed conversion finished is
kept: the same command with --resume goes on. docs/convert.md explains episodes, time and gaps.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tyro

from pi05_progress.errors import UsageError, run_program
from pi05_progress.files.file_limit import raise_file_limit
from pi05_progress.files.output_folder import refuse_overlap
from pi05_progress.robots.yaml_lines import ConfigError

from .bags.conversion import convert, dry_run
from .bags.faults import BagError
from .bags.finding import find_bags
from .bags.options import Options
from .bags.pool import KEPT, Pool
from .bags.work_folder import Workplace, finish_workplace, workplace


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The command line; ends the program if that is wrong (status 2), or help was asked for (0)."""
    args = tyro.cli(
        Options,
        prog="python -m training.convert_rosbags",
        description=__doc__,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if problem := args.problem():
        print(f"convert_rosbags: {problem}", file=sys.stderr)
        sys.exit(2)
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 1 if there is no data set, 2 for a wrong command line."""
    args = parse(arguments)
    raise_file_limit()  # each file of a recording stays open
    again = "convert_rosbags: stopped; the same command with --resume goes on"
    return run_program(lambda: _run(args), name="convert_rosbags", kept=KEPT, stopped=again)


def _run(args: Options) -> int:
    try:
        _, bags = args.profile, find_bags(args.input)  # what is wrong with either is wrong usage
    except (ConfigError, BagError) as error:
        raise UsageError(str(error)) from error
    refuse_overlap(args.output, [*args.input, *bags])
    if args.dry_run:
        folder = tempfile.TemporaryDirectory(prefix="convert_rosbags_")
        with folder as path, Pool(Workplace(Path(path)), args) as pool:
            return 0 if dry_run(bags, pool) else 1
    settings = args.settings(bags)
    with workplace(args.output, settings, resume=args.resume, overwrite=args.overwrite) as place:
        if place.assembled:
            finish_workplace(place)
            print(f"the data set was complete; it is in {args.output} now")
            return 0
        with Pool(place, args) as pool:
            made = convert(bags, args.output, place, settings, pool)
        if not made:
            place.pending.abandon()
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main())
