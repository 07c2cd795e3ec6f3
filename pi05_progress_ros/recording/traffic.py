"""What comes on the recorded topics: counted per episode, and judged by its rate. Used by one thread."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rosbags.interfaces import Connection

from pi05_progress.errors import UserError

from ..cameras.message_class import message_class
from ..inputs import same_kind

SLOW_SHARE = 0.7  # a rate below this share of the profile's is reported
FAST_SHARE = 1.5  # and one above this share, too: two senders, probably


@dataclass
class Topic:
    """One recorded topic; counters of the present episode and of the present watch period."""

    name: str  # under which it is recorded: the profile's, by which converters know it
    kind: type
    required: bool = False  # whether an episode without it is of no use
    # lowest and highest usual rate; 0 and infinity where nothing is known
    expected_hz: tuple[float, float] = (0.0, math.inf)
    connection: Connection | None = None  # of the episode's bag; None until its first message
    total: int = 0  # messages of the present episode
    recent: int = 0  # messages since the last look; also between episodes
    rate_hz: float = 0.0
    lost: int = 0  # messages that the middleware says it lost
    warned: str = ""  # what was wrong with its rate at the last look
    heard: str = ""  # its name after remapping, for people

    def __post_init__(self) -> None:
        self.heard = self.heard or self.name

    def begin_episode(self) -> None:
        """Count anew, for another bag."""
        self.connection, self.total, self.lost, self.warned = None, 0, 0, ""

    def rate_problem(self) -> str:
        """What is wrong with the rate at the last look; empty if nothing is."""
        low, high = self.expected_hz
        if not self.rate_hz:
            return "silent"
        if self.rate_hz < SLOW_SHARE * low:
            return f"at {self.rate_hz:.0f} Hz, expected {low:g} Hz or more"
        if self.rate_hz > FAST_SHARE * high:
            return f"at {self.rate_hz:.0f} Hz, expected {high:g} Hz or less: is there a second sender?"
        return ""


class Traffic:
    """All recorded topics together."""

    def __init__(self, topics: Iterable[Topic]) -> None:
        self.topics: Sequence[Topic] = list(topics)
        self._looked_s = time.monotonic()

    def begin_episode(self) -> None:
        """Count messages of another episode."""
        for topic in self.topics:
            topic.begin_episode()

    @property
    def messages(self) -> int:
        """How many came in the present episode."""
        return sum(topic.total for topic in self.topics)

    def silent(self) -> str:
        """What there is to say about required topics on which nothing came lately; empty if nothing."""
        silent = [topic.heard for topic in self.topics if topic.required and not topic.recent and not topic.rate_hz]
        return f"nothing comes on {', '.join(silent)}" if silent else ""

    def absent(self) -> list[str]:
        """Names of required topics on which nothing came in the present episode."""
        return [topic.heard for topic in self.topics if topic.required and not topic.total]

    def lost(self) -> dict[str, int]:
        """How many messages the middleware lost in the present episode, by topic."""
        return {topic.heard: topic.lost for topic in self.topics if topic.lost}

    def look(self) -> None:
        """Measure rates since the last look."""
        now = time.monotonic()
        since, self._looked_s = now - self._looked_s, now
        for topic in self.topics:
            topic.rate_hz, topic.recent = topic.recent / since, 0

    def changes(self) -> list[tuple[bool, str]]:
        """What the last look says about required topics that was not said before, and whether it is good news."""
        found = []
        for topic in self.topics:
            problem = topic.rate_problem() if topic.required else ""
            if problem and not same_kind(problem, topic.warned):
                found.append((False, f"{topic.heard} is {problem}"))
            elif topic.warned and not problem:
                found.append((True, f"{topic.heard} is at {topic.rate_hz:.0f} Hz again"))
            topic.warned = problem
        return found


def further_topic(text: str) -> Topic:
    """A topic given as ``NAME:PACKAGE/msg/TYPE``; a ``UserError`` if it is none, or the type is not installed."""
    name, _, kind = text.rpartition(":")
    if not name.startswith("/"):
        raise UserError(f"parameter topics: {text!r} is refused, expected /NAME:PACKAGE/msg/TYPE")
    return Topic(name, message_class(kind))
