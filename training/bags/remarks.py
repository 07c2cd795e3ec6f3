"""What a conversion tells whoever runs it of recordings and episodes, in a few lines. The report has it one by one."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence

from pi05_progress.errors import one_line

from .planning import Entry, Plans
from .second_pass import Part

MOST_LINES = 10
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def print_remarks(plans: Plans, kept: Collection[str], dropped: Sequence[Entry] = ()) -> None:
    """What cannot be used and was dropped, and why, and what is odd about recordings of which something is ``kept``.

    Remarks on these that differ only in numbers and files become one, with how many there are.
    """
    for bag, why in plans.failed.items():
        _say(f"not used: {why if bag in why else f'{bag}: {why}'}")
    for entry in dropped:
        _say(f"dropped: {entry.title}: {'; '.join([*entry.reasons, *entry.notes])}")
    usable = [entry for entry in plans.entries if str(entry.scan.path) in kept and (entry.parts or not entry.reasons)]
    remarks = [(entry.title, text) for entry in usable for text in (*entry.notes, *entry.reasons)]
    for scan, found in zip(plans.scans, plans.found, strict=True):
        if str(scan.path) in kept:
            remarks += [(scan.path.name, note) for note in (*scan.notes, *found.notes)]
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, text in remarks:
        alike.setdefault(_NUMBER.sub("0", text.replace(name.partition(" ")[0], "*")), []).append((name, text))
    lines = [*map(_line, alike.values()), *_lost([part for entry in usable for part in entry.parts])]
    if len(lines) > MOST_LINES:
        rest = len(lines) - MOST_LINES + 1
        lines = [*lines[: MOST_LINES - 1], f"and {rest} remarks of other kinds, which the report lists"]
    for line in ["kept, but", *(f"  {line}" for line in lines)] if lines else []:
        _say(line)


def _say(line: str) -> None:
    print(one_line(line, 2000), file=sys.stderr)


def _line(alike: Sequence[tuple[str, str]]) -> str:
    names = {name for name, _ in alike}
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{alike[0][0]}{others}: {alike[0][1]}"


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
