"""Samples of one input as they arrive, and those around a given time. Pure; times are ns."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field

from pi05_progress.robots.joints import MessageError

SLACK_NS = 100_000_000  # how far messages of one topic may be out of order


@dataclass(frozen=True)
class Grid:
    """The times of an episode's frames."""

    start_ns: int  # of frame 0
    fps: int
    count: int

    def time_ns(self, index: int) -> int:
        """When a frame is."""
        return self.start_ns + round(index * 10**9 / self.fps)

    def times_ns(self) -> list[int]:
        """When all frames are."""
        return [self.time_ns(index) for index in range(self.count)]

    def index_at(self, time_ns: int) -> int:
        """The first frame at or after a time, within the episode."""
        index = -((self.start_ns - time_ns) * self.fps // 10**9)
        while index > 0 and self.time_ns(index - 1) >= time_ns:
            index -= 1
        return min(max(index, 0), self.count - 1)


class GapError(Exception):
    """An input says nothing for too long: between its last sample before and its first after; None if none is there."""

    def __init__(self, name: str, start_ns: int | None, stop_ns: int | None, why: str = "") -> None:
        super().__init__(name, start_ns, stop_ns, why)
        self.name, self.start_ns, self.stop_ns, self.why = name, start_ns, stop_ns, why


class NotYetError(Exception):
    """The samples that have arrived cannot be used, and others may follow."""


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


@dataclass(eq=False)
class Sample[Raw, Value]:
    """One sample; ``value`` is made of ``raw`` when it is first needed."""

    stamp: int
    raw: Raw | None
    value: Value | None = None
    parsed: bool = False
    used: bool = False


@dataclass
class Track[Raw, Value]:
    """Samples between the last time asked for and now; ask for ascending times.

    ``parse`` makes the value of a sample when it is first needed; what raises MessageError is passed over.
    """

    parse: Callable[[Raw], Value]
    counts: TrackCounts = field(default_factory=TrackCounts)
    closed: bool = False
    _samples: list[Sample[Raw, Value]] = field(default_factory=list)
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
        at = bisect.bisect_left(self._samples, stamp, key=_stamp)
        if at < len(self._samples) and self._samples[at].stamp == stamp:
            counts.duplicates += 1
            return
        if stamp <= self._asked:
            counts.late += 1  # frames that it would have served are made
            if at == 0:
                return
        self._samples.insert(at, Sample(stamp, raw))
        self._newest = max(self._newest, stamp)

    def ready(self, time_ns: int) -> bool:
        """Whether nothing that may still arrive changes what is around a time."""
        return self.closed or self._newest - SLACK_NS >= time_ns

    def around(self, time_ns: int, after: bool = True) -> tuple[Sample | None, Sample | None]:
        """The sound samples at or before a time and after it; with ``after`` false only the former is made."""
        self._asked, found = time_ns, None
        while found is None or not all(sample is None or self._sound(sample) for sample in found):
            before, later = self._neighbours(time_ns)
            found = before, later if after else None
        self._forget_before(before)
        return found

    def nearest(self, time_ns: int) -> tuple[Sample | None, Sample | None, Sample | None]:
        """The sound sample nearest to a time (the earlier of two at the same distance), those before and after it.

        Only the nearest is parsed, unless it is not sound.
        """
        self._asked = time_ns
        while True:
            around = before, after = self._neighbours(time_ns)
            chosen = min(filter(None, around), key=lambda sample: abs(sample.stamp - time_ns), default=None)
            if chosen is None or self._sound(chosen):
                self._forget_before(before)
                return chosen, before, after

    def _forget_before(self, sample: Sample | None) -> None:
        if sample:
            del self._samples[: self._samples.index(sample)]

    def _neighbours(self, time_ns: int) -> tuple[Sample | None, Sample | None]:
        """The samples at or before a time and after it."""
        split = bisect.bisect_right(self._samples, time_ns, key=_stamp)
        return (self._samples[split - 1] if split else None), next(iter(self._samples[split : split + 1]), None)

    def _sound(self, sample: Sample) -> bool:
        """Whether a sample can be parsed; one that cannot is removed."""
        if not sample.parsed:
            try:
                sample.value, sample.parsed, sample.raw = self.parse(sample.raw), True, None
            except MessageError as error:
                self.counts.bad += 1
                self.counts.first_problem = self.counts.first_problem or str(error)
                self._samples.remove(sample)
                return False
        return True

    def note_use(self, sample: Sample, time_ns: int) -> None:
        """Keep book of a sample that a frame was made of."""
        skew = abs(sample.stamp - time_ns)
        self.counts.frames += 1
        self.counts.used += not sample.used
        sample.used = True
        self.counts.skew_sum_ns += skew
        self.counts.skew_max_ns = max(self.counts.skew_max_ns, skew)


def _stamp(sample: Sample) -> int:
    return sample.stamp
