"""A whole conversion: both passes over all recordings, the data set, its report, and the few lines that tell of it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pi05_progress.errors import UserError, one_line
from pi05_progress.files.progress_bar import progress_bar

from ..datasets.progress_meta import EpisodeMeta, Milestone, Outcome
from ..datasets.writer import EpisodeFiles, write_dataset
from .planning import Entry, Plans, plan
from .pool import Pool, load_result
from .report import HTML_NAME, remove_report, report_without_data_set, write_report
from .second_pass import Part
from .segments import plan_segments
from .work_folder import Workplace, finish_workplace

MOST_LINES = 10
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def _planned(bags: Sequence[Path], pool: Pool) -> Plans:
    """The first pass over all recordings, and what follows from it."""
    with progress_bar("looking through bags", len(bags), "bags") as advance:
        return plan(bags, pool.scan(bags, advance), pool.options)


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

    Returns the number of episodes; without any there is a report, and no data set.
    """
    options, plans = pool.options, _planned(bags, pool)
    if odd := [f"{camera} {w}x{h}" for camera, (h, w) in plans.sizes.items() if h % 2 or w % 2]:
        raise UserError(f"{', '.join(odd)}: video needs even sizes; give --image-size")
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


def _make(plans: Plans, place: Workplace, pool: Pool) -> None:
    """The second pass over what is not made yet; what became of each episode is written into its entry."""
    wanted = [entry for entry in plans.entries if entry.key]
    done = {entry.key: result for entry in wanted if (result := load_result(place.work / entry.key))}
    todo = [(e.key, e.scan, e.candidate, plans.sizes, plans.columns) for e in wanted if e.key not in done]
    if todo:
        with progress_bar("converting", len(todo), "episodes") as advance:
            results = pool.convert(todo, advance)
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


def print_remarks(plans: Plans, kept: Collection[str], dropped: Sequence[Entry] = ()) -> None:
    """What cannot be used and was dropped, and why, and what is odd about recordings of which something is ``kept``.

    Remarks on these that differ only in numbers and files become one, with how many there are.
    """
    for bag, why in plans.failed.items():
        _say(f"not used: {why if bag in why else f'{bag}: {why}'}")
    for entry in dropped:
        _say(f"dropped: {entry.title}: {'; '.join([*entry.reasons, *entry.notes])}")
    usable = [entry for entry in plans.entries if str(entry.scan.path) in kept and (entry.parts or not entry.reasons)]
    remarks = [(entry.title, text) for entry in usable for text in (*entry.notes, *entry.reasons)]
    for scan, found in zip(plans.scans, plans.found, strict=True):
        if str(scan.path) in kept:
            remarks += [(scan.path.name, note) for note in (*scan.notes, *found.notes)]
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, text in remarks:
        alike.setdefault(_NUMBER.sub("0", text.replace(name.partition(" ")[0], "*")), []).append((name, text))
    lines = [*map(_line, alike.values()), *_lost([part for entry in usable for part in entry.parts])]
    if len(lines) > MOST_LINES:
        rest = len(lines) - MOST_LINES + 1
        lines = [*lines[: MOST_LINES - 1], f"and {rest} remarks of other kinds, which the report lists"]
    for line in ["kept, but", *(f"  {line}" for line in lines)] if lines else []:
        _say(line)


def _say(line: str) -> None:
    print(one_line(line, 2000), file=sys.stderr)


def _line(alike: Sequence[tuple[str, str]]) -> str:
    names = {name for name, _ in alike}
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{alike[0][0]}{others}: {alike[0][1]}"


def _lost(parts: Sequence[Part]) -> list[str]:
    """What did not come in time or could not be used, over all episodes."""
    lines = []
    for key, what, total in (
        ("held", "frames show the nearest picture for want of one of their own", "frames"),
        ("bad", "messages cannot be used", "received"),
        ("late", "messages came too late for their frames", "received"),
    ):
        counts: dict[str, list[int]] = {}
        for part in parts:
            for name, facts in part.inputs.items():
                of = part.frames if total == "frames" else facts["received"]
                so_far = counts.setdefault(name, [0, 0])
                counts[name] = [so_far[0] + facts[key], so_far[1] + of]
        if some := [f"{name} {number} of {of}" for name, (number, of) in counts.items() if number]:
            lines.append(f"{what}: {', '.join(some)}")
    return lines
