"""What a person should know of episodes that were kept, in a few lines. The report has it one by one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .convert import Part

MOST_LINES = 10
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Remark:
    """One remark on one recording or episode.

    Attributes:
        of: its name.
        text: the remark.
    """

    of: str
    text: str


def kept_but(remarks: Iterable[Remark], parts: Sequence[Part]) -> list[str]:
    """Lines for the console: remarks that differ only in numbers and files become one, with how many there are.

    Args:
        remarks: on recordings and episodes that were kept, the most important first.
        parts: the episodes that were made.
    """
    alike: dict[str, list[Remark]] = {}
    for remark in remarks:
        alike.setdefault(_kind(remark), []).append(remark)
    lines = [*map(_line, alike.values()), *_lost(parts)]
    if len(lines) > MOST_LINES:
        rest = len(lines) - MOST_LINES + 1
        lines = [*lines[: MOST_LINES - 1], f"and {rest} remarks of other kinds, which the report lists"]
    return lines


def _kind(remark: Remark) -> str:
    """The remark without its numbers and without its recording's name."""
    return _NUMBER.sub("0", remark.text.replace(remark.of.partition(" ")[0], "*"))


def _line(alike: Sequence[Remark]) -> str:
    names = list(dict.fromkeys(remark.of for remark in alike))
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{others}: {alike[0].text}"


def _lost(parts: Sequence[Part]) -> list[str]:
    """What did not come in time or could not be used, over all episodes."""
    lines = []
    for key, what, total in (
        ("held", "frames show the nearest picture for want of one of their own", "frames"),
        ("bad", "messages cannot be used", "received"),
        ("late", "messages came too late for their frames", "received"),
    ):
        counts: dict[str, list[int]] = {}
        for part in parts:
            for name, facts in part.inputs.items():
                of = part.frames if total == "frames" else facts["received"]
                so_far = counts.setdefault(name, [0, 0])
                counts[name] = [so_far[0] + facts[key], so_far[1] + of]
        if some := [f"{name} {number} of {of}" for name, (number, of) in counts.items() if number]:
            lines.append(f"{what}: {', '.join(some)}")
    return lines
