"""When messages were made: stamps of every input, and stretches of a recording in which they only move on; and what was
marked in it: presses of buttons, and ``EpisodeEvent``s."""

from __future__ import annotations

import statistics
import struct
from array import array
from dataclasses import dataclass, field
from typing import Any

from pi05_progress.robots.episode_notes import TAKEN_OVER
from pi05_progress.robots.messages import stamp_ns
from pi05_progress.robots.profile import MarksProfile

from .inputs import Source
from .message_types import Stored

BACK_NS = 500_000_000  # a stamp that lies further back than this is a jump of the clock, a nearer one disorder
FORWARD_NS = 1_000_000_000  # a stamp that runs ahead of the time of reception by this is a jump of the clock
OTHER_CLOCK_NS = 1_000_000_000  # stamps this far from the times of reception are of another clock
APART_NS = 50_000_000  # medians of two topics that differ by more are worth a remark
EVERY = 16  # one of so many stamps is kept to see how far it is from its time of reception


@dataclass
class Timing:
    """Stamps of one input within a stretch, ns."""

    first: int
    last: int
    count: int = 1
    duplicates: int = 0
    disorder: int = 0
    stampless: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    jumps: list[tuple[int, int]] = field(default_factory=list)  # those gaps that only stamps have
    offset: int = 0  # of the last stamp from its time of reception
    offsets: array = field(default_factory=lambda: array("q"))  # of every so many messages, see ``EVERY``
    stamps: array = field(default_factory=lambda: array("q"))  # of pictures, all of them
    keys: list[tuple[int, int]] = field(default_factory=list)  # packets that decoding can begin at, with reception

    @property
    def offset_ns(self) -> int | None:
        """Median of stamp minus time of reception; None without stamps."""
        return round(statistics.median(self.offsets)) if self.offsets else None


@dataclass
class Stretch:
    """A part of a recording in which no clock jumps back."""

    received: tuple[int, int]  # first and last time of reception, ns
    offsets: tuple[int, int] = (0, 0)  # smallest and largest difference of stamp and time of reception, ns
    timings: dict[str, Timing] = field(default_factory=dict)  # by source
    why: str = ""  # what made it begin, if it is not the recording's beginning

    def clocks_apart(self) -> str:
        """A remark on inputs whose stamps are ``APART_NS`` further from reception than those of others; or nothing."""
        known = {name: timing.offset_ns for name, timing in self.timings.items() if timing.offset_ns is not None}
        if not known or max(known.values()) - min(known.values()) <= APART_NS:
            return ""
        middle = statistics.median_low(known.values())
        odd = {name: median - middle for name, median in known.items() if abs(median - middle) > APART_NS}
        odd = odd or {name: median - middle for name, median in known.items() if median != middle}
        parts = (
            (", ".join(f"{name} by {abs(by) * 1e-6:.0f} ms" for name, by in odd.items() if sign * by > 0), way)
            for sign, way in ((-1, "behind"), (1, "ahead"))
        )
        said = "; ".join(f"{text} {way}" for text, way in parts if text)
        return (
            f"seen from the recorder, stamps of other inputs run apart: {said}. Either clocks of computers differ, and "
            "pictures and joints are out of step by as much, or these messages travel slowly, and nothing is wrong"
        )


def header_stamp_ns(data: bytes) -> int:
    """Stamp of a serialised message whose first field is a header, ns; 0 if it was left empty or is cut off."""
    if len(data) < 12:
        return 0
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, 4)
    return seconds * 10**9 + nanoseconds


def message_time_ns(message: Stored, source: Source, clock_offset_ns: int) -> int:
    """When what it says was so: by its stamp, or where it has none when it was received, less the source's delay."""
    stamp = (source.has_header and header_stamp_ns(message.data)) or message.received_ns + clock_offset_ns
    return stamp - source.delay_ns


