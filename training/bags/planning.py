"""What a conversion will make, known after the first pass: episodes, what speaks against others, sizes of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .columns import Columns, columns_of
from .episodes import Candidate, Found, find_episodes
from .first_pass import Scan
from .inputs import common_absent
from .options import Options
from .second_pass import Part

CUT_OFF_REMARK = "the recording is cut off ({}): the episode's end is not the task's end; its outcome stays unknown"


@dataclass
class Entry:
    """What becomes of one episode of one recording."""

    scan: Scan
    name: str
    task: str = ""
    candidate: Candidate | None = None  # None if it is no episode
    key: str = ""  # name of the folder in which it is made; empty if it is not
    reasons: list[str] = field(default_factory=list)  # why it is dropped
    notes: list[str] = field(default_factory=list)  # what is odd about it
    parts: list[Part] = field(default_factory=list)  # what was made of it
    first_index: int | None = None  # of these in the data set

    @property
    def title(self) -> str:
        """Of recording and episode, for people; the recorder gives both the same name."""
        bag = self.scan.path.name
        return bag if bag == self.name else f"{bag} {self.name}"


@dataclass
class Plans:
    """What the first pass found."""

    scans: list[Scan]  # of recordings that can be used, with their episodes in ``found``
    found: list[Found]
    failed: dict[str, str]  # why others cannot
    entries: list[Entry]  # of all episodes
    sizes: dict[str, tuple[int, int]]  # (height, width) of the cameras' pictures as they are stored
    columns: Columns  # what the data set has beside states, actions and pictures


def plan(bags: Sequence[Path], results: Sequence[Scan | str], options: Options) -> Plans:
    """What follows from the first pass; a text among its results says why a recording cannot be used."""
    scans = [result for result in results if isinstance(result, Scan)]
    failed = {str(bag): result for bag, result in zip(bags, results, strict=True) if isinstance(result, str)}
    sizes = {}
    for camera in options.profile.cameras:
        counts = Counter(scan.sizes[camera] for scan in scans if camera in scan.sizes)
        if counts or options.image_size:
            sizes[camera] = options.image_size or counts.most_common(1)[0][0]
    found = [find_episodes(scan, options.episodes, options.keep_aborted) for scan in scans]
    absent = common_absent([scan.inputs for scan in scans])
    candidates = [candidate for of in found for candidate in of.candidates]
    columns = columns_of([scan.truth for scan in scans], candidates, options.fps)
    plans = Plans(scans, found, failed, [], sizes, columns)
    for number, (scan, episodes) in enumerate(zip(scans, found, strict=True)):
        plans.entries += [Entry(scan, name, reasons=[reason]) for name, reason in episodes.rejected]
        for index, candidate in enumerate(episodes.candidates):
            entry = Entry(scan, candidate.name, options.instruction or candidate.task, candidate)
            plans.entries.append(entry)
            if episodes.mode == "bag" and scan.cut_off:
                entry.notes = [CUT_OFF_REMARK.format(scan.cut_off)]
            entry.reasons = _against(entry, sizes, bool(options.image_size), absent)
            entry.key = "" if entry.reasons else f"{number:05d}_{index:04d}"
    return plans


def _against(entry: Entry, sizes: Mapping[str, tuple[int, int]], resize: bool, absent: Sequence[str]) -> list[str]:
    """What speaks against an episode before its times are looked at."""
    scan = entry.scan
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
