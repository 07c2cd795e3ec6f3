"""The page: what is wrong, then every figure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from ..report.charts import Curve, curves
from ..report.html_page import html_page, key, row, table
from .figures import NOT_MOVING, POLICY, Figures, Table
from .findings import Finding

STYLE = """
.policy { fill:none; stroke:var(--accent); stroke-width:2.4 }
.nobody { fill:none; stroke:var(--second); stroke-width:2 }
"""


def page(facts: Mapping[str, str], verdict: str, findings: Sequence[Finding], figures: Figures) -> str:
    """The whole page, with facts about the run at its end."""
    title = f"Actions: {facts['data set']}"
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(verdict)}</p>", "<h2>What is wrong</h2>"]
    for number, finding in enumerate(findings, 1):
        parts.append(
            f"<section class='card'><h3>{number}. {html.escape(finding.text)}</h3><p>{html.escape(finding.remedy)}</p>"
            f"<p class='soft'>effect {finding.effect:.2f}, where standing still is 1</p></section>"
        )
    parts += [] if findings else ["<p>No rule found anything.</p>"]
    shown = {"policy": figures.by_row[POLICY], "nobody": figures.by_row[NOT_MOVING]}
    most = max(errors.max() for errors in shown.values())
    lines = [Curve(figures.row_s, errors / max(most, 1e-9), kind) for kind, errors in shown.items()]
    said = f"Mean error per joint over the time of a chunk; 1 is {most:.3f} rad."
    parts += ["<h2>Error over the chunk</h2>", key({"accent": POLICY, "second": NOT_MOVING}, said)]
    parts.append(curves(lines, float(figures.row_s[-1]), "error over the chunk"))
    for of in [*figures.tables, Table("Run", "", ("what", "which"), list(facts.items()))]:
        cells = [row((html.escape(first), *(("number", html.escape(c)) for c in rest))) for first, *rest in of.shown()]
        parts += [f"<h2>{of.title}</h2><p class='soft'>{of.note}</p>", table([row(of.headings, "th"), *cells])]
    return html_page(title, parts, STYLE)
