"""A page about a data set: what is worth a look, labels, ranges, and every episode's pictures under its progress.

    python -m training.inspect_dataset DATASET
    python -m training.inspect_dataset DATASET --output page.html --rerun recording.rrd

The page is one HTML file. Suspicious episodes (standstill, jumps, clipping, odd lengths or labels, dark or frozen
cameras) come first. The data set is only read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from pi05_progress.errors import UserError, run_program
from pi05_progress.files.output_file import check_output, write_file
from pi05_progress.files.progress_bar import progress_bar
from pi05_progress.robots.layout import EFFORT, Layout
from pi05_progress.robots.profile import RobotProfile

from .datasets import layout
from .datasets.frames import PictureError, Thumbnail, thumbnails
from .datasets.progress_meta import ProgressMeta, load_progress_meta
from .datasets.reader import Dataset, open_dataset
from .datasets.robot import position_columns, vectors_problem
from .report import rerun_file
from .report.charts import Range
from .report.page import PageEpisode, page
from .report.summary import (
    EpisodeSummary,
    Finding,
    duration_findings,
    picture_findings,
    summarise,
    with_usual_ones_marked,
)

MOST_NUMBERS = 16  # that are charted of a robot whose layout is not known
PICTURE_HEIGHT = 130


@dataclass(frozen=True)
class InspectOptions:
    """Command line."""

    dataset: tyro.conf.Positional[Path]
    """Folder of the data set; it is only read."""
    output: Path | None = None
    """HTML file to write; inspect_<data set>.html in the working directory if not given."""
    robot: str = "teleavatar"
    """Robot profile, whose joint limits are shown: the name of one in config/, or a YAML file."""
    episodes: tuple[int, ...] = ()
    """Look at these episodes only."""
    pictures: int = 6
    """Pictures per camera and episode."""
    max_episodes: int = 100
    """So many episodes get pictures, the most conspicuous ones; all are counted and looked at."""
    rerun: Path | None = None
    """Also write a recording for the Rerun viewer to this file (.rrd); needs the package rerun-sdk."""
    overwrite: bool = False
    """Replace files that are there."""


def known_layout(dataset: Dataset, profile: RobotProfile) -> Layout | None:
    """The robot's layout, if the data set has it."""
    known = [name for name in (layout.STATE, layout.ACTION) if name in dataset.features]
    return profile.layout if known and not vectors_problem(dataset, profile, known) else None


def look(
    dataset: Dataset, meta: ProgressMeta, robot: Layout, known: Layout | None, wanted: set[int] | None
) -> tuple[list[EpisodeSummary], dict[str, np.ndarray]]:
    """Read the tables: a summary of every episode, and states and actions of those in which all numbers are finite."""
    names = _columns(dataset, meta)
    found, finite = [], {}
    positions = {s: position_columns(dataset, names[s], robot) for s in ("state", "action") if s in names}
    with progress_bar("reading", dataset.frame_count, "frames") as advance:
        for episode, columns in dataset.frames(list(names.values()), wanted):
            named = {short: columns[name] for short, name in names.items()}
            vectors = {short: np.atleast_2d(named[short].T).T for short in positions}
            named |= {short: vector[:, positions[short]] for short, vector in vectors.items()}
            found.append(summarise(episode, meta.episode(episode.index), named, dataset.fps, known))
            for short, vector in vectors.items():
                if np.isfinite(vector).all():
                    finite.setdefault(short, []).append(vector)
            advance(episode.length)
    more = duration_findings(found)
    told = [s.with_findings(more.get(s.episode.index, ())) for s in found]
    return with_usual_ones_marked(told), {short: np.concatenate(parts) for short, parts in finite.items()}


def _columns(dataset: Dataset, meta: ProgressMeta) -> dict[str, str]:
    """Columns to read, by what they are called here."""
    wanted = {
        "state": layout.STATE,
        "action": layout.ACTION,
        "timestamp": "timestamp",
        "progress": next(iter(meta.progress_columns(dataset.features)), ""),
        "valid": layout.VALID_COLUMN,
    }
    return {short: name for short, name in wanted.items() if name in dataset.features}


