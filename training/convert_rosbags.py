"""Turns ROS 2 bags into a LeRobot v3.0 data set, with a report of what was kept, what was dropped and why.

    python -m training.convert_rosbags --input bags --output datasets/stack --fps 30 --robot teleavatar

Bags are only read, in bounded memory. The data set appears complete or not at all; what a killed conversion finished is
kept: the same command with --resume goes on. docs/convert.md explains episodes, time and gaps.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pi05_progress.files.output_folder import OutputFolderError, refuse_overlap
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.yaml_lines import ConfigError
from training.bags.convert import Converted, ConvertOptions
from training.bags.episodes import Candidate, Found, find_episodes
from training.bags.faults import BagError
from training.bags.finding import find_bags
from training.bags.inputs import common_absent
from training.bags.jobs import (
    KEPT,
    ConversionError,
    Fate,
    Job,
    Pool,
    Workplace,
    common_sizes,
    finish_workplace,
    load_result,
    workplace,
)
from training.bags.remarks import Remark, kept_but
from training.bags.report import HTML_NAME, make_report, remove_report, report_without_data_set, write_report
from training.bags.scan import Scan, ScanOptions
from training.bags.segments import PlanOptions, plan_segments
from training.datasets.progress_meta import EpisodeMeta, Milestone, Outcome
from training.datasets.video import ENCODERS, VideoError, VideoOptions
from training.datasets.writer import Episode, write_dataset

CUT_OFF_REMARK = "the recording is cut off ({}): the episode's end is not the task's end; its outcome stays unknown"
EXAMPLES = """examples:
  a folder of recordings, one episode each or marked by events or buttons:
    %(prog)s --input bags --output datasets/stack --fps 30 --robot teleavatar
  at the size the model is trained at, only look at what would be kept:
    %(prog)s --input bags --output datasets/stack --fps 30 --image-size 224x224 --dry-run
  a policy's rollouts, episodes cut where an input falls silent:
    %(prog)s --input rollouts --output datasets/rollouts --fps 30 --actions policy --on-gap split
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.convert_rosbags", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--input", type=Path, nargs="+", required=True, metavar="BAG_OR_FOLDER", help="bags, or folders of bags")
    add("--output", type=Path, required=True, metavar="DATASET", help="folder of the data set")
    add("--fps", type=int, required=True, help="frames per second of the data set")
    add("--robot", default="teleavatar", help="robot profile, a name or a YAML file (default: %(default)s)")
    add("--task", help="instruction of all episodes; by default what episode events say")
    text = "where episodes are: a bag each, between the operator's buttons, or between episode events; auto: events if "
    add("--episodes", choices=("auto", "bag", "marks", "events"), default="auto",
        help=text + "there are any, else buttons, else bags (default: %(default)s)")  # fmt: skip
    text = "whose commands are the actions (default: %(default)s)"
    add("--actions", choices=("teleoperation", "policy"), default="teleoperation", help=text)
    text = "s an input may be silent within an episode (default: %(default)s)"
    add("--max-gap", type=float, default=0.25, metavar="S", help=text)
    text = "what becomes of an episode with a longer silence (default: %(default)s)"
    add("--on-gap", choices=("drop", "split"), default="drop", help=text)
    text = "take episodes that the recorder ended because it was stopped, the disk was full, ..."
    add("--keep-aborted", action="store_true", help=text)
    text = "take recordings without a gripper, as long as all lack the same; its numbers become 0"
    add("--allow-missing-grippers", action="store_true", help=text)
    text = "store pictures at this size, aspect kept, padded with black; by default as recorded"
    add("--image-size", type=_size, metavar="HxW", help=text)
    add("--codec", choices=tuple(ENCODERS), default="h264", help="of the videos (default: %(default)s)")
    add("--preset", default="", help="of the encoder; by default superfast (h264), ultrafast (hevc), 10 (av1)")
    add("--crf", type=int, help="quality, smaller is better; by default 23 (h264), 25 (hevc), 30 (av1)")
    add("--gop", type=int, default=10, help="frames from one key frame to the next (default: %(default)s)")
    text = "topic of a camera in place of the profile's; may be repeated"
    add("--camera", action="append", default=[], type=_camera, metavar="KEY=TOPIC", help=text)
    add("--namespace", default="", help="put before the profile's topics, as /robot1")
    text = "numbers of state and action in place of the profile's; of a Teleavatar 48, with end effector poses 62"
    add("--vector-size", type=int, metavar="N", help=text)
    add(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: one per core; 1: this one alone)",
    )
    add("--resume", action="store_true", help="go on with a conversion that was stopped")
    add("--dry-run", action="store_true", help="only say what would be kept; nothing is written")
    add("--overwrite", action="store_true", help="replace a data set that is there; other folders never are")
    args = parser.parse_args(arguments)
    for name, low, high in (("fps", 1, 240), ("workers", 1, 512), ("gop", 1, 1000), ("crf", 0, 63)):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            parser.error(f"--{name} {value}: expected {low} to {high}")
    if not (math.isfinite(args.max_gap) and args.max_gap > 1 / args.fps):
        parser.error(f"--max-gap {args.max_gap}: expected more than one frame, which is {1 / args.fps:.3f} s")
    if args.resume and args.overwrite:
        parser.error("--resume goes on, --overwrite begins again: only one of them can be given")
    if args.task is not None and not args.task.strip():
        parser.error("--task: the instruction is empty")
    return args


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text}: expected HEIGHTxWIDTH, as 224x224")
    if int(height) % 2 or int(width) % 2:
        raise argparse.ArgumentTypeError(f"{text}: video needs even numbers")
    return int(height), int(width)


