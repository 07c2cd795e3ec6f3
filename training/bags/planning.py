"""What a conversion will make, known after the first pass: episodes, what speaks against others, sizes of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pi05_progress.robots.profile import RobotProfile

from .episodes import Found, Mode, find_episodes
from .first_pass import Scan
from .inputs import common_absent
from .pool import Job
from .second_pass import Part
from .segments import PlanOptions, plan_segments

CUT_OFF_REMARK = "the recording is cut off ({}): the episode's end is not the task's end; its outcome stays unknown"


@dataclass(frozen=True)
class Wanted:
    """Which episodes are made of recordings, and how.

    Attributes:
        mode: where episodes are.
        keep_aborted: take also those that were not ended on purpose.
        task: instruction of all; None takes what episode events say.
        image_size: (height, width) of all pictures; None keeps them as they were recorded.
        times: of frames, and what a gap does.
    """

    mode: Mode
    keep_aborted: bool
    task: str | None
    image_size: tuple[int, int] | None
    times: PlanOptions


@dataclass
class ReportEntry:
    """What became of one episode of one recording, for the report."""

    bag: str
    name: str
    task: str
    outcome: str
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    first_index: int | None = None  # in the data set

    @property
    def title(self) -> str:
        """Of recording and episode, for people; the recorder gives both the same name."""
        return episode_title(self.bag, self.name)


def episode_title(bag: str, episode: str) -> str:
    """Names of a recording and of one of its episodes, once if they are the same."""
    name = Path(bag).name
    return name if name == episode else f"{name} {episode}"


@dataclass
class Plans:
    """What the first pass found.

    Attributes:
        scans: of recordings that can be used, with their episodes in ``found``.
        failed: why others cannot.
        jobs: episodes to be made, with their place in ``entries``.
        entries: of all episodes.
        sizes: of the cameras' pictures.
        frames: how many will be made, if nothing turns up.
    """

    scans: list[Scan]
    found: list[Found]
    failed: dict[str, str]
    jobs: list[tuple[Job, int]]
    entries: list[ReportEntry]
    sizes: dict[str, tuple[int, int]]
    frames: int


def plan(bags: Sequence[Path], results: Sequence[Scan | str], profile: RobotProfile, wanted: Wanted) -> Plans:
    """What follows from the first pass.

    Args:
        bags: the recordings.
        results: of the first pass over each; a text says why one cannot be used.
        profile: the robot.
        wanted: which episodes.
    """
    scans = [result for result in results if isinstance(result, Scan)]
    failed = {str(bag): result for bag, result in zip(bags, results, strict=True) if isinstance(result, str)}
    sizes = common_sizes(scans, profile)
    if wanted.image_size:
        sizes = dict.fromkeys(profile.cameras, wanted.image_size)
    found = [find_episodes(scan, wanted.mode, wanted.keep_aborted) for scan in scans]
    absent = common_absent([scan.inputs for scan in scans])
    plans = Plans(scans, found, failed, [], [], sizes, 0)
    for number, (scan, episodes) in enumerate(zip(scans, found, strict=True)):
        plans.entries += [ReportEntry(str(scan.path), name, "", "", [reason]) for name, reason in episodes.rejected]
        for index, candidate in enumerate(episodes.candidates):
            entry = ReportEntry(str(scan.path), candidate.name, wanted.task or candidate.task, str(candidate.outcome))
            plans.entries.append(entry)
            if episodes.mode == "bag" and scan.cut_off:
                entry.notes = [CUT_OFF_REMARK.format(scan.cut_off)]
            entry.reasons = _against(entry, scan, sizes, bool(wanted.image_size), absent)
            if entry.reasons:
                continue
            segments = plan_segments(candidate, scan, wanted.times).segments
            plans.frames += sum(segment.grid.count for segment in segments)
            job = Job(f"{number:05d}_{index:04d}", scan, candidate)
            plans.jobs.append((job, len(plans.entries) - 1))
    return plans


def common_sizes(scans: Sequence[Scan], profile: RobotProfile) -> dict[str, tuple[int, int]]:
    """Each camera's (height, width) in most of the recordings."""
    sizes = {}
    for camera in profile.cameras:
        counts = Counter(scan.sizes[camera] for scan in scans if camera in scan.sizes)
        if counts:
            sizes[camera] = tuple(counts.most_common(1)[0][0])
    return sizes


def _against(
    entry: ReportEntry, scan: Scan, sizes: Mapping[str, tuple[int, int]], resize: bool, absent: Sequence[str]
) -> list[str]:
    """What speaks against an episode before its times are looked at."""
    reasons = [] if entry.task else ["no instruction: neither events nor --task give one"]
    if set(scan.inputs.absent) != set(absent):
        own, most = (", ".join(names) or "nothing" for names in (scan.inputs.absent, absent))
        reasons.append(f"{own} is missing, in most bags {most}: zeros and measured numbers do not mix; convert apart")
    for camera, size in sizes.items():
        own = scan.sizes.get(camera)
        if own is None:
            why = scan.undecodable.get(camera, "no key frame among its packets")
            reasons.append(f"{camera}: none of its pictures can be decoded: {why}")
        elif not resize and tuple(own) != tuple(size):
            reasons.append(
                f"{camera} is {own[1]}x{own[0]}, in most bags {size[1]}x{size[0]}; --image-size brings all to one size"
            )
    return reasons
