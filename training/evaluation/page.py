"""An evaluation for people, one HTML file with everything in it, and as JSON, in which unknown numbers are null."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..datasets.frames import Thumbnail
from ..report import charts
from ..report.charts import Band, Curve
from ..report.html_page import html_page, key, row, table
from .bootstrap import CONFIDENCE, Figure
from .evaluation import EpisodeResult, Evaluation
from .playbacks import DOUBLE, HALF, HELD, PAUSE, PLAIN, REVERSED
from .predictions import Track
from .summary import MEASURES, SOURCES, Measure
from .truth import PARTIAL, Truth

VERSION = 1  # of the JSON
BEST = 3  # episodes that are shown as best, and as worst
HEADINGS = {"raw": "raw (model)", "filtered": "filtered (estimator)", "temporal": "with memory", "clock": "clock"}
MORE_STYLE = """
td.figure { white-space:nowrap; font-variant-numeric:tabular-nums }
td.figure small { color:var(--soft); margin-left:6px }
.band { fill:var(--accent); fill-opacity:.18; stroke:none }
.filtered { fill:none; stroke:var(--accent); stroke-width:2.4; stroke-linejoin:round }
.raw { fill:none; stroke:var(--second); stroke-width:1.2; stroke-opacity:.85 }
.truth { fill:none; stroke:var(--ink); stroke-width:1.6; stroke-dasharray:6 4 }
.milestone { stroke:var(--soft); stroke-width:1; stroke-dasharray:2 3 }
.declared { stroke:var(--good); stroke-width:2 } .PARTIAL { color:var(--warn) }
details summary { cursor:pointer; color:var(--accent); margin:6px 0 }
"""
KEY = {
    "accent": "filtered, shaded: its 90 % interval",
    "second": "raw",
    "ink": "truth (dashed)",
    "soft": "milestones (dotted)",
    "good": "status became SUCCEEDED",
}


def number(figure: Figure, unit: str = "") -> tuple[str, str]:
    """A figure and its interval for people: three digits, or one and the unit; an unknown interval is empty."""
    digits = 1 if unit else 3
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f"[{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
    return f"{figure.value:.{digits}f} {unit}".strip(), interval


def page(
    evaluation: Evaluation,
    facts: Mapping[str, str],
    pictures: Mapping[int, Sequence[Thumbnail]],
    fps: float,
) -> str:
    """The whole page: facts about the run at the top, pictures of the episodes that are drawn, by index."""
    title = f"Progress: {facts.get('data set', '')}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _facts(evaluation, facts),
        "<p class='soft'>Figures are means over episodes unless they say otherwise; in brackets the 95 % interval of a "
        "bootstrap over episodes, of shares Wilson's. Definitions and sources: docs/evaluation.md of the code.</p>",
        "<h2>All tasks</h2>",
        _table(evaluation.total),
        _reliability(evaluation),
    ]
    for task, figures in evaluation.by_task.items():
        parts.append(f"<h2>{html.escape(task)}</h2>")
        if task in evaluation.wrong:
            parts.append(f"<p class='soft'>wrong instruction: {html.escape(evaluation.wrong[task])}</p>")
        parts.append(_milestones(evaluation.milestones.get(task, {})))
        parts.append(f"<details><summary>figures of this task</summary>{_table(figures)}</details>")
    return html_page(title, [*parts, _episodes(evaluation, pictures, fps)], MORE_STYLE)


def _facts(evaluation: Evaluation, facts: Mapping[str, str]) -> str:
    counts = Counter("success" if r.truth.success else "failure" for r in evaluation.episodes)
    shown = [(str(len(evaluation.episodes)), "episodes"), *((str(n), kind) for kind, n in counts.items())]
    items = "".join(f"<li><b>{value}</b>{what}</li>" for value, what in shown)
    rows = [f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in facts.items()]
    notes = "".join(f"<li class='usual'>{html.escape(note)}</li>" for note in evaluation.notes)
    return f"<ul class='facts'>{items}</ul>{table(rows)}<ul class='findings'>{notes}</ul>"


def measured(figures: Mapping[str, Figure]) -> Iterator[tuple[str, Measure, dict[str, Figure | None], str]]:
    """Every measure that has a figure: its section where that begins, figures by source, of how many episodes."""
    section = ""
    for measure in MEASURES:
        of = {source: figures.get(f"{measure.key}.{source}") for source in SOURCES}
        if any(of.values()):
            new, section = measure.section if measure.section != section else "", measure.section
            yield new, measure, of, counts({source: figure.episodes for source, figure in of.items() if figure})


def _table(figures: Mapping[str, Figure]) -> str:
    rows = []
    for section, measure, of, count in measured(figures):
        if section:
            rows.append(
                row((f"<b>{section}</b>", "better", *(HEADINGS[source] for source in SOURCES), "episodes"), "th")
            )
        cells = [("figure", _cell(measure, figure)) for figure in of.values()]
        rows.append(row((html.escape(measure.title), ("soft", measure.better), *cells, ("number", count))))
    return table(rows)


def _reliability(evaluation: Evaluation) -> str:
    """The share of moments at which a task was complete over the probability that was said of it."""
    even = Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "truth")
    kinds = {"filtered": "raw", "temporal": "filtered"}  # drawn as these are elsewhere
    drawn = [Curve(*curve, kinds[source]) for source, curve in evaluation.reliability.items()]
    return (
        "<h2>Is the task complete? What was said, and what was so</h2><p class='soft'>In tenths of the probability (to "
        "the right): the share of moments at which the task was complete. On the dashed line it is as it was said; "
        "thick with memory, thin without.</p>" + charts.curves([even, *drawn], 1.0, "reliability diagram", 300, unit="")
    )


def counts(by_source: Mapping[str, int]) -> str:
    """Of how many episodes a row is; of each column where they differ."""
    if len(set(by_source.values())) == 1:
        return str(next(iter(by_source.values())))
    return ", ".join(f"{source} {count}" for source, count in by_source.items())


def _cell(measure: Measure, figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return ""
    value, interval = number(figure, measure.unit)
    return value + (f"<small>{interval}</small>" if interval else "")


def _milestones(errors: Mapping[str, Mapping[str, float]]) -> str:
    if not errors:
        return ""
    rows = [row(("prediction minus truth at milestone", "raw", "filtered", "episodes"), "th")]
    for name, of in errors.items():
        values = [("figure", f"{of[kind]:+.3f}") for kind in ("raw", "filtered")]
        rows.append(row((html.escape(name), *values, ("number", f"{of['episodes']:.0f}"))))
    return table(rows)


def _episodes(evaluation: Evaluation, pictures: Mapping[int, Sequence[Thumbnail]], fps: float) -> str:
    ordered = sorted(evaluation.episodes, key=lambda r: (r.error, r.episode.index))
    best, worst = ordered[:BEST], ordered[BEST:][-BEST:][::-1]
    others = ordered[BEST : len(ordered) - len(worst)]
    parts = [
        "<h2>Episodes</h2><p class='soft'>In order of the filtered progress's mean error; failures by how far it went "
        "beyond their last milestone.</p>",
        key(KEY),
    ]
    for heading, results in (("Best", best), ("Worst", worst), ("Others, best first", others)):
        if results:
            parts.append(f"<h2>{heading}</h2>")
            parts += [_episode(r, pictures.get(r.episode.index, ()), fps) for r in results]
    return "\n".join(parts)


def _episode(result: EpisodeResult, pictures: Sequence[Thumbnail], fps: float) -> str:
    track, truth, index = result.tracks[PLAIN], result.truth, result.episode.index
    end = float(track.time_s[-1])
    outcome = "SUCCESS" if truth.success else "PARTIAL" if truth.rank == PARTIAL else "FAILURE"
    said = result.meta.outcome.value.lower() + (", partial" if truth.rank == PARTIAL else "")
    head = (
        f"<div class='head'><h3>Episode {index}</h3><span>{html.escape(result.episode.task)}</span>"
        f"<span class='{outcome}'>{said}</span><span class='soft'>{end:.1f} s · {_in_short(result)}</span></div>"
    )
    marks = [(frame / fps, name, "milestone") for name, frame, _ in truth.boundaries]
    if np.isfinite(declared_s := track.declared_s()):
        marks.append((declared_s, "status SUCCEEDED", "declared"))
    low, high = track.intervals[max(track.intervals)].T
    bands = [Band(track.time_s, low, high)]
    drawn = charts.curves(_lines(track, truth), end, f"progress over episode {index}", 220, bands, marks)
    strip = charts.strip(pictures, end, label=f"pictures of episode {index}", height=90) if pictures else ""
    return f"<section class='card' id='e{index}'>{head}{drawn}{strip}{_perturbed(result)}</section>"


def _lines(track: Track, truth: Truth) -> list[Curve]:
    lines = [Curve(track.time_s, track.raw, "raw"), Curve(track.time_s, track.filtered, "filtered")]
    known = [] if truth.reference is None else [Curve(track.time_s, truth.reference[track.frames], "truth")]
    return [*known, *lines]


def _in_short(result: EpisodeResult) -> str:
    figures = result.figures
    names = {"voc.filtered": "VOC", "mae_milestone.filtered": "milestone error", "mae_linear.filtered": "linear error",
             "failure_high.filtered": "highest", "failure_end.filtered": "at the end"}  # fmt: skip
    known = {title: figures.get(name, np.nan) for name, title in names.items()}
    found = [f"{title} {value:.3f}" for title, value in known.items() if np.isfinite(value)]
    declared_s, end_s = result.tracks[HELD].declared_s(), float(result.tracks[PLAIN].time_s[-1])
    if declared_s > end_s:
        found.append(f"SUCCEEDED {declared_s - end_s:.1f} s after the end")
    return " · ".join(found)


def _perturbed(result: EpisodeResult) -> str:
    """Filtered progress over the perturbed playbacks whose time differs; the others are in the figures."""
    parts = []
    for name in (PAUSE, REVERSED, HALF, DOUBLE):
        if (track := result.tracks.get(name)) is not None:
            lines, title = _lines(track, result.truth), name.replace("_", " ")
            drawn = charts.curves(lines, float(track.time_s[-1]), f"{title}, episode {result.episode.index}", 150)
            parts.append(f"<div class='camera'>{title}</div>{drawn}")
    return f"<details><summary>perturbed</summary>{''.join(parts)}</details>" if parts else ""


def record(evaluation: Evaluation, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is worth keeping, after the facts about the run: checkpoint, data set, settings."""
    return {
        "version": VERSION,
        "run": dict(facts),
        "confidence": CONFIDENCE,
        "measures": {m.key: {"title": m.title, "unit": m.unit, "better": m.better} for m in MEASURES},
        "notes": list(evaluation.notes),
        "stages_from": dict(evaluation.stages_from),
        "wrong_instructions": dict(evaluation.wrong),
        "total": {name: asdict(figure) for name, figure in evaluation.total.items()},
        "by_task": {task: {name: asdict(f) for name, f in of.items()} for task, of in evaluation.by_task.items()},
        "reliability": {of: [part.tolist() for part in curve] for of, curve in evaluation.reliability.items()},
        "at_milestones": _known(evaluation.milestones),
        "episodes": [_recorded(result) for result in evaluation.episodes],
    }


def _recorded(result: EpisodeResult) -> dict[str, Any]:
    track = result.tracks[PLAIN]
    return {
        "episode_index": result.episode.index,
        "task": result.episode.task,
        "outcome": str(result.meta.outcome),
        "source": result.meta.source,
        "figures": _known(result.figures),
        **{name: _known(getattr(track, name).round(5).tolist()) for name in ("time_s", "raw", "filtered")},
        "status": track.status.tolist(),
    }


def _known(value: Any) -> Any:
    """The same with None in place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: _known(of) for name, of in value.items()}
    if isinstance(value, list):
        return [_known(of) for of in value]
    return float(value) if math.isfinite(value) else None
