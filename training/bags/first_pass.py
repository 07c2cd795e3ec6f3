"""The first pass over a recording: what is in it and when, without decoding a picture or reading a joint.

Only stamps are read, at fixed places of the serialised messages, so the pass costs little more than reading the file.
A recording falls into *stretches*: within one, stamps only move on; where they jump back, another begins.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pi05_progress.robots.joints import MessageError
from pi05_progress.robots.messages import decode_image, prepare_image
from pi05_progress.robots.video_packets import crop, is_key_packet

from .faults import BagError, UnreadableError
from .finding import continues_another
from .inputs import Inputs, Source, Truth, choose_inputs, find_truth
from .message_types import Stored
from .options import Options
from .reading import Bag
from .timeline import OTHER_CLOCK_NS, Event, Mark, Markers, Stretch, Timeline, header_stamp_ns


@dataclass
class Scan:
    """What the first pass found out about one recording."""

    path: Path  # the recording
    inputs: Inputs  # topics that are used
    stretches: list[Stretch]  # see above
    breaks: list[tuple[int, int]]  # times, ns, that were recorded twice
    marks: list[Mark]  # in the order of reception
    events: list[Event]  # in the same order
    sizes: dict[str, tuple[int, int]]  # (height, width) of cameras' pictures, cropped and turned as the profile says
    changes: dict[str, list[tuple[int, float]]]  # per source that may pause, (stamp, number) where the number changed
    clock_offset_ns: int  # added to times of reception where messages have no stamp
    unreadable: dict[str, int]  # by topic, how many events, marks or numbers could not be read
    cut_off: str  # why the recording's beginning or end are known to be missing; empty if they are not
    notes: list[str]  # what is odd, for the report and the console; choices that were made are in ``inputs``
    undecodable: dict[str, str]  # by camera without a size, why its first picture cannot be decoded
    truth: Truth  # what only a simulation knows


def scan_bag(path: Path, options: Options, scratch: Path) -> Scan:
    """Read through a recording once; see ``Bag`` for ``scratch``."""
    with Bag(path, scratch) as bag:
        if not any(topic.used for topic in bag.topics.values()):
            raise BagError(f"{path}: the recording holds no messages")
        try:
            return _FirstPass(bag, options).scan()
        except BagError as error:
            raise BagError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


class _FirstPass:
    """One reading of a recording that is open."""

    def __init__(self, bag: Bag, options: Options) -> None:
        self._bag, self._profile = bag, options.profile
        self._inputs = choose_inputs(bag.topics, options)
        self._offset_ns = _clock_offset_ns(bag, self._inputs)
        self._timeline = Timeline(self._offset_ns, options.max_gap_ns)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._changes: dict[str, list[tuple[int, float]]] = {}
        self._unreadable: dict[str, list[str]] = {}  # by topic, why
        self._undecodable: dict[str, str] = {}

    def scan(self) -> Scan:
        """Read everything once, and whole pictures up to the first that is sound."""
        bag, inputs, timeline = self._bag, self._inputs, self._timeline
        markers = Markers(timeline, self._profile.marks)
        sources = inputs.by_topic()
        # Once the size of whole pictures is known, only the beginnings of their messages are read.
        stills = {source.topic: source for source in inputs.of_role("camera") if source.kind != "packets"}
        self._find_sizes(stills)
        topics = sources.keys() | {topic for topic in (inputs.events, inputs.marks) if topic}
        for message in bag.messages(topics, heads=set(stills)):
            if message.topic not in sources and (content := self._content(message)) is not None:
                markers.add(message, content)
            for source in sources.get(message.topic, ()):
                if source.role == "operator" and not markers.taken_over:
                    continue  # nobody needs it, whatever its clock
                stamp, timing = timeline.sample(source, message)
                if source.role == "camera":
                    timing.stamps.append(stamp)
                    if source.kind == "packets" and self._is_key(source, message):
                        timing.keys.append((stamp, message.received_ns))
                elif source.kind == "number" and (content := self._content(message)) is not None:
                    changes, value = self._changes.setdefault(source.name, []), float(content.data)
                    if math.isfinite(value) and (not changes or changes[-1][1] != value):
                        changes.append((stamp, value))
        for source in inputs.of_role("camera"):
            if source.kind == "packets" and source.name not in self._sizes and source.topic in self._unreadable:
                raise BagError(f"{source.name}: {self._unreadable[source.topic][0]}")
        breaks = [(a + self._offset_ns, b + self._offset_ns) for a, b in bag.jumps_back(topics)]
        notes = [*bag.notes, *bag.type_notes(topics), *self._notes(breaks)]
        if before := continues_another(bag.path):
            notes.append(f"it goes on with {before}; files of one recording are put into a folder of their own")
        unreadable = {topic: len(why) for topic, why in self._unreadable.items()}
        return Scan(
            bag.path, inputs, timeline.stretches, breaks, markers.marks, markers.events, self._sizes, self._changes,
            self._offset_ns, unreadable, bag.cut_off, notes, self._undecodable, find_truth(bag),
        )  # fmt: skip

    def _content(self, message: Stored) -> Any | None:
        """A message's content; None if it is garbled, which is counted."""
        try:
            return self._bag.deserialize(message)
        except UnreadableError as error:
            self._unreadable.setdefault(message.topic, []).append(str(error))
            return None

    def _is_key(self, source: Source, message: Stored) -> bool:
        """Whether decoding can begin at a packet; one that cannot be used is counted."""
        try:
            packet = self._bag.deserialize(message)
            key = is_key_packet(packet)
            if source.name not in self._sizes:
                self._sizes[source.name] = self._size(source, packet)
        except MessageError as error:
            self._unreadable.setdefault(message.topic, []).append(str(error))
            return False
        return key

    def _find_sizes(self, cameras: dict[str, Source]) -> None:
        """Look for a sound picture of these cameras, by topic, whose messages are whole pictures."""
        waiting = set(cameras)
        while waiting:  # those that are found leave, so that the others' search reads no more of theirs
            for message in self._bag.messages(waiting):
                source = cameras[message.topic]
                try:
                    self._sizes[source.name] = self._size(source, self._bag.deserialize(message))
                except MessageError as error:
                    self._undecodable.setdefault(source.name, str(error))
                    continue  # the second pass passes over it and says so
                waiting.discard(message.topic)
                break
            else:
                return

    def _size(self, source: Source, message: Any) -> tuple[int, int]:
        """(height, width) of a camera's picture, cropped and turned as the profile says."""
        if source.kind == "packets":
            height, width = int(message.height), int(message.width)
        else:
            height, width = decode_image(message, source.name).shape[:2]
        if height <= 0 or width <= 0:
            raise MessageError(f"{source.name}: the picture is {width}x{height}")
        whole = crop(np.broadcast_to(np.uint8(0), (height, width, 3)), source.box)  # no memory, only its size counts
        return prepare_image(whole, self._profile.cameras[source.name]).shape[:2]

    def _notes(self, breaks: list[tuple[int, int]]) -> list[str]:
        """What is odd about the recording."""
        timeline, offset_ns = self._timeline, self._offset_ns
        notes = [f"{name}: nothing was recorded; its entries are 0" for name in self._inputs.absent]
        notes += [
            f"{topic}: {len(why)} messages cannot be read and are passed over: {why[0]}"
            for topic, why in self._unreadable.items()
        ]
        notes += [
            f"{name}: {count} messages without a stamp; the time of reception is used"
            for name, count in timeline.stampless.items()
        ]
        notes += [
            f"{topic}: {count} messages stamped by another clock than the robot's; reception is used"
            for topic, count in timeline.other_clock.items()
        ]
        notes += [f"the recorder's clock was set back by {(b - a) * 1e-9:.1f} s" for a, b in breaks]
        notes += [stretch.why for stretch in timeline.stretches if stretch.why]
        if offset_ns:
            way = "ahead of" if offset_ns > 0 else "behind"
            notes.append(f"stamps are {abs(offset_ns) * 1e-9:.1f} s {way} the times of reception")
        return notes + [note for stretch in timeline.stretches if (note := stretch.clocks_apart())]


def _clock_offset_ns(bag: Bag, inputs: Inputs) -> int:
    """How far stamps are from times of reception, where they are of different clocks; else 0."""
    topic = inputs.of_role("state")[0].topic
    pairs = [(header_stamp_ns(m.data), m.received_ns) for m in islice(bag.messages({topic}), 50)]
    offsets = [stamp - received for stamp, received in pairs if stamp]
    offset = round(statistics.median(offsets)) if offsets else 0
    return offset if abs(offset) > OTHER_CLOCK_NS else 0