def ranges(
    dataset: Dataset, vectors: Mapping[str, np.ndarray], robot: Layout | None
) -> tuple[list[Range], list[Range]]:
    """Rows for the charts of joint positions and of gripper efforts, from all frames' states and actions."""

    def row(name: str, column: int, allowed: tuple[float, float] | None = None) -> Range:
        of = {short: values[:, column] for short, values in vectors.items() if column < values.shape[1]}
        shares = (0, 0.01, 0.99, 1)
        rows = [(short, *np.quantile(values, shares, method="inverted_cdf")) for short, values in of.items()]
        return Range(name, allowed, rows)

    if robot is not None:
        arms = [row(robot.joints[arm], arm, tuple(robot.limits[arm].tolist())) for arm in robot.arm_columns]
        efforts = {gripper: robot.column(joint, EFFORT) for gripper, joint in robot.grippers.items()}
        return arms, [row(f"{gripper} gripper", column) for gripper, column in efforts.items()]
    size = max((values.shape[1] for values in vectors.values()), default=0)
    described = dataset.features.get(layout.STATE, {}).get("names")
    known = (
        described if isinstance(described, list) and len(described) >= size else [f"number {i}" for i in range(size)]
    )
    return [row(str(known[i]), i) for i in range(min(size, MOST_NUMBERS))], []


def _with_pictures(dataset: Dataset, summary: EpisodeSummary, count: int) -> PageEpisode:
    pictures: dict[str, list[Thumbnail]] = {}
    problems: list[Finding] = []
    for camera in sorted(dataset.cameras, key=lambda name: "head" not in name):  # the head's sees most of the task
        short = camera.removeprefix(layout.IMAGES)
        try:
            pictures[short] = thumbnails(summary.episode.videos[camera], dataset.fps, count, PICTURE_HEIGHT)
        except PictureError as error:
            problems.append(Finding("picture", f"{short}: {error}", 10))
    moves = not any(f.kind == "standstill" and f.severity > 2 for f in summary.findings)
    problems += picture_findings({key: [p.image for p in of] for key, of in pictures.items()}, moves)
    return summary.with_findings(problems), pictures


def add_pictures(dataset: Dataset, summaries: Sequence[EpisodeSummary], count: int) -> list[PageEpisode]:
    """Decode a few pictures of each episode, on all cores: decoding leaves the interpreter free."""
    entries = []
    with (
        progress_bar("pictures", len(summaries), "episodes") as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for entry in pool.map(lambda summary: _with_pictures(dataset, summary, count), summaries):
            entries.append(entry)
            advance(1)
    return entries


def inspect_dataset(args: InspectOptions) -> tuple[Path, list[EpisodeSummary]]:
    """Write the page; returns its path and what was found, the most conspicuous episode first."""
    output = args.output or Path(f"inspect_{args.dataset.resolve().name}.html")
    check_output(output, args.rerun, overwrite=args.overwrite)
    if args.rerun is not None:
        rerun_file.require()
    if args.pictures < 1 or args.max_episodes < 0:
        raise UserError("--pictures needs at least 1, --max-episodes at least 0")
    dataset, profile = open_dataset(args.dataset), RobotProfile.load(args.robot)
    wanted = set(dataset.chosen(args.episodes)) if args.episodes else None
    meta, known = load_progress_meta(dataset.root), known_layout(dataset, profile)
    found, vectors = look(dataset, meta, profile.layout, known, wanted)
    arms, grippers = ranges(dataset, vectors, known) if vectors else ([], [])
    ordered = sorted(found, key=lambda s: (-s.severity, s.episode.index))
    shown = add_pictures(dataset, ordered[: args.max_episodes], args.pictures)
    shown.sort(key=lambda e: (-e[0].severity, e[0].episode.index))  # pictures may have told more
    summaries = [summary for summary, _ in shown] + ordered[args.max_episodes :]
    in_order = sorted(summaries, key=lambda s: s.episode.index)
    write_file(output, page(dataset, meta.labels, in_order, shown, arms, grippers))
    if args.rerun is not None:
        rerun_file.write(args.rerun, dataset, _columns(dataset, meta), meta, wanted)
    return output, summaries


def main() -> int:
    """Parse the command line, look, write; returns the exit status."""
    args = tyro.cli(InspectOptions, description=__doc__)
    return run_program(lambda: _inspect_and_print(args))


def _inspect_and_print(args: InspectOptions) -> None:
    output, summaries = inspect_dataset(args)
    flagged = [s for s in summaries if s.suspicious]
    print(f"{len(flagged)} of {len(summaries)} episodes are worth a look")
    for summary in flagged[:10]:
        print(f"  episode {summary.episode.index}: {'; '.join(f.text for f in summary.findings if not f.usual)}")
    print(f"written: {output}" + (f", {args.rerun}" if args.rerun else ""))


if __name__ == "__main__":
    sys.exit(main())
