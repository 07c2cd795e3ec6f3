"""Bars, small plots and numbers for a terminal: with block characters, or in ASCII. Imports no ROS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text


class Charset(NamedTuple):
    """Characters to draw with; ``ascii``: whether other text must be ASCII, too."""

    done: str  # of the bar: below the interval
    below: str  # from the interval's lower end to the value
    above: str  # from the value to its upper end
    rest: str
    ramp: str  # of a column of the plot, from least to full
    marks: str  # of diagnostics levels OK, WARN, ERROR, STALE
    more: str  # stands for what was cut off
    ascii: bool

    def clean(self, text: str) -> str:
        """Text of others on one line, without characters that would disturb the terminal."""
        text = "".join(c if c.isprintable() else " " for c in text)
        return text.encode("ascii", "replace").decode() if self.ascii else text


UNICODE = Charset("█", "▓", "░", "·", "▁▂▃▄▅▆▇█", "✓!✗?", "…", False)
ASCII = Charset("#", "=", "-", ".", ".:|", "+!x?", "~", True)

GAP = "   "  # between items in a line
_CONSOLE = Console(width=80, legacy_windows=False, color_system=None)  # only for its tab size when wrapping


def known(value: float) -> bool:
    """Whether a number of a message is known: NaN is not."""
    return math.isfinite(value)


def percent(value: float) -> str:
    """A share as ``42.0 %``; ``-`` if unknown."""
    return f"{100 * value:.1f} %" if known(value) else "-"


def duration(seconds: float) -> str:
    """As ``48 s``, ``3 min 20 s`` or ``1 h 05 min``; ``-`` if unknown."""
    if not known(seconds):
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def bar(value: float, lower: float, upper: float, width: int, charset: Charset, style: str) -> Text:
    """A progress bar of ``width`` cells with its interval; dots only if ``value`` (in [0, 1]) is NaN.

    An end of the interval that is NaN is taken to be the value. A cell belongs to where its middle lies.
    """
    if not known(value):
        return Text(charset.rest * width, style="dim")
    start = min(lower, value) if known(lower) else value
    end = max(upper, value) if known(upper) else value
    ends = [min(max(round(width * share), 0), width) for share in (start, value, end)]
    text = Text().append(charset.done * ends[0], style)
    text.append(charset.below * (ends[1] - ends[0]), style)
    text.append(charset.above * (ends[2] - ends[1]), style)
    return text.append(charset.rest * (width - ends[2]), "dim")


def plot(values: Sequence[float], rows: int, charset: Charset) -> list[str]:
    """Columns as high as ``values`` in [0, 1]; NaN is left empty and 0 still shows. Top row first."""
    steps, ramp = len(charset.ramp), f" {charset.ramp}"
    levels = [max(1, round(min(max(value, 0.0), 1.0) * rows * steps)) if known(value) else 0 for value in values]
    return ["".join(ramp[min(max(level - row * steps, 0), steps)] for level in levels) for row in reversed(range(rows))]


def columns(
    times_s: Sequence[float], values: Sequence[float], now_s: float, span_s: float, count: int, hold_s: float = 0.0
) -> list[float]:
    """The last known value in each of ``count`` equal parts of the last ``span_s`` seconds; NaN where there is none.

    A part in which nothing came, not even NaN, has the value before it, for up to ``hold_s``. The parts begin at
    multiples of their length, whenever it is drawn: what was drawn moves and does not flicker.
    """
    found: list[float | None] = [None] * count
    last = now_s * count // span_s
    for time_s, value in zip(times_s, values, strict=True):
        index = count - 1 - int(last - time_s * count // span_s)
        if 0 <= index < count and (known(value) or found[index] is None):
            found[index] = value
    filled, held, before = [], 0.0, math.nan
    for value in found:
        held = held + span_s / count if value is None else 0.0
        before = value if value is not None else before if held <= hold_s else math.nan
        filled.append(before)
    return filled


def wrapped(text: Text, width: int) -> list[Text]:
    """Broken into lines of at most ``width`` cells at spaces, within a word where there are none."""
    return list(text.wrap(_CONSOLE, max(width, 1))) or [Text()]


def flow(items: Iterable[Text], width: int) -> list[Text]:
    """Items beside one another as far as they fit, then on the next line; one that is too long for a line is broken."""
    lines: list[Text] = []
    for item in items:
        if lines and cell_len(lines[-1].plain) + len(GAP) + cell_len(item.plain) <= width:
            lines[-1].append(GAP).append_text(item)
        else:
            lines += wrapped(item, width)
    return lines or [Text()]


def cut(text: Text, width: int, charset: Charset) -> Text:
    """At most ``width`` cells, its end marked if it was longer."""
    text = text.copy()
    if cell_len(text.plain) > width:
        text.truncate(max(width - len(charset.more), 0))
        text.append(charset.more[:width])
    return text
