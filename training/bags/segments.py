"""Which frames an episode has: the times at which every input has something to say. Pure; times are ns."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

from .episodes import Candidate, Span
from .first_pass import Scan
from .inputs import Source
from .options import Options
from .samples import GapError, Grid
from .timeline import Stretch

MIN_PART_S = 1.0  # a part that splitting leaves and that is shorter is dropped


@dataclass(frozen=True)
class Segment:
    """Frames of one piece of a recording that become one episode of the data set."""

    stretch: int  # of the recording
    grid: Grid  # their times
    read: tuple[int, int]  # times of reception between which the recording is read
    part: int  # which piece of a split episode it is, counted from 0
    parts: int


@dataclass(frozen=True)
class Gap:
    """Samples of one input that turned out to be unusable when a segment was made."""

    segment: Segment
    error: GapError

    @property
    def cut(self) -> tuple[int, int]:
        """Times that cannot be used."""
        grid, start, stop = self.segment.grid, self.error.start_ns, self.error.stop_ns
        return grid.start_ns - 1 if start is None else start, grid.time_ns(grid.count - 1) + 1 if stop is None else stop

    def reason(self) -> str:
        """Why the episode cannot go on over it."""
        start, stop = self.cut
        lasting = "to the end" if self.error.stop_ns is None else f"of {(stop - start) * 1e-9:.2f} s"
        why = f" ({self.error.why})" if self.error.why else ""
        return f"{self.error.name}: gap {lasting} at {_at(start, self.segment.grid.start_ns)}{why}"


@dataclass
class Plan:
    """The segments of an episode, or why there are none."""

    segments: list[Segment] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_segments(candidate: Candidate, scan: Scan, options: Options, found: Sequence[Gap] = ()) -> Plan:
    """The frames of an episode; ``found`` are gaps that the first pass could not see."""
    return _Planning(candidate, scan, options, found).plan()


class _Planning:
    def __init__(self, candidate: Candidate, scan: Scan, options: Options, found: Sequence[Gap]) -> None:
        self._candidate, self._scan, self._options, self._found = candidate, scan, options, found
        self._reasons: list[str] = []
        self._notes: list[str] = []
        self._shortened = False
        # Whose commands are in force then is not known before the second pass, nor whether any are missing.
        self._alternating = bool(candidate.taken_over) and options.actions == "policy"

    def plan(self) -> Plan:
        pieces = []
        for number, span in enumerate(self._candidate.spans):
            if number:
                self._reasons.append(self._scan.stretches[span.stretch].why or "a clock jumped")
            pieces += [(span.stretch, start, stop) for start, stop in self._pieces(span)]
        reasons = list(dict.fromkeys(self._reasons))
        if not pieces or (reasons and self._options.on_gap == "drop"):
            return Plan([], reasons or ["it has no frames"], self._notes)
        grids = [(stretch, self._grid(stretch, start, stop)) for stretch, start, stop in pieces]
        least = MIN_PART_S * self._options.fps if len(pieces) > 1 or reasons or self._shortened else 2
        kept = [(stretch, grid) for stretch, grid in grids if grid is not None and grid.count >= least]
        if lost := len(grids) - len(kept):
            many = f"{lost} parts shorter than {MIN_PART_S:g} s are dropped"
            self._notes.append(many if len(grids) > 1 else "too short")
        if not kept:
            return Plan([], [*reasons, "what is left is too short"], self._notes)
        if len(kept) == 1:
            (stretch, grid), marks = kept[0], self._candidate.milestones
            early = [label or "milestone" for label, of, at in marks if of == stretch and at < grid.start_ns]
            self._notes += [f"before the first frame, and put at it: {', '.join(early)}"] if early else []
        segments = [
            Segment(stretch, grid, self._read_range(stretch, grid), part, len(kept))
            for part, (stretch, grid) in enumerate(kept)
        ]
        return Plan(segments, reasons, self._notes)

    def _pieces(self, span: Span) -> list[tuple[int, int]]:
        """The parts of a span that can be used."""
        scan, stretch = self._scan, self._scan.stretches[span.stretch]
        sources = scan.inputs.sources
        pausing = {name for name, source in sources.items() if source.may_pause and scan.changes.get(name)}
        needed = [name for name, source in sources.items() if source.role != "operator"]
        needed += [f"operator {source.part}" for source in scan.inputs.of_role("action") if self._alternating]
        if missing := [name for name in needed if name not in stretch.timings and name not in pausing]:
            self._reasons.append(f"nothing from {', '.join(missing)}")
            return []
        start, stop, gaps = self._narrowed(span.stretch, *self._usable(stretch, span))
        if stop <= start:
            self._reasons.append("its inputs do not overlap in time: " + _extents(stretch))
            return []
        known = [(gap.cut, gap.reason()) for gap in gaps]
        for name, timing in stretch.timings.items():
            for a, b in timing.gaps if self._judged(sources[name]) else ():
                kind = "clock jumped ahead by" if (a, b) in timing.jumps else "gap of"
                known.append(((a, b), f"{name}: {kind} {(b - a) * 1e-9:.2f} s at {_at(a, start)}"))
        for a, b in scan.breaks:
            known.append(((a, b), f"the recorder's clock was set back by {(b - a) * 1e-9:.2f} s at {_at(a, start)}"))
        inside = [((a, b), why) for (a, b), why in known if a < stop and b > start]
        self._reasons += [why for _, why in inside]
        return _without(start, stop, sorted(cut for cut, _ in inside))

    def _judged(self, source: Source) -> bool:
        """Whether silence of an input speaks against an episode already now."""
        return source.role != "operator" and not (self._alternating and source.role == "action")

    def _usable(self, stretch: Stretch, span: Span) -> tuple[int, int]:
        """Where all inputs have begun and none has ended, within the span."""
        scan, max_gap_ns = self._scan, self._options.max_gap_ns
        half = round(0.5e9 / self._options.fps)
        firsts, lasts = {}, {}
        for name, timing in stretch.timings.items():
            source = scan.inputs.sources[name]
            if source.role == "operator":
                continue
            if source.may_pause:
                firsts[name] = scan.changes[name][0][0] if scan.changes.get(name) else timing.first
                continue
            firsts[name] = timing.first
            if source.kind == "packets":  # decoding begins at a key frame
                firsts[name] = timing.keys[0][0] if timing.keys else timing.last + 1
            if self._judged(source):
                lasts[name] = timing.last + (max_gap_ns if source.role == "action" else 0)
                lasts[name] += half if source.role == "camera" else 0
        end = max(timing.last for timing in stretch.timings.values()) if span.stop_ns is None else span.stop_ns
        late, early = max(firsts, key=firsts.get), min(lasts, key=lasts.get)
        begin = min(firsts.values()) if span.start_ns is None else span.start_ns
        start, stop = max(begin, firsts[late]), min(end, lasts[early])
        self._begins_late(late, start - begin)
        if end - stop > max_gap_ns:
            self._reasons.append(f"{early} ends {(end - stop) * 1e-9:.2f} s early")
        return start, stop

    def _begins_late(self, name: str, late_ns: int, why: str = "") -> None:
        if late_ns > self._options.max_gap_ns:
            self._notes.append(f"{name} begins {late_ns * 1e-9:.2f} s late; the first frame is there{why}")
            self._shortened |= self._candidate.spans[0].start_ns is not None

    def _narrowed(self, index: int, start: int, stop: int) -> tuple[int, int, list[Gap]]:
        """Start and stop, and the gaps in between: an input whose first and last messages cannot be used begins later
        and ends earlier than they say."""
        gaps = []
        for gap in (gap for gap in self._found if gap.segment.stretch == index):
            grid, error = self._grid(index, start, stop), gap.error
            at_start = grid is not None and gap.segment.grid.start_ns == grid.start_ns
            if at_start and error.start_ns is None and error.stop_ns is not None:
                self._begins_late(error.name, error.stop_ns - start, f" ({error.why})")
                start = error.stop_ns
            elif error.stop_ns is None and stop - (error.start_ns or 0) <= self._options.max_gap_ns:
                stop = error.start_ns
            else:
                gaps.append(gap)
        return start, stop, gaps

    def _grid(self, index: int, start: int, stop: int) -> Grid | None:
        """Frames from the first picture of the first camera on: then it is in step with at least that camera."""
        camera = self._scan.inputs.of_role("camera")[0].name
        stamps = self._scan.stretches[index].timings[camera].stamps
        first = min((stamp for stamp in stamps if start <= stamp <= stop), default=None)
        if first is None:
            return None
        return Grid(first, self._options.fps, (stop - first) * self._options.fps // 10**9 + 1)

    def _read_range(self, index: int, grid: Grid) -> tuple[int, int]:
        """Times of reception between which everything that the frames need has arrived."""
        stretch = self._scan.stretches[index]
        pad = self._options.max_gap_ns + 10**9
        first, last = grid.start_ns - pad, grid.time_ns(grid.count - 1) + pad
        start, stop = first - stretch.offsets[1], last - stretch.offsets[0]
        for timing in stretch.timings.values():
            before = bisect.bisect_right(timing.keys, grid.start_ns, key=lambda key: key[0]) - 1
            if before >= 0:
                start = min(start, timing.keys[before][1])
        return max(start, stretch.received[0]), min(stop, stretch.received[1]) + 1


def _extents(stretch: Stretch) -> str:
    """When each input is there, in seconds since the first of all."""
    zero = min(timing.first for timing in stretch.timings.values())
    spans = {name: ((t.first - zero) * 1e-9, (t.last - zero) * 1e-9) for name, t in stretch.timings.items()}
    return ", ".join(f"{name} {a:.2f} to {b:.2f} s" for name, (a, b) in spans.items())


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
