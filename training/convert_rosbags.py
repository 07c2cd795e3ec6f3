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

import contextlib
import dataclasses
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from pi05_progress.errors import UsageError, run_program
from pi05_progress.files.file_limit import raise_file_limit
from pi05_progress.files.output_folder import refuse_overlap
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.yaml_lines import ConfigError

from .bags.conversion import convert, dry_run
from .bags.faults import BagError
from .bags.finding import find_bags
from .bags.options import Actions, Mode, OnGap, Options
from .bags.pool import KEPT, Pool
from .bags.workplace import Workplace, finish_workplace, workplace
from .datasets.video import Codec, VideoOptions


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError(f"{text}: expected HEIGHTxWIDTH, as 224x224")
    if int(height) % 2 or int(width) % 2:
        raise ValueError(f"{text}: video needs even numbers")
    return int(height), int(width)


def _camera(text: str) -> tuple[str, str]:
    key, equals, topic = text.partition("=")
    if not (key and equals and topic):
        raise ValueError(f"{text}: expected KEY=TOPIC, as head_camera=/head/image_raw")
    return key, topic


HeightXWidth = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="HxW",
    instance_from_str=lambda words: _size(words[0]),
    is_instance=lambda value: value is None or isinstance(value, tuple),
    str_from_instance=lambda size: ["as recorded" if size is None else f"{size[0]}x{size[1]}"],
)
KeyIsTopic = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="KEY=TOPIC",
    instance_from_str=lambda words: _camera(words[0]),
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda pair: ["=".join(pair)],
)


