"""Clocks of several computers: how far a topic's stamps are from their times of reception, and from other topics'."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

APART_NS = 50_000_000  # medians of two topics that differ by more are worth a remark
MOST = 512  # differences that are kept of a topic


@dataclass
class Offsets:
    """Differences of stamp and time of reception, ns: evenly spread ones of as many as there are, in little memory."""

    _kept: array = field(default_factory=lambda: array("q"))
    _every: int = 1
    _seen: int = 0

    def add(self, offset_ns: int) -> None:
        """The next message's difference."""
        if self._seen % self._every == 0:
            self._kept.append(offset_ns)
            if len(self._kept) == MOST:
                self._kept = self._kept[::2]
                self._every *= 2
        self._seen += 1

    def median_ns(self) -> int | None:
        """Their median; None without any."""
        return round(statistics.median(self._kept)) if self._kept else None


def apart(medians: Mapping[str, int | None]) -> str:
    """A remark on topics whose medians are more than ``APART_NS`` from each other; empty if there are none.

    Args:
        medians: per input, of stamp minus time of reception, ns; None where messages have no stamp.
    """
    known = {name: median for name, median in medians.items() if median is not None}
    if not known or max(known.values()) - min(known.values()) <= APART_NS:
        return ""
    middle = statistics.median_low(known.values())
    odd = {name: median - middle for name, median in known.items() if abs(median - middle) > APART_NS}
    odd = odd or {name: median - middle for name, median in known.items() if median != middle}
    parts = ", ".join(f"{name} by {abs(by) * 1e-6:.0f} ms" for name, by in odd.items() if by < 0)
    ahead = ", ".join(f"{name} by {by * 1e-6:.0f} ms" for name, by in odd.items() if by > 0)
    said = "; ".join(f"{text} {way}" for text, way in ((parts, "behind"), (ahead, "ahead")) if text)
    return (
        f"seen from the recorder, stamps of other inputs run apart: {said}. Either clocks of computers differ, and "
        "pictures and joints are out of step by as much, or these messages travel slowly, and nothing is wrong"
    )
