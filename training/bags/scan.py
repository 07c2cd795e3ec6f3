"""The first pass over a recording: what is in it and when, without decoding a picture or reading a joint.

Only stamps are read, at fixed places of the serialised messages, so the pass costs little more than reading the file.
A recording falls into *stretches*: within one, stamps only move on; where they jump back, another begins.
"""

from __future__ import annotations

import math
import statistics
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pi05_progress.robots.joints import MessageError
from pi05_progress.robots.messages import decode_image, prepare_image, stamp_ns
from pi05_progress.robots.packets import is_key_packet
from pi05_progress.robots.profile import MarksProfile, RobotProfile

from .clocks import Offsets, apart
from .faults import BagError
from .inputs import Actions, Inputs, Source, choose_inputs
from .reading import Bag, Stored

BACK_NS = 500_000_000  # a stamp that lies further back than this is a jump of the clock, a nearer one disorder
FORWARD_NS = 1_000_000_000  # a stamp that runs ahead of the time of reception by this is a jump of the clock
OTHER_CLOCK_NS = 1_000_000_000  # stamps this far from the times of reception are of another clock


@dataclass(frozen=True)
class ScanOptions:
    """What the first pass needs to know."""

    profile: RobotProfile
    actions: Actions
    cameras: Mapping[str, str]
    namespace: str
    max_gap_ns: int
    allow_missing_grippers: bool = False


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
    offsets: Offsets = field(default_factory=Offsets)  # of all messages that have a stamp
    stamps: array = field(default_factory=lambda: array("q"))  # of pictures, all of them
    keys: list[tuple[int, int]] = field(default_factory=list)  # packets that decoding can begin at, with reception


@dataclass
class Stretch:
    """A part of a recording in which no clock jumps back.

    Attributes:
        received: first and last time of reception, ns.
        offsets: smallest and largest difference of stamp and time of reception, ns.
        timings: by source.
        why: what made it begin, if it is not the recording's beginning.
    """

    received: tuple[int, int]
    offsets: tuple[int, int] = (0, 0)
    timings: dict[str, Timing] = field(default_factory=dict)
    why: str = ""


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


@dataclass
class Scan:
    """What the first pass found out about one recording.

    Attributes:
        path: the recording.
        inputs: topics that are used.
        stretches: see above.
        breaks: times, ns, that were recorded twice.
        marks, events: in the order of reception.
        sizes: (height, width) of each camera's picture, cropped and turned as the profile says.
        changes: per source that may pause, (stamp, number) where the number changed.
        clock_offset_ns: added to times of reception where messages have no stamp.
        unreadable: by topic, how many events, marks or numbers could not be read.
        cut_off: why the recording's beginning or end are known to be missing; empty if they are not.
        notes: what is odd, for the report and the console; choices that were made are in ``inputs``.
    """

    path: Path
    inputs: Inputs
    stretches: list[Stretch] = field(default_factory=list)
    breaks: list[tuple[int, int]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    changes: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    clock_offset_ns: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)
    cut_off: str = ""
    notes: list[str] = field(default_factory=list)


def header_stamp_ns(data: bytes) -> int:
    """Stamp of a serialised message whose first field is a header, ns; 0 if it was left empty."""
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, 4)
    return seconds * 10**9 + nanoseconds


def message_time_ns(message: Stored, has_header: bool, clock_offset_ns: int) -> int:
    """When a message was made: its stamp, or where it has none, when it was received."""
    stamp = header_stamp_ns(message.data) if has_header and len(message.data) >= 12 else 0
    return stamp or message.received_ns + clock_offset_ns


def scan_bag(path: Path, options: ScanOptions, scratch: Path | None = None) -> Scan:
    """Read through a recording once.

    Raises:
        BagError: it cannot be used; the message says why and what to do.
    """
    with Bag(path, scratch) as bag:
        if not any(topic.count for topic in bag.topics.values()):
            raise BagError(f"{path}: the recording holds no messages")
        try:
            inputs = choose_inputs(
                bag.topics, options.profile, options.actions, options.cameras, options.namespace,
                options.allow_missing_grippers,
            )  # fmt: skip
        except BagError as error:
            raise BagError(f"{path}: {error}") from None
        return _Scanner(bag, inputs, options).run()


