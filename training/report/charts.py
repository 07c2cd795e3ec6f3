"""Charts as SVG text that takes its colours from the page's style: curves, bars, ranges, strips of pictures."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ..datasets.frames import Thumbnail
from ..labels.methods import runs

WIDTH = 1000
LETTER = 7  # about the width of one


@dataclass(frozen=True)
class Curve:
    """A line; it has gaps where ``y`` is NaN. ``kind`` is the class its style goes by."""

    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    kind: str = "line"


NOTHING = Curve(np.zeros(0), np.zeros(0))


@dataclass(frozen=True)
class Band:
    """The area between two lines."""

    x: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    kind: str = "band"


@dataclass(frozen=True)
class Range:
    """One row of a chart of ranges: where values lie (minimum, 1 %, 99 %, maximum) and where they may lie."""

    name: str
    limits: tuple[float, float] | None
    rows: Sequence[tuple[str, float, float, float, float]]  # kind, minimum, 1 %, 99 %, maximum


def _svg(height: float, parts: Iterable[str], label: str) -> str:
    label = html.escape(label, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _rect(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    inner = f"<title>{html.escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" class="{kind}">'
        f"{inner}</rect>"
    )


def _polylines(x: np.ndarray, y: np.ndarray, kind: str) -> str:
    """Lines between neighbours that are numbers; a single point becomes a short one."""
    parts = []
    for start, stop in runs(np.isfinite(y)):
        xs = x[start:stop] if stop - start > 1 else x[[start, start]] + [-3, 3]
        ys = y[start:stop] if stop - start > 1 else y[[start, start]]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))
        parts.append(f'<polyline points="{points}" class="{kind}"/>')
    return "".join(parts)


def ticks(high: float, about: int = 6) -> list[float]:
    """Round numbers from 0 to ``high``, about so many."""
    if high <= 0:
        return [0.0]
    rough = high / about
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(f for f in (1, 2, 5, 10) if f * power >= rough)
    return [float(t) for t in np.arange(0, high + 1e-9 * step, step)]


def curves(
    lines: Sequence[Curve],
    x_max: float,
    label: str,
    height: float = 240,
    bands: Sequence[Band] = (),
    marks: Sequence[tuple[float, str, str]] = (),
    unit: str = " s",
) -> str:
    """Lines of values in [0, 1] over time in seconds, before areas; marks are times with a name and a kind."""
    left, right, top, bottom = 44, 8, 8, 30
    width, tall = WIDTH - left - right, height - top - bottom
    x_max = max(x_max, 1e-9)
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = top + tall * (1 - share)
        parts += [_line(left, y, WIDTH - right, y, "grid"), _text(left - 8, y + 4, f"{share:g}", "tick", "end")]
    for t in ticks(x_max):
        x = left + width * t / x_max
        parts.append(_text(x, height - 10, f"{t:g}{unit}", "tick", "middle"))
    for band in bands:
        xs = left + width * np.concatenate([band.x, band.x[::-1]]) / x_max
        ys = top + tall * (1 - np.concatenate([band.high, band.low[::-1]]))
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<polygon points="{points}" class="{band.kind}"/>')
    for time, name, kind in marks:
        x = left + width * time / x_max
        title = f"<title>{html.escape(name)} at {time:.1f} s</title>"
        parts.append(_line(x, top, x, top + tall, kind).replace("/>", f">{title}</line>"))
    for line in lines:
        parts.append(_polylines(left + width * line.x / x_max, top + tall * (1 - line.y), line.kind))
    return _svg(height, parts, label)


def histogram(counts: Int[np.ndarray, " b"], label: str, height: float = 160) -> str:
    """Bars over equal parts of [0, 1]."""
    left, right, top, bottom = 64, 8, 8, 26
    width, tall, most = WIDTH - left - right, height - top - bottom, max(int(counts.max(initial=0)), 1)
    parts = []
    for t in ticks(most, 3):
        y = top + tall * (1 - t / most)
        parts += [_line(left, y, WIDTH - right, y, "grid"), _text(left - 8, y + 4, f"{t:g}", "tick", "end")]
    step = width / len(counts)
    for i, count in enumerate(counts.tolist()):
        title = f"{i / len(counts):.2f} to {(i + 1) / len(counts):.2f}: {count} frames"
        parts.append(
            _rect(left + i * step + 1, top + tall * (1 - count / most), step - 2, tall * count / most, "bar", title)
        )
    parts += [_text(left + width * s, height - 8, f"{s:g}", "tick", "middle") for s in (0, 0.25, 0.5, 0.75, 1)]
    return _svg(height, parts, label)


def ranges(rows: Sequence[Range], unit: str, label: str) -> str:
    """Per name where values lie, thick from 1 % to 99 % and thin to the extremes, before where they may lie."""
    ends = [v for row in rows for v in (*(row.limits or ()), *(x for r in row.rows for x in r[1:]))]
    low, high = min(ends, default=-1.0), max(ends, default=1.0)
    margin = 0.03 * (high - low) or 0.5  # where all values are the same, they are in the middle
    low, high = low - margin, high + margin
    left, right, row_height, bottom = 170, 10, 30, 26

    def at(value: float) -> float:
        return left + (WIDTH - left - right) * (value - low) / (high - low)

    height = row_height * len(rows) + bottom
    parts = []
    steps = [t for t in ticks(max(abs(low), abs(high)) * 2, 10) if t <= max(abs(low), abs(high))]
    for value in sorted({*steps, *(-t for t in steps)}):
        if low <= value <= high:
            parts += [_line(at(value), 0, at(value), height - bottom + 4, "grid"),
                      _text(at(value), height - 8, f"{value:g} {unit}", "tick", "middle")]  # fmt: skip
    for i, row in enumerate(rows):
        y = i * row_height + 4
        parts.append(_text(left - 12, y + 16, row.name, "name", "end"))
        if row.limits is not None:
            title = f"{row.name}: allowed {row.limits[0]:g} to {row.limits[1]:g} {unit}"
            parts.append(
                _rect(at(row.limits[0]), y, at(row.limits[1]) - at(row.limits[0]), row_height - 8, "limits", title)
            )
        for k, (kind, least, q01, q99, most) in enumerate(row.rows):
            middle = y + 6 + 10 * k
            title = f"{row.name} {kind}: {least:.3f} to {most:.3f}, 1 % to 99 %: {q01:.3f} to {q99:.3f} {unit}"
            parts.append(_line(at(least), middle, at(most), middle, f"reach {kind}"))
            parts.append(_rect(at(q01), middle - 3, max(at(q99) - at(q01), 2), 6, f"range {kind}", title))
            if row.limits is not None:
                beyond = [v for v in (least, most) if not row.limits[0] - 1e-3 <= v <= row.limits[1] + 1e-3]
                parts += [f'<circle cx="{at(v):.1f}" cy="{middle}" r="4" class="outside"/>' for v in beyond]
    return _svg(height, parts, label)


def strip(
    pictures: Sequence[Thumbnail],
    duration_s: float,
    *,
    label: str,
    curve: Curve = NOTHING,
    boundaries: Sequence[tuple[float, str]] = (),
    standstills: Sequence[tuple[float, float]] = (),
    jumps: Sequence[float] = (),
    height: float = 130,
) -> str:
    """Pictures along time with the progress curve over them.

    Args:
        label: for readers who cannot see it.
        boundaries: times and names of milestones.
        standstills: (from, to) in seconds, shaded at the bottom.
        jumps: seconds, marked at the top.
    """
    left, right, bottom = 34, 6, 24
    width, duration = WIDTH - left - right, max(duration_s, 1e-9)

    def at(time: float) -> float:
        return left + width * min(max(time / duration, 0.0), 1.0)

    def level(progress: np.ndarray | float) -> np.ndarray | float:
        return 6 + (height - 12) * (1 - progress)

    parts = [_rect(left, 0, width, height, "empty")]
    slot = width / max(len(pictures), 1)
    narrow = pictures and slot * pictures[0].image.shape[0] < 1.3 * height * pictures[0].image.shape[1]
    fit = "slice" if narrow else "meet"  # few pictures are shown whole, many fill their place
    for i, picture in enumerate(pictures):
        parts.append(
            f'<image x="{left + i * slot + 1:.1f}" y="0" width="{slot - 2:.1f}" height="{height:g}" class="picture" '
            f'preserveAspectRatio="xMidYMid {fit}" href="{picture.data_url()}"><title>{picture.time_s:.1f} s</title>'
            "</image>"
        )
    for share in (0, 0.25, 0.5, 0.75, 1) if len(curve.x) else ():
        y = float(level(share))
        parts.append(_line(left, y, WIDTH - right, y, "grid over"))
        if share in (0, 0.5, 1):
            parts.append(_text(left - 8, y + 4, f"{share:g}", "tick", "end"))
    for start, stop in standstills:
        title = f"stands still from {start:.1f} to {stop:.1f} s"
        parts.append(_rect(at(start), height - 10, at(stop) - at(start), 10, "still", title))
    ends: list[float] = []  # of the names in each line of them, so that none is written over another
    for time, name in boundaries:
        parts.append(_line(at(time), 0, at(time), height, "boundary"))
        x = min(at(time) + 5, WIDTH - right - LETTER * len(name))
        row = next((i for i, end in enumerate(ends) if end < x), len(ends))
        ends[row : row + 1] = [x + LETTER * len(name)]
        parts.append(_text(x, 16 + 15 * row, name, "boundary-name"))
    if len(curve.x):
        x, y = left + width * np.clip(curve.x / duration, 0, 1), level(curve.y)
        parts += [_polylines(x, y, "halo"), _polylines(x, y, "progress")]
    for time in jumps:
        x = at(time)
        parts.append(
            f'<path d="M {x - 6:.1f} 0 h 12 l -6 11 z" class="jump"><title>jump at {time:.1f} s</title></path>'
        )
    parts += [_text(at(t), height + 17, f"{t:g} s", "tick", "middle") for t in ticks(duration_s, 8)]
    return _svg(height + bottom, parts, label)