class Timeline:
    """Puts messages into stretches, in the order in which they were received."""

    def __init__(self, clock_offset_ns: int, max_gap_ns: int) -> None:
        self._clock_offset_ns, self._max_gap_ns = clock_offset_ns, max_gap_ns
        self.stretches: list[Stretch] = []  # so far
        self.stampless: dict[str, int] = {}  # by source, how many messages had no stamp though they could
        self.other_clock: dict[str, int] = {}  # by topic, marks and events stamped by another clock than the robot's

    def sample(self, source: Source, message: Stored) -> tuple[int, Timing]:
        """The next message of an input; returns its stamp, ns, and the input's timing in the stretch it belongs to."""
        stretch = self._newest(message)
        stamp = message_time_ns(message, source, self._clock_offset_ns)
        stampless = not (source.has_header and header_stamp_ns(message.data))
        if stampless and source.has_header:
            self.stampless[source.name] = self.stampless.get(source.name, 0) + 1
        timing = stretch.timings.get(source.name)
        if timing and stamp < timing.last - BACK_NS:
            back_s = (timing.last - stamp) * 1e-9
            why = f"the clock of {source.name} jumped back by {back_s:.2f} s"
            stretch = Stretch((message.received_ns, message.received_ns), why=why)
            self.stretches.append(stretch)
            timing = None
        offset = stamp - message.received_ns
        if not stretch.timings:
            stretch.offsets = (offset, offset)
        stretch.offsets = (min(stretch.offsets[0], offset), max(stretch.offsets[1], offset))
        if timing is None:
            timing = stretch.timings[source.name] = Timing(stamp, stamp)
        else:
            self._follow(timing, stamp, offset, source)
        timing.stampless += stampless
        timing.offset = offset
        if not stampless and timing.count % EVERY == 1:
            timing.offsets.append(offset)
        return stamp, timing

    def _follow(self, timing: Timing, stamp: int, offset: int, source: Source) -> None:
        timing.count += 1
        if stamp == timing.last:
            timing.duplicates += 1
        elif stamp < timing.last:
            timing.disorder += 1
        elif stamp - timing.last > self._max_gap_ns and not source.may_pause:
            timing.gaps.append((timing.last, stamp))
            if offset - timing.offset > FORWARD_NS:
                timing.jumps.append((timing.last, stamp))
        timing.last = max(timing.last, stamp)

    def _newest(self, message: Stored) -> Stretch:
        if not self.stretches:
            self.stretches.append(Stretch((message.received_ns, message.received_ns)))
        stretch = self.stretches[-1]
        stretch.received = (stretch.received[0], max(stretch.received[1], message.received_ns))
        return stretch

    def robot_time(self, stamp: int, message: Stored) -> int:
        """When a mark or an event happened, by the clock of the robot's stamps.

        A recorder or a button box may have another clock than the robot (a simulation's, say). Then the time of
        reception counts, moved by as much as the robot's newest stamp is from its own: clocks may also drift apart.
        """
        timings = self._newest(message).timings.values()
        offset = max(timings, key=lambda t: t.last).offset if timings else self._clock_offset_ns
        if stamp and abs(stamp - message.received_ns - offset) <= OTHER_CLOCK_NS:
            return stamp
        if stamp:
            self.other_clock[message.topic] = self.other_clock.get(message.topic, 0) + 1
        return message.received_ns + offset

    def index_at(self, stamp: int) -> int:
        """The stretch of a mark: the newest, unless the clock has just jumped back and the mark is from before."""
        newest = max((t.last for t in self.stretches[-1].timings.values()), default=None)
        if len(self.stretches) > 1 and newest is not None and stamp > newest + BACK_NS:
            return len(self.stretches) - 2
        return len(self.stretches) - 1


@dataclass(frozen=True)
class Mark:
    """A press of one of the operator's buttons."""

    stretch: int
    stamp_ns: int
    start: bool


@dataclass(frozen=True)
class Event:
    """An ``EpisodeEvent``, with its numbers."""

    stretch: int
    stamp_ns: int
    episode_id: str
    event: int
    outcome: int
    task: str
    label: str


class Markers:
    """Collects marks and events in the order of reception."""

    def __init__(self, timeline: Timeline, profile: MarksProfile) -> None:
        self._timeline = timeline
        self._buttons = {profile.start_button: True, profile.stop_button: False}
        self._before: list[int] | None = None
        self.marks: list[Mark] = []
        self.events: list[Event] = []
        self.taken_over = False  # whether any event says that an operator took over

    def add(self, message: Stored, content: Any) -> None:
        """An ``EpisodeEvent``, or a state of the operator's buttons."""
        stamp = self._timeline.robot_time(stamp_ns(content), message)
        stretch = self._timeline.index_at(stamp)
        if hasattr(content, "episode_id"):
            facts = (content.episode_id, int(content.event), int(content.outcome), content.task, content.label)
            self.events.append(Event(stretch, stamp, *facts))
            self.taken_over |= content.event == TAKEN_OVER
            return
        now = list(content.buttons)
        before = now if self._before is None else self._before  # a button that is held at first is no press
        self._before = now
        for button, start in self._buttons.items():
            if button < len(now) and now[button] and not (button < len(before) and before[button]):
                self.marks.append(Mark(stretch, stamp, start))
