"""Where episodes begin and end: one per recording, by the operator's buttons, or by ``EpisodeEvent``s."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pi05_progress.robots.episode_notes import ABORTED, CUT_OFF, HANDED_BACK, INVALID, JUDGED, TAKEN_OVER, VALID
from training.datasets.progress_meta import Outcome

from .first_pass import Scan
from .options import Mode
from .timeline import Event, Mark

START, STOP, MILESTONE = 0, 1, 2  # EpisodeEvent.event
KINDS = {
    STOP: "stop", MILESTONE: "milestone", INVALID: "not to imitate", VALID: "to imitate again",
    TAKEN_OVER: "taken over", HANDED_BACK: "handed back",
}  # fmt: skip
Phase = tuple[Event, Event | None]  # the events that begin and end it; None: it lasts to the episode's end
OUTCOMES = (Outcome.UNKNOWN, Outcome.SUCCESS, Outcome.FAILURE)  # by EpisodeEvent.outcome


@dataclass(frozen=True)
class Span:
    """A part of an episode within one stretch of the recording, ns; None reaches to the stretch's end."""

    stretch: int
    start_ns: int | None
    stop_ns: int | None


@dataclass(frozen=True)
class Candidate:
    """An episode as it is marked in a recording; whether it can be used is not known yet."""

    name: str  # unique within the recording
    spans: tuple[Span, ...]  # where it is; more than one if a clock jumped within it
    task: str = ""  # its instruction, as far as the recording says it
    outcome: Outcome = Outcome.UNKNOWN  # how it ended
    note: str = ""
    milestones: tuple[tuple[str, int, int], ...] = ()  # label, stretch and stamp in ns of each
    invalid: tuple[Phase, ...] = ()  # where actions are not to be imitated
    taken_over: tuple[Phase, ...] = ()  # where the operator commanded, not the policy


@dataclass
class Found:
    """Episodes of a recording, and why others are none."""

    mode: Mode
    candidates: list[Candidate] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)  # name, reason
    notes: list[str] = field(default_factory=list)


def find_episodes(scan: Scan, mode: Mode = "auto", keep_aborted: bool = False) -> Found:
    """The episodes of a recording; ``auto`` takes events if there are any, else marks, else the whole recording.

    Events that cannot be read count as events: without the one that began it, an episode is not the whole recording.
    """
    if mode == "auto":
        any_event = any(e.event == START for e in scan.events) or scan.unreadable.get(scan.inputs.events or "")
        mode = "events" if any_event else "marks" if scan.marks else "bag"
    if mode == "events":
        return _by_events(scan, keep_aborted)
    return _by_marks(scan) if mode == "marks" else _whole(scan)


def _whole(scan: Scan) -> Found:
    spans = tuple(Span(index, None, None) for index in range(len(scan.stretches)))
    note = f"{CUT_OFF}{scan.cut_off}" if scan.cut_off else ""
    return Found("bag", [Candidate("bag", spans, note=note)])


def _between(start: Mark | Event, stop: Mark | Event) -> tuple[Span, ...]:
    ends = {(start.stretch, 0): start.stamp_ns, (stop.stretch, 1): stop.stamp_ns}
    stretches = range(start.stretch, stop.stretch + 1)
    return tuple(Span(index, ends.get((index, 0)), ends.get((index, 1))) for index in stretches)


def _by_marks(scan: Scan) -> Found:
    found = Found("marks")
    start: Mark | None = None
    count = 0
    for mark in scan.marks:
        if mark.start:
            if start is not None:
                found.rejected.append((f"marks_{count - 1}", "started again before it was ended"))
            start, count = mark, count + 1
        elif start is None:
            found.notes.append("a stop mark without a start mark is passed over")
        else:
            found.candidates.append(Candidate(f"marks_{count - 1}", _between(start, mark)))
            start = None
    if start is not None:
        found.rejected.append((f"marks_{count - 1}", "no stop mark: the recording ends before the episode does"))
    if not scan.marks:
        found.notes.append("no marks: the operator's start button was never pressed")
    return found


def _by_events(scan: Scan, keep_aborted: bool) -> Found:
    found = Found("events")
    opened: dict[str, list[Event]] = {}
    if unknown := sorted({event.event for event in scan.events} - {START, *KINDS}):
        found.notes.append(f"episode events of kinds that are not known, {unknown}, are passed over")
    for event in (event for event in scan.events if event.event not in unknown):
        if event.event == START:
            if event.episode_id in opened:
                found.rejected.append((event.episode_id, "started again before it was stopped"))
            opened[event.episode_id] = [event]
        elif event.event == STOP and event.label.startswith(JUDGED):  # after the end: the operator overrules it
            found.candidates = [
                replace(of, outcome=outcome_of(event)) if of.name == event.episode_id else of for of in found.candidates
            ]
        elif event.episode_id not in opened:
            kind = KINDS[event.event]
            found.notes.append(f"a {kind} event of {event.episode_id}, which is not running, is passed over")
        elif event.event != STOP:
            opened[event.episode_id].append(event)
        elif event.label.startswith(ABORTED) and not keep_aborted:
            del opened[event.episode_id]
            found.rejected.append((event.episode_id, f"{event.label}; --keep-aborted takes it all the same"))
        else:
            taken = [candidate.name for candidate in found.candidates]
            found.candidates.append(_candidate(opened.pop(event.episode_id), event, taken))
    reason = "no stop event: the recording ends before the episode does"
    found.rejected += [(name, reason) for name in opened]
    if not scan.events:
        found.notes.append("no episode events")
    return found


def outcome_of(stop: Any) -> Outcome:
    """What a STOP event says of its episode; unknown, too, where it is none of those that are known."""
    return OUTCOMES[stop.outcome] if stop.outcome < len(OUTCOMES) else Outcome.UNKNOWN


def _candidate(events: Sequence[Event], stop: Event, taken: Sequence[str]) -> Candidate:
    start = events[0]
    name = start.episode_id or "event"
    return Candidate(
        next(unique for n in itertools.count(1) if (unique := f"{name}_{n}" if n > 1 else name) not in taken),
        _between(start, stop),
        stop.task or start.task,
        outcome_of(stop),
        stop.label,
        tuple((event.label, event.stretch, event.stamp_ns) for event in events[1:] if event.event == MILESTONE),
        tuple(_phases(events, INVALID, VALID)),
        tuple(_phases(events, TAKEN_OVER, HANDED_BACK)),
    )


def _phases(events: Sequence[Event], begin: int, end: int) -> Iterator[Phase]:
    """From each event of one kind to the next one of another."""
    begun: Event | None = None
    for event in events:
        if event.event == begin:
            begun = begun or event
        elif event.event == end and begun is not None:
            yield begun, event
            begun = None
    if begun is not None:
        yield begun, None
