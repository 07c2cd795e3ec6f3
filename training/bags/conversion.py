"""A whole conversion: both passes over all recordings, the data set and its report; or only what it would make."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.files.progress_bar import progress_bar

from ..datasets.progress_meta import EpisodeMeta, Milestone, Outcome
from ..datasets.video import VideoOptions
from ..datasets.writer import EpisodeFiles, write_dataset
from .episodes import Candidate
from .planning import Plans, ReportEntry, Wanted, episode_title, plan
from .pool import Pool, load_result
from .remarks import print_dropped, print_remarks, print_unused
from .report import HTML_NAME, make_report, remove_report, report_without_data_set, write_report
from .second_pass import Converted, ConvertOptions, Part
from .segments import plan_segments
from .workplace import Workplace, finish_workplace


def _planned(bags: Sequence[Path], wanted: Wanted, pool: Pool) -> Plans:
    """The first pass over all recordings, and what follows from it."""
    with progress_bar("looking through bags", len(bags), "bags") as advance:
        results = pool.scan(bags, lambda number: advance(1))
    return plan(bags, results, pool.options.profile, wanted)


def dry_run(bags: Sequence[Path], wanted: Wanted, pool: Pool) -> int:
    """Say of every episode what would become of it; returns the number of those that would be kept."""
    plans = _planned(bags, wanted, pool)
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
    bags: Sequence[Path],
    wanted: Wanted,
    video: VideoOptions,
    output: Path,
    place: Workplace,
    settings: Mapping[str, Any],
    pool: Pool,
) -> int:
    """Make the data set and its report; what ``place`` has of it already is not made again.

    Args:
        bags: recordings, files or folders.
        wanted: which episodes.
        video: how pictures are encoded.
        output: folder of the data set.
        place: where it is made.
        settings: of the conversion, for the report.
        pool: works in ``place``.

    Returns:
        The number of episodes; without any there is a report, and no data set.

    Raises:
        UserError: it cannot go on; the message says what to do.
    """
    profile = pool.options.profile
    plans = _planned(bags, wanted, pool)
    _check_even(plans.sizes)
    _make(plans, ConvertOptions(profile, wanted.times, plans.sizes, bool(wanted.image_size), video), place, pool)
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
    write_dataset(place.folder, episodes, profile, plans.sizes, fps, video)
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


def _make(plans: Plans, options: ConvertOptions, place: Workplace, pool: Pool) -> None:
    """The second pass over what is not made yet; what became of each episode is written into its entry."""
    done = {job.key: result for job, _ in plans.jobs if (result := load_result(place.work / job.key))}
    todo = [job for job, _ in plans.jobs if job.key not in done]
    if todo:
        with progress_bar("converting", len(todo), "episodes") as advance:
            results: list[Converted] = pool.convert(todo, options, lambda number: advance(1))
        done |= {job.key: result for job, result in zip(todo, results, strict=True)}
    first = 0
    for job, index in plans.jobs:
        entry, result = plans.entries[index], done[job.key]
        entry.reasons, entry.parts, entry.notes = result.reasons, result.parts, [*entry.notes, *result.notes]
        if entry.parts:
            entry.first_index, first = first, first + len(entry.parts)


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
