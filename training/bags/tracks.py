"""Samples of one input as they arrive, and those around a given time. Pure; times are ns."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field

from pi05_progress.robots.joints import MessageError


@dataclass(frozen=True)
class Grid:
    """The times of an episode's frames.

    Attributes:
        start_ns: of frame 0.
        fps: frames per second.
        count: number of frames.
    """

    start_ns: int
    fps: int
    count: int

    def time_ns(self, index: int) -> int:
        """When a frame is."""
        return self.start_ns + round(index * 10**9 / self.fps)

    def index_at(self, time_ns: int) -> int:
        """The first frame at or after a time, within the episode."""
        index = -((self.start_ns - time_ns) * self.fps // 10**9)
        while index > 0 and self.time_ns(index - 1) >= time_ns:
            index -= 1
        return min(max(index, 0), self.count - 1)


class GapError(Exception):
    """An input has nothing to say for too long; the episode cannot go on over it.

    Args:
        name: of the input.
        start_ns, stop_ns: the last sample before and the first after; None if there is none.
        why: what was wrong with samples in between, if there were any.
    """

    def __init__(self, name: str, start_ns: int | None, stop_ns: int | None, why: str = "") -> None:
        super().__init__(name, start_ns, stop_ns, why)
        self.name, self.start_ns, self.stop_ns, self.why = name, start_ns, stop_ns, why


class SendersError(Exception):
    """Messages of a topic do not come from the one robot that is expected; the text says what was found."""


@dataclass
class TrackCounts:
    """What one episode's samples of an input were like; skews are distances of the samples used from their frames."""

    received: int = 0
    used: int = 0  # different samples that frames were made of
    frames: int = 0
    duplicates: int = 0
    late: int = 0
    bad: int = 0
    held: int = 0  # frames whose nearest sample is further away than half a frame
    first_ns: int = 0
    last_ns: int = 0
    largest_gap_ns: int = 0
    skew_sum_ns: int = 0
    skew_max_ns: int = 0
    first_problem: str = ""


@dataclass
class _Entry[Raw]:
    stamp: int
    raw: Raw
    value: object = None
    parsed: bool = False
    used: bool = False


@dataclass
class Track[Raw, Value]:
    """Samples between the last time asked for and now; ask for ascending times.

    Attributes:
        name: for messages.
        parse: makes the value of a sample when it is first needed; what raises MessageError is passed over.
        slack_ns: how much later than in order a sample may arrive.
    """

    name: str
    parse: Callable[[Raw], Value]
    slack_ns: int
    counts: TrackCounts = field(default_factory=TrackCounts)
    closed: bool = False
    _entries: list[_Entry[Raw]] = field(default_factory=list)
    _newest: int = -(2**63)
    _asked: int = -(2**63)

    def push(self, stamp: int, raw: Raw) -> None:
        """A sample has arrived."""
        counts = self.counts
        counts.received += 1
        if counts.received == 1:
            counts.first_ns = counts.last_ns = stamp
        elif stamp > counts.last_ns:
            counts.largest_gap_ns = max(counts.largest_gap_ns, stamp - counts.last_ns)
            counts.last_ns = stamp
        at = bisect.bisect_left(self._entries, stamp, key=lambda entry: entry.stamp)
        if at < len(self._entries) and self._entries[at].stamp == stamp:
            counts.duplicates += 1
            return
        if stamp <= self._asked:
            counts.late += 1  # frames that it would have served are made
            if at == 0:
                return
        self._entries.insert(at, _Entry(stamp, raw))
        self._newest = max(self._newest, stamp)

    def ready(self, time_ns: int) -> bool:
        """Whether nothing that may still arrive changes what is around a time."""
        return self.closed or self._newest - self.slack_ns >= time_ns

    def around(self, time_ns: int, after: bool = True) -> tuple[_Sample | None, _Sample | None]:
        """The sound samples at or before a time and after it; with ``after`` false only the former is made."""
        self._asked = time_ns
        split = bisect.bisect_right(self._entries, time_ns, key=lambda entry: entry.stamp)
        before = self._sound(range(split - 1, -1, -1))
        if before is not None:
            del self._entries[: before[0]]
        if not after:
            return before and before[1], None
        split = bisect.bisect_right(self._entries, time_ns, key=lambda entry: entry.stamp)
        later = self._sound(range(split, len(self._entries)))
        return before and before[1], later and later[1]

    def nearest(self, time_ns: int) -> tuple[_Sample | None, _Sample | None, _Sample | None]:
        """The sound sample nearest to a time (the earlier of two at the same distance), those before and after it.

        Only the nearest is parsed, unless it is not sound.
        """
        self._asked = time_ns
        while True:
            split = bisect.bisect_right(self._entries, time_ns, key=lambda entry: entry.stamp)
            before = self._entries[split - 1] if split else None
            after = self._entries[split] if split < len(self._entries) else None
            if before is None and after is None:
                return None, None, None
            if after is None or (before is not None and time_ns - before.stamp <= after.stamp - time_ns):
                chosen = before
            else:
                chosen = after
            if self._parse(chosen):
                del self._entries[: max(split - 1, 0)]
                return _sample(chosen), before and _sample(before), after and _sample(after)

    def _sound(self, indices: range) -> tuple[int, _Sample] | None:
        """The first sample of these that can be parsed; others on the way are removed."""
        for removed, index in enumerate(indices):
            at = index - removed if indices.step > 0 else index
            entry = self._entries[at]
            if self._parse(entry):
                return at, _sample(entry)
        return None

    def _parse(self, entry: _Entry[Raw]) -> bool:
        if not entry.parsed:
            try:
                entry.value, entry.parsed = self.parse(entry.raw), True
                entry.raw = None
            except MessageError as error:
                self.counts.bad += 1
                self.counts.first_problem = self.counts.first_problem or str(error)
                self._entries.remove(entry)
                return False
        return True

    def note_use(self, sample: _Sample, time_ns: int) -> None:
        """Keep book of a sample that a frame was made of."""
        skew = abs(sample.stamp - time_ns)
        self.counts.frames += 1
        self.counts.used += not sample.entry.used
        sample.entry.used = True
        self.counts.skew_sum_ns += skew
        self.counts.skew_max_ns = max(self.counts.skew_max_ns, skew)


@dataclass(frozen=True)
class _Sample:
    stamp: int
    value: object
    entry: _Entry


def _sample(entry: _Entry) -> _Sample:
    return _Sample(entry.stamp, entry.value, entry)
