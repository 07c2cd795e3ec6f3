"""A whole conversion: both passes over all recordings, the data set and its report; or only what it would make."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import RobotProfile

from ..datasets.progress_meta import EpisodeMeta, Milestone, Outcome
from ..datasets.video import VideoOptions
from ..datasets.writer import EpisodeFiles, write_dataset
from .console import print_dropped, print_remarks, print_unused, progress
from .convert import Converted, ConvertOptions, Part
from .episodes import Candidate
from .jobs import Pool, Workplace, finish_workplace, load_result
from .planning import Plans, ReportEntry, Wanted, episode_title, plan
from .report import HTML_NAME, make_report, remove_report, report_without_data_set, write_report
from .scan import ScanOptions
from .segments import plan_segments


@dataclass(frozen=True)
class Recordings:
    """What is converted, and what the first pass needs to know to read it.

    Attributes:
        bags: files or folders.
        scan: how they are read, with the robot's profile.
        workers: processes that read them.
    """

    bags: Sequence[Path]
    scan: ScanOptions
    workers: int

    @property
    def profile(self) -> RobotProfile:
        """The robot that made them."""
        return self.scan.profile

    def pool(self, place: Workplace) -> Pool:
        """The processes; use it as a context."""
        return Pool(place, self.scan, self.workers)

    def planned(self, wanted: Wanted, pool: Pool, bar: Progress) -> Plans:
        """The first pass over all of them, and what follows from it."""
        task = bar.add_task("looking through bags", total=len(self.bags))
        results = pool.scan(self.bags, lambda: bar.update(task, advance=1))
        return plan(self.bags, results, self.profile, wanted)


def dry_run(recordings: Recordings, wanted: Wanted, place: Workplace, console: Console) -> int:
    """Say of every episode what would become of it; returns the number of those that would be kept."""
    with recordings.pool(place) as pool, progress(console) as bar:
        plans = recordings.planned(wanted, pool, bar)
    total = 0
    planned = {index: plan_segments(job.candidate, job.scan, wanted.times) for job, index in plans.jobs}
    for index, entry in enumerate(plans.entries):
        segments = planned.get(index)
        entry.notes += segments.notes if segments else ()
        reasons = entry.reasons or list(segments.reasons)
        counts = [] if segments is None else [segment.grid.count for segment in segments.segments]
        total += len(counts)
        entry.reasons = [] if counts else reasons
        what = f"{' + '.join(map(str, counts))} frames" if counts else "dropped"
        said = [*reasons, *entry.notes]
        print(f"{entry.title}: {what}" + (f": {'; '.join(said)}" if said else ""))
    print_unused(plans)
    print_remarks(plans, {plans.entries[index].bag for index, of in planned.items() if of.segments})
    print(f"{total} episodes of {plans.frames} frames would be kept; nothing was written")
    return total


def convert(
    recordings: Recordings,
    wanted: Wanted,
    video: VideoOptions,
    output: Path,
    place: Workplace,
    settings: Mapping[str, Any],
    console: Console,
) -> int:
    """Make the data set and its report; what ``place`` has of it already is not made again.

    Args:
        recordings: what is converted.
        wanted: which episodes.
        video: how pictures are encoded.
        output: folder of the data set.
        place: where it is made.
        settings: of the conversion, for the report.
        console: for people.

    Returns:
        The number of episodes; without any there is a report, and no data set.

    Raises:
        UserError: it cannot go on; the message says what to do.
    """
    with progress(console) as bar, recordings.pool(place) as pool:
        plans = recordings.planned(wanted, pool, bar)
        _check_even(plans.sizes)
        options = ConvertOptions(recordings.profile, wanted.times, plans.sizes, bool(wanted.image_size), video)
        _note(plans, _made(plans, options, place, pool, bar))
    episodes = _episodes(plans, place)
    print_unused(plans)
    print_dropped(plans)
    print_remarks(plans, {entry.bag for entry in plans.entries if entry.parts})
    fps = wanted.times.fps
    report = make_report(settings, plans.scans, plans.found, plans.failed, plans.entries, fps)
    if not episodes:
        print("convert_rosbags: no episode can be used; no data set was written", file=sys.stderr)
        folder = report_without_data_set(output)
        folder.mkdir(parents=True, exist_ok=True)
        write_report(folder, report, plans.entries)
        print(f"report: {folder / HTML_NAME}", file=sys.stderr)
        return 0
    for name in ("data", "meta", "videos"):
        shutil.rmtree(place.folder / name, ignore_errors=True)
    write_dataset(place.folder, episodes, recordings.profile, plans.sizes, fps, video)
    write_report(place.folder, report, plans.entries)
    finish_workplace(place)
    remove_report(report_without_data_set(output))
    print(f"{len(episodes)} episodes, {sum(e.frames for e in episodes)} frames in {output}")
    dropped = sum(not entry.parts for entry in plans.entries)
    if dropped or plans.failed:
        print(f"{dropped} episodes dropped, {len(plans.failed)} bags not used")
    print(f"report: {output / HTML_NAME}")
    return len(episodes)


def _check_even(sizes: Mapping[str, tuple[int, int]]) -> None:
    if odd := {camera: size for camera, size in sizes.items() if size[0] % 2 or size[1] % 2}:
        text = ", ".join(f"{camera} {w}x{h}" for camera, (h, w) in odd.items())
        raise UserError(f"{text}: video needs even sizes; give --image-size")


def _made(plans: Plans, options: ConvertOptions, place: Workplace, pool: Pool, bar: Progress) -> dict[str, Converted]:
    """The second pass over what is not made yet; returns by job what became of it."""
    done = {job.key: result for job, _ in plans.jobs if (result := load_result(place.work / job.key))}
    todo = [job for job, _ in plans.jobs if job.key not in done]
    if todo:
        task = bar.add_task(f"converting {len(todo)} episodes", total=plans.frames)
        before = sum(part.frames for result in done.values() for part in result.parts)
        results = pool.convert(todo, options, lambda frames: bar.update(task, completed=before + frames))
        done |= {job.key: result for job, result in zip(todo, results, strict=True)}
    return done


def _note(plans: Plans, done: Mapping[str, Converted]) -> None:
    """Write the results into the entries."""
    index = 0
    of_job = {place: done[job.key] for job, place in plans.jobs}
    for place, entry in enumerate(plans.entries):
        if place not in of_job:
            continue
        result = of_job[place]
        entry.reasons, entry.parts = result.reasons, result.parts
        entry.notes = [*entry.notes, *result.notes]
        if entry.parts:
            entry.first_index = index
            index += len(entry.parts)


def _episodes(plans: Plans, place: Workplace) -> list[EpisodeFiles]:
    episodes = []
    for job, index in plans.jobs:
        entry = plans.entries[index]
        for part in entry.parts:
            stats = {camera: {k: np.array(v) for k, v in of.items()} for camera, of in part.picture_stats.items()}
            folder = place.work / job.key / part.folder
            episodes.append(EpisodeFiles(folder, part.frames, entry.task, _meta(job.candidate, entry, part), stats))
    return episodes


def _meta(candidate: Candidate, entry: ReportEntry, part: Part) -> EpisodeMeta:
    milestones = tuple(Milestone(label, frame) for label, frame in part.milestones)
    source = episode_title(entry.bag, candidate.name) + (
        f" part {part.part + 1}/{part.parts}" if part.parts > 1 else ""
    )
    outcome = candidate.outcome if part.ends else Outcome.UNKNOWN
    return EpisodeMeta(outcome, milestones, candidate.note if part.ends else "", source)
