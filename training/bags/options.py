"""What a conversion makes, and how: its command line."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.yaml_lines import ConfigError
from training.datasets.video import Codec, VideoOptions

Mode = Literal["auto", "bag", "marks", "events"]
Actions = Literal["teleoperation", "policy"]
OnGap = Literal["drop", "split"]


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
class Options:
    """Command line of ``training.convert_rosbags``; every process of a conversion has it."""

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

    @cached_property
    def profile(self) -> RobotProfile:
        """The robot, with as many numbers as are asked for; read once."""
        profile = RobotProfile.load(self.robot)
        if self.vector_size is None:
            return profile
        if self.vector_size not in (sizes := profile.layout.vector_sizes):
            known = " or ".join(map(str, sizes))
            raise ConfigError(f"--vector-size {self.vector_size}: expected {known} for {profile.name}")
        return profile.model_copy(update={"vector_size": self.vector_size})

    @property
    def instruction(self) -> str:
        """Of all episodes, as UTF-8, which it mostly is, whatever the locale took it for; empty: what events say."""
        typed = os.fsencode(self.task or "")
        with contextlib.suppress(UnicodeError):
            return typed.decode("utf-8")
        return self.task if self.task.isprintable() else typed.decode("utf-8", "replace")

    @property
    def max_gap_ns(self) -> int:
        """How long an input may be silent within an episode."""
        return round(self.max_gap * 1e9)

    @property
    def video(self) -> VideoOptions:
        """How pictures are encoded."""
        return VideoOptions(self.codec, self.preset, self.crf, self.gop)

    @property
    def cameras(self) -> dict[str, str]:
        """Topics of cameras that take the place of the profile's."""
        return dict(self.camera)

    def settings(self, bags: Sequence[Path]) -> dict[str, Any]:
        """What decides about the result, for --resume and for the report."""
        left_out = ("input", "output", "workers", "resume", "dry_run", "overwrite", "robot")
        files = sorted({f for bag in bags for f in (bag, *bag.glob("*")) if f.is_file()})
        return {
            **{key: value for key, value in dataclasses.asdict(self).items() if key not in left_out},
            "robot": self.profile.model_dump(mode="json"),
            "input": [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
        }
