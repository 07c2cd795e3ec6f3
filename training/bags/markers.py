"""What operators and recorders marked in a recording: presses of buttons, and ``EpisodeEvent``s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pi05_progress.robots.messages import stamp_ns
from pi05_progress.robots.profile import MarksProfile

from .faults import BagError
from .reading import Bag, Stored
from .stretches import Timeline


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


class Contents:
    """Reads messages of which a garbled one is passed over, and counted.

    Args:
        bag: the recording, open.

    Attributes:
        unreadable: by topic, how many could not be read.
        why: by topic, why the first of them could not.
    """

    def __init__(self, bag: Bag) -> None:
        self._bag = bag
        self.unreadable: dict[str, int] = {}
        self.why: dict[str, str] = {}

    def read(self, message: Stored) -> Any | None:
        """A message's content; None if it is garbled.

        Raises:
            BagError: no message of the topic can be read, as its type is unknown.
        """
        try:
            return self._bag.deserialize(message)
        except BagError as error:
            if self._bag.topics[message.topic].type in self._bag.type_problems:
                raise
            self.unreadable[message.topic] = self.unreadable.get(message.topic, 0) + 1
            self.why.setdefault(message.topic, str(error))
            return None


class Markers:
    """Collects marks and events in the order of reception.

    Args:
        contents: of the recording.
        timeline: when they happened.
        profile: which buttons mark an episode.
    """

    def __init__(self, contents: Contents, timeline: Timeline, profile: MarksProfile) -> None:
        self._contents, self._timeline, self._buttons = contents, timeline, _Buttons(profile)
        self.marks: list[Mark] = []
        self.events: list[Event] = []

    def event(self, message: Stored) -> None:
        """An ``EpisodeEvent``."""
        event = self._contents.read(message)
        if event is None:
            return
        stamp = self._timeline.robot_time(stamp_ns(event), message)
        facts = (event.episode_id, int(event.event), int(event.outcome), event.task, event.label)
        self.events.append(Event(self._timeline.index_at(stamp), stamp, *facts))

    def mark(self, message: Stored) -> None:
        """A state of the operator's buttons."""
        joy = self._contents.read(message)
        if joy is None:
            return
        stamp = self._timeline.robot_time(stamp_ns(joy), message)
        for start in self._buttons.pressed(list(joy.buttons)):
            self.marks.append(Mark(self._timeline.index_at(stamp), stamp, start))


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
