"""What operators and recorders marked in a recording: presses of buttons, and ``EpisodeEvent``s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pi05_progress.robots.messages import stamp_ns
from pi05_progress.robots.profile import MarksProfile

from .message_types import Stored
from .timeline import Timeline


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
    """Collects marks and events in the order of reception.

    Args:
        timeline: when they happened.
        profile: which buttons mark an episode.
    """

    def __init__(self, timeline: Timeline, profile: MarksProfile) -> None:
        self._timeline, self._buttons = timeline, _Buttons(profile)
        self.marks: list[Mark] = []
        self.events: list[Event] = []

    def add(self, message: Stored, content: Any) -> None:
        """An ``EpisodeEvent``, or a state of the operator's buttons."""
        stamp = self._timeline.robot_time(stamp_ns(content), message)
        stretch = self._timeline.index_at(stamp)
        if hasattr(content, "episode_id"):
            facts = (content.episode_id, int(content.event), int(content.outcome), content.task, content.label)
            self.events.append(Event(stretch, stamp, *facts))
        else:
            self.marks += [Mark(stretch, stamp, start) for start in self._buttons.pressed(list(content.buttons))]


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