def _camera(text: str) -> tuple[str, str]:
    key, equals, topic = text.partition("=")
    if not (key and equals and topic):
        raise argparse.ArgumentTypeError(f"{text}: expected KEY=TOPIC, as head_camera=/head/image_raw")
    return key, topic


@dataclass
class Plans:
    """What the first pass found.

    Attributes:
        scans: of recordings that can be used, with their episodes in ``found``.
        failed: why others cannot.
        jobs: episodes to be made, with their place in ``fates``.
        fates: of all episodes.
        sizes: of the cameras' pictures.
        frames: how many will be made, if nothing turns up.
    """

    scans: list[Scan]
    found: list[Found]
    failed: dict[str, str]
    jobs: list[tuple[Job, int]]
    fates: list[Fate]
    sizes: dict[str, tuple[int, int]]
    frames: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 1 if there is no data set, 2 for a wrong command line."""
    args = parse(arguments)
    console = Console(stderr=True)
    try:
        profile = RobotProfile.load(args.robot)
        if args.vector_size is not None:
            if args.vector_size not in (sizes := profile.layout.vector_sizes):
                known = " or ".join(map(str, sizes))
                raise ConfigError(f"--vector-size {args.vector_size}: expected {known} for {profile.name}")
            profile = profile.model_copy(update={"vector_size": args.vector_size})
        bags = find_bags(args.input)
    except (ConfigError, BagError) as error:
        print(f"convert_rosbags: {error}", file=sys.stderr)
        return 2
    try:
        refuse_overlap(args.output, [*args.input, *bags])
        if args.dry_run:
            with tempfile.TemporaryDirectory(prefix="convert_rosbags_") as folder:
                return _dry_run(args, profile, bags, Workplace(Path(folder)), console)
        settings = _settings(args, profile, bags)
        with workplace(args.output, settings, resume=args.resume, overwrite=args.overwrite) as place:
            if place.assembled:
                finish_workplace(place)
                print(f"the data set was complete; it is in {args.output} now")
                return 0
            status = _convert(args, profile, bags, place, settings, console)
            if status:
                place.pending.abandon()
        return status
    except (OutputFolderError, ConversionError, VideoError) as error:
        print(f"convert_rosbags: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"convert_rosbags: {where}{error.strerror or error}; {KEPT}", file=sys.stderr)
    except KeyboardInterrupt:
        print("convert_rosbags: stopped; the same command with --resume goes on", file=sys.stderr)
        return 130
    return 1


def _settings(args: argparse.Namespace, profile: RobotProfile, bags: Sequence[Path]) -> dict[str, Any]:
    """What decides about the result, for --resume and for the report."""
    left_out = ("input", "output", "workers", "resume", "dry_run", "overwrite", "robot")
    files = sorted({f for bag in bags for f in ([bag] if bag.is_file() else bag.iterdir()) if f.is_file()})
    return {
        **{key: value for key, value in vars(args).items() if key not in left_out},
        "robot": profile.model_dump(mode="json"),
        "input": [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
    }


def _scan_options(args: argparse.Namespace, profile: RobotProfile) -> ScanOptions:
    return ScanOptions(
        profile, args.actions, dict(args.camera), args.namespace, round(args.max_gap * 1e9), args.allow_missing_grippers
    )


def _plan_options(args: argparse.Namespace) -> PlanOptions:
    return PlanOptions(args.fps, round(args.max_gap * 1e9), args.on_gap)


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, transient=not console.is_terminal)


def _plan(args: argparse.Namespace, profile: RobotProfile, bags: Sequence[Path], pool: Pool, bar: Progress) -> Plans:
    """The first pass, and what follows from it."""
    task = bar.add_task("looking through bags", total=len(bags))
    results = pool.scan(bags, lambda: bar.update(task, advance=1))
    scans = [result for result in results if isinstance(result, Scan)]
    failed = {str(bag): result for bag, result in zip(bags, results, strict=True) if isinstance(result, str)}
    sizes = common_sizes(scans, profile)
    if args.image_size:
        sizes = dict.fromkeys(profile.cameras, args.image_size)
    found = [find_episodes(scan, args.episodes, args.keep_aborted) for scan in scans]
    absent = common_absent([scan.inputs for scan in scans])
    plans = Plans(scans, found, failed, [], [], sizes, 0)
    for number, (scan, episodes) in enumerate(zip(scans, found, strict=True)):
        plans.fates += [Fate(str(scan.path), name, "", "", [reason]) for name, reason in episodes.rejected]
        for index, candidate in enumerate(episodes.candidates):
            fate = Fate(str(scan.path), candidate.name, args.task or candidate.task, str(candidate.outcome))
            plans.fates.append(fate)
            if episodes.mode == "bag" and scan.cut_off:
                fate.notes = [CUT_OFF_REMARK.format(scan.cut_off)]
            fate.reasons = _against(fate, scan, sizes, bool(args.image_size), absent)
            if fate.reasons:
                continue
            plan = plan_segments(candidate, scan, _plan_options(args))
            plans.frames += sum(segment.grid.count for segment in plan.segments)
            job = Job(f"{number:05d}_{index:04d}", scan, candidate)
            plans.jobs.append((job, len(plans.fates) - 1))
    return plans


def _against(
    fate: Fate, scan: Scan, sizes: Mapping[str, tuple[int, int]], resize: bool, absent: Sequence[str]
) -> list[str]:
    """What speaks against an episode before its times are looked at."""
    reasons = [] if fate.task else ["no instruction: neither events nor --task give one"]
    if set(scan.inputs.absent) != set(absent):
        own, most = (", ".join(names) or "nothing" for names in (scan.inputs.absent, absent))
        reasons.append(f"{own} is missing, in most bags {most}: zeros and measured numbers do not mix; convert apart")
    for camera, size in sizes.items():
        own = scan.sizes.get(camera)
        if own is None:
            reasons.append(f"{camera}: none of its pictures can be decoded")
        elif not resize and tuple(own) != tuple(size):
            reasons.append(
                f"{camera} is {own[1]}x{own[0]}, in most bags {size[1]}x{size[0]}; --image-size brings all to one size"
            )
    return reasons


def _dry_run(
    args: argparse.Namespace, profile: RobotProfile, bags: Sequence[Path], place: Workplace, console: Console
) -> int:
    with Pool(place, _scan_options(args, profile), args.workers) as pool, _progress(console) as bar:
        plans = _plan(args, profile, bags, pool, bar)
    total = 0
    planned = {index: plan_segments(job.candidate, job.scan, _plan_options(args)) for job, index in plans.jobs}
    for index, fate in enumerate(plans.fates):
        plan = planned.get(index)
        fate.notes += plan.notes if plan else ()
        reasons = fate.reasons or list(plan.reasons)
        counts = [] if plan is None else [segment.grid.count for segment in plan.segments]
        total += len(counts)
        fate.reasons = [] if counts else reasons
        what = f"{' + '.join(map(str, counts))} frames" if counts else "dropped"
        said = [*reasons, *fate.notes]
        print(f"{_name(fate.bag, fate.name)}: {what}" + (f": {'; '.join(said)}" if said else ""))
    _print_unused(plans)
    _print_remarks(plans, {plans.fates[index].bag for index, plan in planned.items() if plan.segments})
    print(f"{total} episodes of {plans.frames} frames would be kept; nothing was written")
    return 0 if total else 1


def _convert(
    args: argparse.Namespace,
    profile: RobotProfile,
    bags: Sequence[Path],
    place: Workplace,
    settings: Mapping[str, Any],
    console: Console,
) -> int:
    with _progress(console) as bar, Pool(place, _scan_options(args, profile), args.workers) as pool:
        plans = _plan(args, profile, bags, pool, bar)
        video = VideoOptions(args.codec, args.preset, args.crf, args.gop)
        if odd := {camera: size for camera, size in plans.sizes.items() if size[0] % 2 or size[1] % 2}:
            text = ", ".join(f"{camera} {w}x{h}" for camera, (h, w) in odd.items())
            raise ConversionError(f"{text}: video needs even sizes; give --image-size")
        options = ConvertOptions(profile, _plan_options(args), plans.sizes, bool(args.image_size), video)
        done = {job.key: result for job, _ in plans.jobs if (result := load_result(place.work / job.key))}
        todo = [job for job, _ in plans.jobs if job.key not in done]
        if todo:
            task = bar.add_task(f"converting {len(todo)} episodes", total=plans.frames)
            before = sum(part.frames for result in done.values() for part in result.parts)
            results = pool.convert(todo, options, lambda frames: bar.update(task, completed=before + frames))
            done |= {job.key: result for job, result in zip(todo, results, strict=True)}
    _note(plans, done)
    episodes = _episodes(plans, place)
    _print_unused(plans)
    _print_dropped(plans)
    _print_remarks(plans, {fate.bag for fate in plans.fates if fate.parts})
    if not episodes:
        print("convert_rosbags: no episode can be used; no data set was written", file=sys.stderr)
        folder = report_without_data_set(args.output)
        folder.mkdir(parents=True, exist_ok=True)
        write_report(folder, _report(args, plans, settings), plans.fates)
        print(f"report: {folder / HTML_NAME}", file=sys.stderr)
        return 1
    _assemble(args, profile, plans, place, settings, episodes, video)
    kept = len(episodes)
    print(f"{kept} episodes, {sum(e.frames for e in episodes)} frames in {args.output}")
    dropped = sum(not fate.parts for fate in plans.fates)
    if dropped or plans.failed:
        print(f"{dropped} episodes dropped, {len(plans.failed)} bags not used")
    print(f"report: {args.output / HTML_NAME}")
    return 0


def _note(plans: Plans, done: Mapping[str, Converted]) -> None:
    """Write the results into the fates."""
    index = 0
    of_job = {place: done[job.key] for job, place in plans.jobs}
    for place, fate in enumerate(plans.fates):
        if place not in of_job:
            continue
        result = of_job[place]
        fate.reasons, fate.parts = result.reasons, result.parts
        fate.notes = [*fate.notes, *result.notes]
        if fate.parts:
            fate.first_index = index
            index += len(fate.parts)


def _episodes(plans: Plans, place: Workplace) -> list[Episode]:
    episodes = []
    for job, index in plans.jobs:
        fate = plans.fates[index]
        for part in fate.parts:
            stats = {camera: {k: np.array(v) for k, v in of.items()} for camera, of in part.picture_stats.items()}
            folder = place.work / job.key / part.folder
            episodes.append(Episode(folder, part.frames, fate.task, _meta(job.candidate, fate, part), stats))
    return episodes


def _meta(candidate: Candidate, fate: Fate, part: Any) -> EpisodeMeta:
    milestones = tuple(Milestone(label, frame) for label, frame in part.milestones)
    source = _name(fate.bag, candidate.name) + (f" part {part.part + 1}/{part.parts}" if part.parts > 1 else "")
    outcome = candidate.outcome if part.ends else Outcome.UNKNOWN
    return EpisodeMeta(outcome, milestones, candidate.note if part.ends else "", source)


def _name(bag: str, episode: str) -> str:
    """Of an episode, for people; the recorder gives bag and episode the same."""
    name = Path(bag).name
    return name if name == episode else f"{name} {episode}"


def _assemble(
    args: argparse.Namespace,
    profile: RobotProfile,
    plans: Plans,
    place: Workplace,
    settings: Mapping[str, Any],
    episodes: Sequence[Episode],
    video: VideoOptions,
) -> None:
    """Make the data set of the episodes and move it to its place."""
    for name in ("data", "meta", "videos"):
        shutil.rmtree(place.folder / name, ignore_errors=True)
    write_dataset(place.folder, episodes, profile, plans.sizes, args.fps, video)
    write_report(place.folder, _report(args, plans, settings), plans.fates)
    finish_workplace(place)
    remove_report(report_without_data_set(args.output))


def _report(args: argparse.Namespace, plans: Plans, settings: Mapping[str, Any]) -> dict[str, Any]:
    return make_report(settings, plans.scans, plans.found, plans.failed, plans.fates, args.fps)


def _print_unused(plans: Plans) -> None:
    for bag, why in plans.failed.items():
        print(f"not used: {why if bag in why else f'{bag}: {why}'}", file=sys.stderr)


def _print_dropped(plans: Plans) -> None:
    for fate in plans.fates:
        if not fate.parts:
            said = "; ".join([*fate.reasons, *fate.notes])
            print(f"dropped: {_name(fate.bag, fate.name)}: {said}", file=sys.stderr)


def _print_remarks(plans: Plans, kept: Collection[str]) -> None:
    """What is odd about recordings of which something is kept: ``kept`` names them."""
    usable = [fate for fate in plans.fates if fate.bag in kept and (fate.parts or not fate.reasons)]
    remarks = [Remark(_name(fate.bag, fate.name), text) for fate in usable for text in (*fate.notes, *fate.reasons)]
    for scan, found in zip(plans.scans, plans.found, strict=True):
        if str(scan.path) in kept:
            remarks += [Remark(scan.path.name, note) for note in (*scan.notes, *found.notes)]
    if lines := kept_but(remarks, [part for fate in usable for part in fate.parts]):
        print("kept, but", file=sys.stderr)
        for line in lines:
            print(f"  {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