@dataclass(frozen=True)
class ConvertOptions:
    """Command line."""

    input: tuple[Path, ...]
    """Bags, or folders of bags."""
    output: Path
    """Folder of the data set."""
    fps: int
    """Frames per second of the data set."""
    robot: str = "teleavatar"
    """Robot profile: the name of one in config/, or a YAML file."""
    task: str | None = None
    """Instruction of all episodes; by default what episode events say."""
    episodes: Mode = "auto"
    """Where episodes are: a bag each, between the operator's buttons (marks), or between episode events; auto: events
    if there are any, else buttons, else bags."""
    actions: Actions = "teleoperation"
    """Whose commands are the actions."""
    max_gap: float = 0.25
    """How long an input may be silent within an episode, s."""
    on_gap: OnGap = "drop"
    """What becomes of an episode with a longer silence."""
    keep_aborted: bool = False
    """Take episodes that the recorder ended because it was stopped, the disk was full, ..."""
    allow_missing_grippers: bool = False
    """Take recordings without a gripper, as long as all lack the same; its numbers become 0."""
    image_size: Annotated[tuple[int, int] | None, HeightXWidth] = None
    """Store pictures at this size, aspect kept, padded with black; by default as recorded."""
    codec: Codec = "h264"
    """Of the videos."""
    preset: str = ""
    """Of the encoder; by default superfast (h264), ultrafast (hevc), 10 (av1)."""
    crf: int | None = None
    """Quality, smaller is better; by default 23 (h264), 25 (hevc), 30 (av1)."""
    gop: int = 10
    """Frames from one key frame to the next."""
    camera: tyro.conf.UseAppendAction[tuple[Annotated[tuple[str, str], KeyIsTopic], ...]] = ()
    """Topic of a camera in place of the profile's; may be repeated."""
    namespace: str = ""
    """Put before the profile's topics, as /robot1."""
    vector_size: int | None = None
    """Numbers of state and action in place of the profile's: of a Teleavatar 48, or 62 with end effector poses."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes; by default one per core; 1: this one alone."""
    resume: bool = False
    """Go on with a conversion that was stopped."""
    dry_run: bool = False
    """Only say what would be kept; nothing is written."""
    overwrite: bool = False
    """Replace a data set that is there; other folders never are."""

    def problem(self) -> str:
        """What contradicts itself or is out of range; empty if nothing is."""
        for name, low, high in (("fps", 1, 240), ("workers", 1, 512), ("gop", 1, 1000), ("crf", 0, 63)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                return f"--{name} {value}: expected {low} to {high}"
        if not self.input:
            return "--input: give at least one bag, or folder of bags"
        if not (math.isfinite(self.max_gap) and self.max_gap > 1 / self.fps):
            return f"--max-gap {self.max_gap}: expected more than one frame, which is {1 / self.fps:.3f} s"
        if self.resume and self.overwrite:
            return "--resume goes on, --overwrite begins again: only one of them can be given"
        if os.fsencode(self.output) != str(self.output).encode(errors="replace"):
            return f"--output {self.output!a}: this locale does not know its letters; set another, as LC_ALL=C.UTF-8"
        if self.task is not None and not self.task.strip():
            return "--task: the instruction is empty"
        return ""

    def options(self, profile: RobotProfile) -> Options:
        """What is made of recordings, and how."""
        same = ("fps", "episodes", "actions", "on_gap", "keep_aborted", "allow_missing_grippers", "image_size")
        return Options(
            profile=profile,
            task=None if self.task is None else _as_typed(self.task),
            max_gap_ns=round(self.max_gap * 1e9),
            video=VideoOptions(self.codec, self.preset, self.crf, self.gop),
            cameras=dict(self.camera),
            namespace=self.namespace,
            **{name: getattr(self, name) for name in same},
        )

    def settings(self, profile: RobotProfile, bags: Sequence[Path]) -> dict[str, Any]:
        """What decides about the result, for --resume and for the report."""
        left_out = ("input", "output", "workers", "resume", "dry_run", "overwrite", "robot")
        files = sorted({f for bag in bags for f in (bag, *bag.glob("*")) if f.is_file()})
        return {
            **{key: value for key, value in dataclasses.asdict(self).items() if key not in left_out},
            "robot": profile.model_dump(mode="json"),
            "input": [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
        }


def parse(arguments: Sequence[str] | None = None) -> ConvertOptions:
    """The command line; ends the program if that is wrong (status 2), or help was asked for (0)."""
    args = tyro.cli(
        ConvertOptions,
        prog="python -m training.convert_rosbags",
        description=__doc__,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if problem := args.problem():
        print(f"convert_rosbags: {problem}", file=sys.stderr)
        sys.exit(2)
    return args


def _as_typed(text: str) -> str:
    """An argument as UTF-8, which it mostly is, whatever the locale took it for."""
    with contextlib.suppress(UnicodeError):
        return os.fsencode(text).decode("utf-8")
    return os.fsencode(text).decode("utf-8", "replace") if not text.isprintable() else text


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 1 if there is no data set, 2 for a wrong command line."""
    args = parse(arguments)
    raise_file_limit()  # each file of a recording stays open
    again = "convert_rosbags: stopped; the same command with --resume goes on"
    return run_program(lambda: _run(args), name="convert_rosbags", kept=KEPT, stopped=again)


def _run(args: ConvertOptions) -> int:
    try:
        profile = RobotProfile.load(args.robot)
        if args.vector_size is not None:
            if args.vector_size not in (sizes := profile.layout.vector_sizes):
                known = " or ".join(map(str, sizes))
                raise ConfigError(f"--vector-size {args.vector_size}: expected {known} for {profile.name}")
            profile = profile.model_copy(update={"vector_size": args.vector_size})
        bags = find_bags(args.input)
    except (ConfigError, BagError) as error:
        raise UsageError(str(error)) from error
    refuse_overlap(args.output, [*args.input, *bags])
    if args.dry_run:
        folder = tempfile.TemporaryDirectory(prefix="convert_rosbags_")
        with folder as path, Pool(Workplace(Path(path)), args.options(profile), args.workers) as pool:
            return 0 if dry_run(bags, pool) else 1
    settings = args.settings(profile, bags)
    with workplace(args.output, settings, resume=args.resume, overwrite=args.overwrite) as place:
        if place.assembled:
            finish_workplace(place)
            print(f"the data set was complete; it is in {args.output} now")
            return 0
        with Pool(place, args.options(profile), args.workers) as pool:
            made = convert(bags, args.output, place, settings, pool)
        if not made:
            place.pending.abandon()
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main())
