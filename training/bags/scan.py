"""The first pass over a recording: what is in it and when, without decoding a picture or reading a joint.

Only stamps are read, at fixed places of the serialised messages, so the pass costs little more than reading the file.
A recording falls into *stretches*: within one, stamps only move on; where they jump back, another begins.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pi05_progress.robots.packets import is_key_packet
from pi05_progress.robots.profile import RobotProfile

from .clocks import apart
from .faults import BagError
from .inputs import Actions, Inputs, choose_inputs
from .markers import Contents, Event, Mark, Markers
from .picture_sizes import PictureSizes
from .reading import Bag
from .stretches import OTHER_CLOCK_NS, Stretch, Timeline, header_stamp_ns


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
        return _scanned(bag, inputs, options)


def _scanned(bag: Bag, inputs: Inputs, options: ScanOptions) -> Scan:
    offset_ns = _clock_offset_ns(bag, inputs)
    timeline, contents = Timeline(offset_ns, options.max_gap_ns), Contents(bag)
    pictures = PictureSizes(bag, options.profile)
    markers = Markers(contents, timeline, options.profile.marks)
    changes: dict[str, list[tuple[int, float]]] = {}
    sources = {source.topic: source for source in inputs.sources.values()}
    # Once the size of whole pictures is known, only the beginnings of their messages are read.
    stills = {source.topic: source for source in inputs.of_role("camera") if source.kind != "packets"}
    pictures.find(stills)
    topics = inputs.topics() | {topic for topic in (inputs.events, inputs.marks) if topic}
    for message in bag.messages(topics, heads=set(stills)):
        source = sources.get(message.topic)
        if source is None:
            (markers.event if message.topic == inputs.events else markers.mark)(message)
            continue
        stamp, timing = timeline.sample(source, message)
        if source.role == "camera":
            timing.stamps.append(stamp)
            packet = pictures.read(source, message) if source.kind == "packets" else None
            if packet is not None and is_key_packet(packet):
                timing.keys.append((stamp, message.received_ns))
        elif source.kind == "number" and (content := contents.read(message)) is not None:
            _note_change(changes.setdefault(source.name, []), stamp, float(content.data))
    breaks = [(a + offset_ns, b + offset_ns) for a, b in bag.jumps_back()]
    return Scan(
        bag.path,
        inputs,
        timeline.stretches,
        breaks,
        markers.marks,
        markers.events,
        pictures.sizes,
        changes,
        offset_ns,
        contents.unreadable,
        bag.cut_off,
        [*bag.notes, *_notes(inputs, timeline, contents, breaks, offset_ns)],
    )


def _clock_offset_ns(bag: Bag, inputs: Inputs) -> int:
    """How far stamps are from times of reception, where they are of different clocks; else 0."""
    topic = inputs.of_role("state")[0].topic
    first = islice(bag.messages({topic}), 50)
    pairs = [(header_stamp_ns(m.data), m.received_ns) for m in first if len(m.data) >= 12]
    offsets = [stamp - received for stamp, received in pairs if stamp]
    offset = round(statistics.median(offsets)) if offsets else 0
    return offset if abs(offset) > OTHER_CLOCK_NS else 0


def _note_change(changes: list[tuple[int, float]], stamp: int, value: float) -> None:
    if math.isfinite(value) and (not changes or changes[-1][1] != value):
        changes.append((stamp, value))


def _notes(
    inputs: Inputs, timeline: Timeline, contents: Contents, breaks: list[tuple[int, int]], offset_ns: int
) -> list[str]:
    """What is odd about the recording."""
    notes = [f"{name}: nothing was recorded; its entries are 0" for name in inputs.absent]
    notes += [
        f"{topic}: {count} messages cannot be read and are passed over: {contents.why[topic]}"
        for topic, count in contents.unreadable.items()
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
    for stretch in timeline.stretches:
        if note := apart({name: timing.offsets.median_ns() for name, timing in stretch.timings.items()}):
            notes.append(note)
    return notes