class _Scanner:
    def __init__(self, bag: Bag, inputs: Inputs, options: ScanOptions) -> None:
        self._bag, self._inputs, self._options = bag, inputs, options
        self._scan = Scan(bag.path, inputs, cut_off=bag.cut_off, notes=list(bag.notes))
        self._sources = {source.topic: source for source in inputs.sources.values()}
        self._buttons = _Buttons(options.profile.marks)
        self._stampless: dict[str, int] = {}
        self._other_clock: dict[str, int] = {}  # marks and events by topic
        self._why_unreadable: dict[str, str] = {}  # the first reason by topic

    def run(self) -> Scan:
        scan, bag = self._scan, self._bag
        scan.clock_offset_ns = self._clock_offset()
        topics = self._inputs.topics() | {t for t in (self._inputs.events, self._inputs.marks) if t}
        stills = {source.topic for source in self._inputs.of_role("camera") if source.kind != "packets"}
        self._first_pictures(stills)
        for message in bag.messages(topics, heads=stills):
            source = self._sources.get(message.topic)
            if source is not None:
                self._sample(source, message)
            elif message.topic == self._inputs.events:
                self._event(message)
            else:
                self._mark(message)
        scan.breaks = [(a + scan.clock_offset_ns, b + scan.clock_offset_ns) for a, b in bag.jumps_back()]
        scan.notes += [f"{name}: nothing was recorded; its entries are 0" for name in self._inputs.absent]
        scan.notes += [f"{topic}: {count} messages cannot be read and are passed over: {self._why_unreadable[topic]}"
                       for topic, count in scan.unreadable.items()]  # fmt: skip
        scan.notes += [f"{name}: {count} messages without a stamp; the time of reception is used"
                       for name, count in self._stampless.items()]  # fmt: skip
        scan.notes += [f"{topic}: {count} messages stamped by another clock than the robot's; reception is used"
                       for topic, count in self._other_clock.items()]  # fmt: skip
        scan.notes += [f"the recorder's clock was set back by {(b - a) * 1e-9:.1f} s" for a, b in scan.breaks]
        scan.notes += [stretch.why for stretch in scan.stretches if stretch.why]
        if scan.clock_offset_ns:
            scan.notes.append(
                f"stamps are {abs(scan.clock_offset_ns) * 1e-9:.1f} s "
                f"{'ahead of' if scan.clock_offset_ns > 0 else 'behind'} the times of reception"
            )
        for stretch in scan.stretches:
            if note := apart({name: timing.offsets.median_ns() for name, timing in stretch.timings.items()}):
                scan.notes.append(note)
        return scan

    def _clock_offset(self) -> int:
        """How far stamps are from times of reception, where they are of different clocks; else 0."""
        topic = self._inputs.of_role("state")[0].topic
        first = islice(self._bag.messages({topic}), 50)
        pairs = [(header_stamp_ns(m.data), m.received_ns) for m in first if len(m.data) >= 12]
        offsets = [stamp - received for stamp, received in pairs if stamp]
        offset = round(statistics.median(offsets)) if offsets else 0
        return offset if abs(offset) > OTHER_CLOCK_NS else 0

    def _stretch(self, message: Stored) -> Stretch:
        scan = self._scan
        if not scan.stretches:
            scan.stretches.append(Stretch((message.received_ns, message.received_ns)))
        stretch = scan.stretches[-1]
        stretch.received = (stretch.received[0], max(stretch.received[1], message.received_ns))
        return stretch

    def _sample(self, source: Source, message: Stored) -> None:
        stretch = self._stretch(message)
        stamp = header_stamp_ns(message.data) if source.has_header and len(message.data) >= 12 else 0
        stampless = not stamp
        if stampless:
            stamp = message.received_ns + self._scan.clock_offset_ns
        if stampless and source.has_header:
            self._stampless[source.name] = self._stampless.get(source.name, 0) + 1
        timing = stretch.timings.get(source.name)
        if timing and stamp < timing.last - BACK_NS:
            back_s = (timing.last - stamp) * 1e-9
            why = f"the clock of {source.name} jumped back by {back_s:.2f} s"
            stretch = Stretch((message.received_ns, message.received_ns), why=why)
            self._scan.stretches.append(stretch)
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
        if not stampless:
            timing.offsets.add(offset)
        if source.role == "camera":
            self._image(source, message, stamp, timing)
        elif source.kind == "number":
            self._number(source, message, stamp)

    def _follow(self, timing: Timing, stamp: int, offset: int, source: Source) -> None:
        timing.count += 1
        if stamp == timing.last:
            timing.duplicates += 1
        elif stamp < timing.last:
            timing.disorder += 1
        elif stamp - timing.last > self._options.max_gap_ns and not source.may_pause:
            timing.gaps.append((timing.last, stamp))
            if offset - timing.offset > FORWARD_NS:
                timing.jumps.append((timing.last, stamp))
        timing.last = max(timing.last, stamp)

    def _image(self, source: Source, message: Stored, stamp: int, timing: Timing) -> None:
        timing.stamps.append(stamp)
        if source.kind == "packets":
            packet = self._picture(source, message)
            if packet is not None and is_key_packet(packet):
                timing.keys.append((stamp, message.received_ns))

    def _first_pictures(self, topics: set[str]) -> None:
        """Sizes of cameras whose pictures are no packets; later, only the beginnings of their messages are read."""
        waiting = set(topics)
        while waiting:  # those that are found leave, so that the others' search reads no more of theirs
            for message in self._bag.messages(waiting):
                if self._picture(self._sources[message.topic], message) is not None:
                    waiting.discard(message.topic)
                    break
            else:
                return

    def _picture(self, source: Source, message: Stored) -> Any | None:
        """The message of a camera, None if it is damaged; its size is kept if it is the first."""
        try:
            picture = self._bag.deserialize(message)
            if source.name not in self._scan.sizes:
                self._scan.sizes[source.name] = self._size(source, picture)
        except MessageError:
            return None  # the second pass passes over it and says so
        except BagError:
            if self._bag.topics[source.topic].type in self._bag.type_problems:
                raise
            return None
        return picture

    def _size(self, source: Source, message: object) -> tuple[int, int]:
        if source.kind == "compressed":
            height, width = decode_image(message, source.name).shape[:2]
        else:
            height, width = int(message.height), int(message.width)
        if height <= 0 or width <= 0:
            raise MessageError(f"{source.name}: the picture is {width}x{height}")
        camera = self._options.profile.cameras[source.name]
        whole = np.broadcast_to(np.uint8(0), (height, width, 3))  # no memory: only its size is looked at
        return prepare_image(whole, camera).shape[:2]

    def _number(self, source: Source, message: Stored, stamp: int) -> None:
        content = self._read(message)
        if content is None:
            return
        value = float(content.data)
        changes = self._scan.changes.setdefault(source.name, [])
        if math.isfinite(value) and (not changes or changes[-1][1] != value):
            changes.append((stamp, value))

    def _event(self, message: Stored) -> None:
        event = self._read(message)
        if event is None:
            return
        stamp = self._robot_time(stamp_ns(event), message)
        index = self._index_at(stamp)
        facts = (event.episode_id, int(event.event), int(event.outcome), event.task, event.label)
        self._scan.events.append(Event(index, stamp, *facts))

    def _mark(self, message: Stored) -> None:
        joy = self._read(message)
        if joy is None:
            return
        stamp = self._robot_time(stamp_ns(joy), message)
        for start in self._buttons.pressed(list(joy.buttons)):
            self._scan.marks.append(Mark(self._index_at(stamp), stamp, start))

    def _read(self, message: Stored) -> Any | None:
        """A message's content; None if it is garbled, which is counted.

        Raises:
            BagError: no message of the topic can be read, as its type is unknown.
        """
        try:
            return self._bag.deserialize(message)
        except BagError as error:
            if self._bag.topics[message.topic].type in self._bag.type_problems:
                raise
            unreadable = self._scan.unreadable
            unreadable[message.topic] = unreadable.get(message.topic, 0) + 1
            self._why_unreadable.setdefault(message.topic, str(error))
            return None

    def _robot_time(self, stamp: int, message: Stored) -> int:
        """When a mark or an event happened, by the clock of the robot's stamps.

        A recorder or a button box may have another clock than the robot (a simulation's, say). Then the time of
        reception counts, moved by as much as the robot's newest stamp is from its own: clocks may also drift apart.
        """
        timings = self._stretch(message).timings.values()
        offset = max(timings, key=lambda t: t.last).offset if timings else self._scan.clock_offset_ns
        if stamp and abs(stamp - message.received_ns - offset) <= OTHER_CLOCK_NS:
            return stamp
        if stamp:
            self._other_clock[message.topic] = self._other_clock.get(message.topic, 0) + 1
        return message.received_ns + offset

    def _index_at(self, stamp: int) -> int:
        """The stretch of a mark: the newest, unless the clock has just jumped back and the mark is from before."""
        stretches = self._scan.stretches
        newest = max((t.last for t in stretches[-1].timings.values()), default=None)
        if len(stretches) > 1 and newest is not None and stamp > newest + BACK_NS:
            return len(stretches) - 2
        return len(stretches) - 1


class _Buttons:
    """Rising edges of the two buttons; one that is held when the recording begins is no press."""

    def __init__(self, marks: MarksProfile) -> None:
        self._buttons = {marks.start_button: True, marks.stop_button: False}
        self._before: list[int] | None = None

    def pressed(self, buttons: list[int]) -> list[bool]:
        before, self._before = self._before, buttons
        if before is None:
            return []
        down = [i for i in self._buttons if i < len(buttons) and buttons[i] and not (i < len(before) and before[i])]
        return [self._buttons[i] for i in down]
