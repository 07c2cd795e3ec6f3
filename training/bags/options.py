"""What a conversion makes, and how; ``training.convert_rosbags`` says what each option does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pi05_progress.robots.profile import RobotProfile
from training.datasets.video import VideoOptions

Mode = Literal["auto", "bag", "marks", "events"]
Actions = Literal["teleoperation", "policy"]
OnGap = Literal["drop", "split"]


@dataclass(frozen=True)
class Options:
    """Options of a conversion, but for its places."""

    profile: RobotProfile  # the robot
    fps: int
    task: str | None  # instruction of all episodes; None takes what episode events say
    episodes: Mode
    actions: Actions
    max_gap_ns: int
    on_gap: OnGap
    keep_aborted: bool
    allow_missing_grippers: bool
    image_size: tuple[int, int] | None  # (height, width) of all pictures; None keeps them as they were recorded
    video: VideoOptions
    cameras: Mapping[str, str]  # topics of cameras that take the place of the profile's
    namespace: str
