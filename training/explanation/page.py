"""Findings and figures for people: tables that terminal and page show alike, and the page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..report.charts import Curve, curves
from ..report.html_page import html_page, key, row, table
from .answers import EXCHANGED
from .figures import NOT_MOVING, POLICY, SHOWN_ROWS, Figures
from .findings import Finding

STYLE = """
.policy { fill:none; stroke:var(--accent); stroke-width:2.4 }
.nobody { fill:none; stroke:var(--second); stroke-width:2 }
"""


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings that say their units."""

    title: str
    note: str
    headings: tuple[str, ...]
    rows: Sequence[Sequence[str | float | int]]

    def known(self) -> list[list[str | float | int | None]]:
        """The rows with None for what is not known."""
        return [[cell if isinstance(cell, str) or math.isfinite(cell) else None for cell in of] for of in self.rows]

    def shown(self) -> list[list[str]]:
        """The cells as text; what is not known is empty."""
        digits = [1 if heading.endswith("mm") else 3 for heading in self.headings]
        return [
            [
                f"{c:.{n}f}" if isinstance(c, float) else "" if c is None else str(c)
                for c, n in zip(of, digits, strict=True)
            ]
            for of in self.known()
        ]


def tables(figures: Figures) -> list[Table]:
    """All figures, the most telling ones first."""
    f, heads = figures, tuple(figures.by_row[0])
    picked = np.unique(np.linspace(0, len(f.row_s) - 1, SHOWN_ROWS).round().astype(int))
    dt_s = float(f.row_s[-1]) / max(len(f.row_s) - 1, 1)
    inputs = [*f.contributions.items(), (("everything", EXCHANGED), f.span)]
    motion = {
        "first row's distance from the present pose: policy, rad": f.first_row[0],
        "first row's distance from the present pose: data, rad": f.first_row[1],
        "share of the demonstrated way that chunks go": f.displacement[0],
        "cosine of the predicted and the demonstrated way": f.displacement[1],
        "data: distance of actions from the states of their frame, rad": f.following.distance_rad,
        "data: arms follow actions after, s": f.following.lag_s,
        "data: distance that is left then, rad": f.following.residual_rad,
        "data: motion of the arms in a second, rad": f.following.motion_rad,
    }
    return [
        Table("Moments", "Mean error of chunks, per joint of the arms and at the fingertips (forward kinematics).",
              ("moment", "frames", *heads), [(name, n, *e.values()) for name, (n, e) in f.by_moment.items()]),
        Table("What the answer is made of", "By how much the answer changes if one input does; gripper commands and "
              "progress are in [0, 1]. What the pose shown adds to relative actions does not count.",
              ("input", "replaced by", "arms, rad", "grippers", "progress"), [(*name, *c) for name, c in inputs]),
        Table("Rows of a chunk", "Error by the time from the chunk's beginning.", ("time, s", *heads),
              [(float(f.row_s[at]), *f.by_row[at].values()) for at in picked]),
        Table("Rows to execute", "Error if so many rows are executed before the next chunk, from demonstrated states; "
              "jump: from where the chunk would have gone on to the first row of the one that replaces it.",
              ("rows", "time, s", *heads, "jump, rad"),
              [(n, n * dt_s, *e.values(), jump) for n, (jump, e) in f.by_rows_executed.items()]),
        Table("Joints", "Mean error of chunks.", ("joint", *next(iter(f.by_joint.values()))),
              [(name, *e.values()) for name, e in f.by_joint.items()]),
        Table("Grippers", "When chunks close or open a gripper, against when the demonstration does.",
              ("what", "median delay, s", "share that do within the chunk", "frames"),
              [(name, *timing) for name, timing in f.timing.items()]),
        Table("Motion and data", "", ("figure", "value"), list(motion.items())),
    ]  # fmt: skip


def page(
    facts: Mapping[str, str], verdict: str, findings: Sequence[Finding], shown: Sequence[Table], figures: Figures
) -> str:
    """The whole page: what is wrong, then every figure."""
    title = f"Actions: {facts['data set']}"
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(verdict)}</p>", "<h2>What is wrong</h2>"]
    for number, finding in enumerate(findings, 1):
        parts.append(
            f"<section class='card'><h3>{number}. {html.escape(finding.text)}</h3><p>{html.escape(finding.remedy)}</p>"
            f"<p class='soft'>effect {finding.effect:.2f}, where standing still is 1</p></section>"
        )
    parts += [] if findings else ["<p>No rule found anything.</p>"]
    most = max(of[f"{actor}, rad"] for of in figures.by_row for actor in (POLICY, NOT_MOVING))
    lines = [
        Curve(figures.row_s, np.array([of[f"{actor}, rad"] for of in figures.by_row]) / max(most, 1e-9), kind)
        for actor, kind in ((POLICY, "policy"), (NOT_MOVING, "nobody"))
    ]
    said = f"Mean error per joint over the time of a chunk; 1 is {most:.3f} rad."
    parts += ["<h2>Error over the chunk</h2>", key({"accent": POLICY, "second": NOT_MOVING}, said)]
    parts.append(curves(lines, float(figures.row_s[-1]), "error over the chunk"))
    for of in [*shown, Table("Run", "", ("what", "which"), list(facts.items()))]:
        cells = [row((html.escape(first), *(("number", html.escape(c)) for c in rest))) for first, *rest in of.shown()]
        parts += [f"<h2>{of.title}</h2><p class='soft'>{of.note}</p>", table([row(of.headings, "th"), *cells])]
    return html_page(title, parts, STYLE)
