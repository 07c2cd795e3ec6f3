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
from ..datasets.writer import EpisodeFiles, write_dataset
from .planning import Entry, Plans, plan
from .pool import Pool, load_result
from .remarks import print_remarks
from .report import HTML_NAME, remove_report, report_without_data_set, write_report
from .second_pass import Store
from .segments import plan_segments
from .workplace import Workplace, finish_workplace


def _planned(bags: Sequence[Path], pool: Pool) -> Plans:
    """The first pass over all recordings, and what follows from it."""
    with progress_bar("looking through bags", len(bags), "bags") as advance:
        results = pool.scan(bags, lambda number: advance(1))
    return plan(bags, results, pool.options)


def dry_run(bags: Sequence[Path], pool: Pool) -> int:
    """Say of every episode what would become of it; returns the number of those that would be kept."""
    plans = _planned(bags, pool)
    kept: list[int] = []  # numbers of frames
    bags_kept = set()
    for entry in plans.entries:
        segments = plan_segments(entry.candidate, entry.scan, pool.options) if entry.key else None
        counts = [segment.grid.count for segment in segments.segments] if segments else []
        reasons = entry.reasons or segments.reasons
        entry.notes += segments.notes if segments else []
        entry.reasons = [] if counts else reasons
        kept += counts
        bags_kept |= {str(entry.scan.path)} if counts else set()
        said = "; ".join([*reasons, *entry.notes])
        what = f"{' + '.join(map(str, counts))} frames" if counts else "dropped"
        print(f"{entry.title}: {what}" + (f": {said}" if said else ""))
    print_remarks(plans, bags_kept)
    print(f"{len(kept)} episodes of {sum(kept)} frames would be kept; nothing was written")
    return len(kept)


def convert(bags: Sequence[Path], output: Path, place: Workplace, settings: Mapping[str, Any], pool: Pool) -> int:
    """Make the data set and its report; what ``place`` has of it already is not made again.

    Returns:
        The number of episodes; without any there is a report, and no data set.
    """
    options, plans = pool.options, _planned(bags, pool)
    _check_even(plans.sizes)
    _make(plans, place, pool)
    episodes = [_files(entry, number, place) for entry in plans.entries for number in range(len(entry.parts))]
    dropped = [entry for entry in plans.entries if not entry.parts]
    print_remarks(plans, {str(entry.scan.path) for entry in plans.entries if entry.parts}, dropped)
    if not episodes:
        print("convert_rosbags: no episode can be used; no data set was written", file=sys.stderr)
        folder = report_without_data_set(output)
        folder.mkdir(parents=True, exist_ok=True)
        write_report(folder, settings, plans, options.fps)
        print(f"report: {folder / HTML_NAME}", file=sys.stderr)
        return 0
    for name in ("data", "meta", "videos"):
        shutil.rmtree(place.folder / name, ignore_errors=True)
    columns = plans.columns.features(options.profile)
    write_dataset(place.folder, episodes, options.profile, plans.sizes, options.fps, options.video, columns)
    write_report(place.folder, settings, plans, options.fps)
    finish_workplace(place)
    remove_report(report_without_data_set(output))
    print(f"{len(episodes)} episodes, {sum(e.frames for e in episodes)} frames in {output}")
    if dropped or plans.failed:
        print(f"{len(dropped)} episodes dropped, {len(plans.failed)} bags not used")
    print(f"report: {output / HTML_NAME}")
    return len(episodes)


def _check_even(sizes: Mapping[str, tuple[int, int]]) -> None:
    if odd := {camera: size for camera, size in sizes.items() if size[0] % 2 or size[1] % 2}:
        text = ", ".join(f"{camera} {w}x{h}" for camera, (h, w) in odd.items())
        raise UserError(f"{text}: video needs even sizes; give --image-size")


def _make(plans: Plans, place: Workplace, pool: Pool) -> None:
    """The second pass over what is not made yet; what became of each episode is written into its entry."""
    wanted = [entry for entry in plans.entries if entry.key]
    done = {entry.key: result for entry in wanted if (result := load_result(place.work / entry.key))}
    store = Store(plans.sizes, plans.columns)
    todo = [(entry.key, entry.scan, entry.candidate, store) for entry in wanted if entry.key not in done]
    if todo:
        with progress_bar("converting", len(todo), "episodes") as advance:
            results = pool.convert(todo, lambda number: advance(1))
        done |= {key: result for (key, *_), result in zip(todo, results, strict=True)}
    first = 0
    for entry in wanted:
        result = done[entry.key]
        entry.reasons, entry.parts, entry.notes = result.reasons, result.parts, [*entry.notes, *result.notes]
        entry.first_index = first if entry.parts else None
        first += len(entry.parts)


def _files(entry: Entry, number: int, place: Workplace) -> EpisodeFiles:
    part, candidate = entry.parts[number], entry.candidate
    milestones = tuple(Milestone(label, frame) for label, frame in part.milestones)
    source = entry.title + (f" part {part.part + 1}/{part.parts}" if part.parts > 1 else "")
    outcome, note = (candidate.outcome, candidate.note) if part.ends else (Outcome.UNKNOWN, "")
    stats = {camera: {k: np.array(v) for k, v in of.items()} for camera, of in part.picture_stats.items()}
    meta = EpisodeMeta(outcome, milestones, note, source)
    return EpisodeFiles(place.work / entry.key / part.folder, part.frames, entry.task, meta, stats)
