"""Which frames an episode has: the times at which every input has something to say. Pure; times are ns."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .episodes import Candidate, Span
from .first_pass import Scan
from .samples import Grid
from .timeline import Stretch

OnGap = Literal["drop", "split"]
LATE = "{} begins {:.2f} s late; the first frame is there"
MIN_PART_S = 1.0  # a part that splitting leaves and that is shorter is dropped


@dataclass(frozen=True)
class Gap:
    """Samples of one input that cannot be used, within the frames of a segment.

    Attributes:
        stretch: of the recording.
        frames: times of the segment's first and last frame.
        start, stop: the last sample before and the first after; None if there is none.
        name: of the input.
        why: what is the matter with it.
    """

    stretch: int
    frames: tuple[int, int]
    start: int | None
    stop: int | None
    name: str
    why: str

    @property
    def cut(self) -> tuple[int, int]:
        """Times that cannot be used."""
        first, last = self.frames
        return first - 1 if self.start is None else self.start, last + 1 if self.stop is None else self.stop

    def reason(self) -> str:
        """Why the episode cannot go on over it."""
        start, stop = self.cut
        lasting = "to the end" if self.stop is None else f"of {(stop - start) * 1e-9:.2f} s"
        where = f"at {max(start - self.frames[0], 0) * 1e-9:.2f} s"
        return f"{self.name}: gap {lasting} {where}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True)
class Segment:
    """Frames of one piece of a recording that become one episode of the data set.

    Attributes:
        stretch: of the recording.
        grid: their times.
        read: times of reception between which the recording is read.
        part, parts: which piece of a split episode it is, counted from 0.
    """

    stretch: int
    grid: Grid
    read: tuple[int, int]
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Plan:
    """The segments of an episode, or why there are none."""

    segments: tuple[Segment, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanOptions:
    """How episodes are cut."""

    fps: int
    max_gap_ns: int
    on_gap: OnGap


def plan_segments(candidate: Candidate, scan: Scan, options: PlanOptions, found: Sequence[Gap] = ()) -> Plan:
    """The frames of an episode.

    Args:
        candidate: the episode.
        scan: its recording.
        options: how it is cut.
        found: further gaps, from samples that turned out to be unusable.
    """
    pieces: list[tuple[int, int, int]] = []
    reasons: list[str] = []
    notes: list[str] = []
    shortened = False
    for number, span in enumerate(candidate.spans):
        if number:
            reasons.append(scan.stretches[span.stretch].why or "a clock jumped")
        stretch = scan.stretches[span.stretch]
        if missing := [name for name in scan.inputs.sources if name not in stretch.timings and not _pauses(scan, name)]:
            reasons.append(f"nothing from {', '.join(missing)}")
            continue
        start, stop, early, late = _usable(scan, stretch, span, options)
        start, stop, gaps, later = _narrowed(scan, span.stretch, (start, stop), options, found)
        reasons += early
        notes += (late := [*late, *later])
        shortened |= bool(late) and span.start_ns is not None
        if stop <= start:
            reasons.append("its inputs do not overlap in time: " + _extents(stretch))
            continue
        cuts, why = _cuts(scan, span.stretch, (start, stop), gaps)
        reasons += why
        pieces += [(span.stretch, a, b) for a, b in _without(start, stop, cuts)]
    if not pieces or (reasons and options.on_gap == "drop"):
        return Plan((), tuple(dict.fromkeys(reasons)) or ("it has no frames",), tuple(notes))
    plan = _segments(pieces, scan, options, tuple(dict.fromkeys(reasons)), notes, shortened)
    return replace(plan, notes=(*plan.notes, *_early_milestones(candidate, plan)))


def _early_milestones(candidate: Candidate, plan: Plan) -> list[str]:
    """A remark on those that came before there was a frame: they are put at the first one."""
    if len(plan.segments) != 1:
        return []
    stretch, start = plan.segments[0].stretch, plan.segments[0].grid.start_ns
    early = [label or "milestone" for label, of, stamp in candidate.milestones if of == stretch and stamp < start]
    return [f"before the first frame, and put at it: {', '.join(early)}"] if early else []


def _segments(
    pieces: list[tuple[int, int, int]],
    scan: Scan,
    options: PlanOptions,
    reasons: tuple[str, ...],
    notes: list[str],
    shortened: bool,
) -> Plan:
    grids = [(stretch, _grid(scan, stretch, start, stop, options)) for stretch, start, stop in pieces]
    least = MIN_PART_S * options.fps if len(pieces) > 1 or reasons or shortened else 2
    kept = [(stretch, grid) for stretch, grid in grids if grid is not None and grid.count >= least]
    if lost := len(grids) - len(kept):
        notes.append(f"{lost} parts shorter than {MIN_PART_S:g} s are dropped" if len(grids) > 1 else "too short")
    if not kept:
        return Plan((), (*reasons, "what is left is too short"), tuple(notes))
    segments = tuple(
        Segment(stretch, grid, _read_range(scan, stretch, grid, options), part, len(kept))
        for part, (stretch, grid) in enumerate(kept)
    )
    return Plan(segments, reasons, tuple(notes))


def _pauses(scan: Scan, name: str) -> bool:
    """Whether an input may have nothing to say in a stretch: a number that was given before it still holds."""
    return scan.inputs.sources[name].may_pause and bool(scan.changes.get(name))


def _usable(scan: Scan, stretch: Stretch, span: Span, options: PlanOptions) -> tuple[int, int, list[str], list[str]]:
    """Where all inputs have begun and none has ended, within the span; what that costs as reasons and as notes."""
    half = round(0.5e9 / options.fps)
    firsts, lasts = {}, {}
    for name, timing in stretch.timings.items():
        source = scan.inputs.sources[name]
        if source.may_pause:
            firsts[name] = scan.changes[name][0][0] if scan.changes.get(name) else timing.first
            continue
        firsts[name] = timing.first
        if source.kind == "packets":  # decoding begins at a key frame
            firsts[name] = timing.keys[0][0] if timing.keys else timing.last + 1
        lasts[name] = timing.last + (options.max_gap_ns if source.role == "action" else 0)
        lasts[name] += half if source.role == "camera" else 0
    newest = max(timing.last for timing in stretch.timings.values())
    late, early = max(firsts, key=firsts.get), min(lasts, key=lasts.get)
    start = firsts[late] if span.start_ns is None else max(span.start_ns, firsts[late])
    stop = min(newest if span.stop_ns is None else span.stop_ns, lasts[early])
    reasons, notes = [], []
    at_start = start - (span.start_ns if span.start_ns is not None else min(firsts.values()))
    if at_start > options.max_gap_ns:
        notes.append(LATE.format(late, at_start * 1e-9))
    at_stop = (newest if span.stop_ns is None else span.stop_ns) - stop
    if at_stop > options.max_gap_ns:
        reasons.append(f"{early} ends {at_stop * 1e-9:.2f} s early")
    return start, stop, reasons, notes


def _narrowed(
    scan: Scan, index: int, within: tuple[int, int], options: PlanOptions, found: Sequence[Gap]
) -> tuple[int, int, list[Gap], list[str]]:
    """Where an input's first and last messages cannot be used, it begins later and ends earlier than they say.

    Returns:
        Start and stop, the gaps that are in between, and notes on what begins much later.
    """
    (start, stop), gaps, notes = within, [], []
    for gap in (gap for gap in found if gap.stretch == index):
        grid = _grid(scan, index, start, stop, options)
        if grid and gap.start is None and gap.stop is not None and gap.frames[0] == grid.start_ns:
            if gap.stop - start > options.max_gap_ns:
                notes.append(f"{LATE.format(gap.name, (gap.stop - start) * 1e-9)} ({gap.why})")
            start = gap.stop
        elif grid and gap.stop is None and gap.start is not None and stop - gap.start <= options.max_gap_ns:
            stop = gap.start
        else:
            gaps.append(gap)
    return start, stop, gaps, notes


def _extents(stretch: Stretch) -> str:
    """When each input is there, in seconds since the first of all."""
    zero = min(timing.first for timing in stretch.timings.values())
    spans = {name: ((t.first - zero) * 1e-9, (t.last - zero) * 1e-9) for name, t in stretch.timings.items()}
    return ", ".join(f"{name} {a:.2f} to {b:.2f} s" for name, (a, b) in spans.items())


def _cuts(
    scan: Scan, index: int, within: tuple[int, int], found: Sequence[Gap]
) -> tuple[list[tuple[int, int]], list[str]]:
    """Times that cannot be used, and what is the matter with them."""
    start, stop = within
    known = []
    for name, timing in scan.stretches[index].timings.items():
        for a, b in timing.gaps:
            kind = "clock jumped ahead by" if (a, b) in timing.jumps else "gap of"
            known.append(((a, b), f"{name}: {kind} {(b - a) * 1e-9:.2f} s at {_at(a, start)}"))
    for a, b in scan.breaks:
        known.append(((a, b), f"the recorder's clock was set back by {(b - a) * 1e-9:.2f} s at {_at(a, start)}"))
    known += [(gap.cut, gap.reason()) for gap in found]
    inside = [((a, b), why) for (a, b), why in known if a < stop and b > start]
    return sorted(cut for cut, _ in inside), [why for _, why in inside]


def _at(time_ns: int, start: int) -> str:
    return f"{max(time_ns - start, 0) * 1e-9:.2f} s"


def _without(start: int, stop: int, cuts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of [start, stop] outside the cuts, whose ends themselves can be used."""
    pieces, at = [], start
    for a, b in cuts:
        if a >= at:
            pieces.append((at, min(a, stop)))
        at = max(at, b)
    if at <= stop:
        pieces.append((at, stop))
    return pieces


def _grid(scan: Scan, index: int, start: int, stop: int, options: PlanOptions) -> Grid | None:
    """Frames from the first picture of the first camera on: then it is in step with at least that camera."""
    camera = scan.inputs.of_role("camera")[0].name
    timing = scan.stretches[index].timings[camera]
    first = min((stamp for stamp in timing.stamps if start <= stamp <= stop), default=None)
    if first is None:
        return None
    return Grid(first, options.fps, (stop - first) * options.fps // 10**9 + 1)


def _read_range(scan: Scan, index: int, grid: Grid, options: PlanOptions) -> tuple[int, int]:
    """Times of reception between which everything that the frames need has arrived."""
    stretch = scan.stretches[index]
    pad = options.max_gap_ns + 10**9
    first, last = grid.start_ns - pad, grid.time_ns(grid.count - 1) + pad
    start, stop = first - stretch.offsets[1], last - stretch.offsets[0]
    for timing in stretch.timings.values():
        before = bisect.bisect_right(timing.keys, grid.start_ns, key=lambda key: key[0]) - 1
        if before >= 0:
            start = min(start, timing.keys[before][1])
    return max(start, stretch.received[0]), min(stop, stretch.received[1]) + 1
