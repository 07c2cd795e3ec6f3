"""The page about a data set: one HTML file with everything in it, no scripts, no links to anywhere."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pi05_progress.files.json_file import read_json

from ..datasets import layout
from ..datasets.frames import Thumbnail
from ..datasets.progress_meta import Labels, Outcome
from ..datasets.reader import Dataset
from . import charts
from .charts import Curve, Range
from .html_page import html_page, key, row, table
from .summary import EpisodeSummary

BAD_FROM = 2.0  # severity of a finding
KINDS = {
    "standstill": "standstill",
    "jump": "jumps",
    "limits": "joints outside their limits",
    "clipping": "joints at their limits",
    "short": "short episodes",
    "long": "long episodes",
    "time": "time stamps that miss their frames",
    "labels": "odd labels",
    "numbers": "numbers that are not finite",
    "picture": "odd pictures",
    "failure": "failures",
    "cut off": "recordings that end before the task does",
}


PageEpisode = tuple[EpisodeSummary, Mapping[str, Sequence[Thumbnail]]]  # with its pictures, by camera


def page(
    dataset: Dataset,
    labels: Labels | None,
    summaries: Sequence[EpisodeSummary],
    shown: Sequence[PageEpisode],
    arm_ranges: Sequence[Range],
    gripper_ranges: Sequence[Range],
) -> str:
    """The whole page, with the pictures of the episodes shown, in their order, and ranges in rad and N m."""
    name = dataset.root.resolve().name
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        _facts(dataset, labels, summaries),
        _worth_a_look(summaries, {s.episode.index for s, _ in shown}),
        _labels(summaries, labels),
        _durations(summaries),
        _demonstrations(dataset),
        _ranges(arm_ranges, gripper_ranges),
        _episodes(shown, len(summaries)),
    ]
    return html_page(name, parts)


def _facts(dataset: Dataset, labels: Labels | None, summaries: Sequence[EpisodeSummary]) -> str:
    seconds = sum(s.episode.length for s in summaries) / dataset.fps
    outcomes = Counter(s.meta.outcome for s in summaries)
    labelled = sum(s.labelled for s in summaries)
    facts = [
        (len(summaries), "episodes"),
        (sum(s.episode.length for s in summaries), "frames"),
        (f"{seconds / 60:.1f}", "minutes"),
        (f"{dataset.fps:g}", "frames/s"),
        (len(dataset.tasks), "tasks"),
        (len(dataset.cameras), "cameras"),
        (dataset.info.get("robot_type") or "unknown", "robot"),
        (labels.method if labels else "none" if not labelled else "unknown", "labels"),
    ]
    items = "".join(f"<li><b>{html.escape(str(value))}</b>{what}</li>" for value, what in facts)
    said = ", ".join(f"<span class='{o}'>{outcomes[o]} {o.value.lower()}</span>" for o in Outcome)
    return f"<p class='soft'>Outcomes: {said}</p><ul class='facts'>{items}</ul>"


def _findings(summary: EpisodeSummary, usual: bool = True) -> str:
    items = []
    for finding in summary.findings:
        if finding.usual and not usual:
            continue
        kind = "usual" if finding.usual else "bad" if finding.severity >= BAD_FROM else ""
        items.append(f"<li class='{kind}'>{html.escape(finding.text)}</li>")
    return f"<ul class='findings'>{''.join(items)}</ul>" if items else ""


def _worth_a_look(summaries: Sequence[EpisodeSummary], shown: set[int]) -> str:
    flagged = sorted((s for s in summaries if s.suspicious), key=lambda s: -s.severity)
    usual = Counter(kind for s in summaries for kind in {f.kind for f in s.findings if f.usual})
    common = "".join(
        f"<p>Usual in this data set, so not told per episode: {KINDS[kind]} ({count} of {len(summaries)} episodes).</p>"
        for kind, count in usual.most_common()
    )
    if not flagged:
        return (
            f"<h2>Worth a look</h2>{common}<p>No episode differs from the others in standstill, jumps, clipping, "
            "length, labels or cameras.</p>"
        )
    rows = [row(("episode", "outcome", "duration", "what"), "th")]
    for s in flagged:
        index, outcome = s.episode.index, s.meta.outcome
        name = f"<a href='#e{index}'>{index}</a>" if index in shown else str(index)
        duration, found = ("number", f"{s.duration_s:.1f} s"), _findings(s, usual=False)
        rows.append(row((("number", name), (str(outcome), outcome.value.lower()), duration, found)))
    return f"<h2>Worth a look: {len(flagged)} of {len(summaries)} episodes</h2>{common}{table(rows)}"


def _labels(summaries: Sequence[EpisodeSummary], labels: Labels | None) -> str:
    if not any(len(s.times) for s in summaries):
        return (
            "<h2>Labels</h2><p>None. <code>python -m training.add_progress_labels</code> adds them "
            "(docs/labels.md says how).</p>"
        )
    frames, labelled = (sum(v) for v in zip(*((s.episode.length, s.labelled) for s in summaries), strict=True))
    said = ", ".join(f"{key} {value}" for key, value in labels.arguments.items()) if labels else ""
    method = f"Method {html.escape(labels.method)} ({html.escape(said)}). " if labels else ""
    parts = [
        f"<h2>Labels</h2><p>{method}{labelled} of {frames} frames are labelled ({100 * labelled / frames:.1f} %). "
        "How many frames there are at each progress:</p>",
        charts.histogram(sum(s.histogram for s in summaries), "frames by progress"),
    ]
    for task in dict.fromkeys(s.episode.task for s in summaries):
        own = [s for s in summaries if s.episode.task == task and len(s.times)]
        lines = [Curve(s.times, s.progress, f"line {s.meta.outcome}") for s in own]
        longest = max((s.duration_s for s in own), default=0.0)
        parts.append(f"<p><b>{html.escape(task)}</b>: progress over time, {len(own)} episodes, failures in red</p>")
        parts.append(charts.curves(lines, longest, f"progress over time, {task}"))
        if labels and labels.stages.get(task):
            shares = [(html.escape(stage.name), f"{100 * stage.share:.1f} %") for stage in labels.stages[task]]
            names, cells = zip(*shares, strict=True)
            parts.append(table([row(names, "th"), row(cells)]))
    return "\n".join(parts)


def _durations(summaries: Sequence[EpisodeSummary]) -> str:
    rows = [row(("task", "episodes", "shortest", "median", "longest", "total"), "th")]
    for task in dict.fromkeys(s.episode.task for s in summaries):
        of = np.array([s.duration_s for s in summaries if s.episode.task == task])
        seconds = [f"{v:.1f} s" for v in (of.min(), np.median(of), of.max(), of.sum())]
        rows.append(row((html.escape(task), str(len(of)), *seconds)))
    return f"<h2>Durations</h2>{table(rows)}"


def _demonstrations(dataset: Dataset) -> str:
    """What is to be imitated, and where objects are, by the data set's own statistics, as far as it says so."""
    known = {layout.DEMONSTRATION_VALID, layout.TRUTH_POSITIONS, layout.DEMONSTRATION_ACTIONS} & dataset.features.keys()
    if not known or not (dataset.root / layout.STATS).is_file():
        return ""
    stats, parts = read_json(dataset.root / layout.STATS), ["<h2>Demonstrations</h2>"]
    if layout.DEMONSTRATION_VALID in known:
        share = 100 * stats[layout.DEMONSTRATION_VALID]["mean"][0]
        parts.append(f"<p>{share:.1f} % of the frames are to be imitated; the others are mistakes, or pauses.</p>")
    if layout.DEMONSTRATION_ACTIONS in known:
        parts.append("<p>Every frame has the chunk that was right in it, whatever was executed.</p>")
    if layout.TRUTH_POSITIONS in known:
        names, of = dataset.features[layout.TRUTH_POSITIONS]["names"], stats[layout.TRUTH_POSITIONS]
        rows = [row(("position, m", "lowest", "mean", "highest"), "th")]
        for i, name in enumerate(names):
            rows.append(row((html.escape(name), *(f"{of[key][i]:.3f}" for key in ("min", "mean", "max")))))
        parts.append(table(rows))
    return "\n".join(parts)


def _ranges(arms: Sequence[Range], grippers: Sequence[Range]) -> str:
    colours = {"accent": "state", "second": "action", "limits": "allowed", "bad": "outside"}
    parts = []
    if arms:
        parts += ["<h2>State and action ranges</h2>", key(colours, "Thick: 1 % to 99 %, thin: all.")]
        parts.append(charts.ranges(arms, "rad", "ranges of joint positions"))
    if grippers:
        parts += ["<p>Gripper efforts</p>", charts.ranges(grippers, "N m", "ranges of gripper efforts")]
    return "\n".join(parts)


def _episodes(shown: Sequence[PageEpisode], total: int) -> str:
    left_out = f"; the {total - len(shown)} least conspicuous ones are left out" if len(shown) < total else ""
    parts = [f"<h2>Episodes</h2><p class='soft'>The most conspicuous first{left_out}. Yellow: progress. Dashed: "
             "milestones. Orange: standstill. Red: jumps.</p>"]  # fmt: skip
    for s, pictures in shown:
        outcome = f"<span class='{s.meta.outcome}'>{s.meta.outcome.value.lower()}</span>"
        extra = " · ".join(html.escape(text) for text in (s.meta.source, s.meta.note) if text)
        parts.append(
            f"<section class='card' id='e{s.episode.index}'><div class='head'><h3>Episode {s.episode.index}</h3>"
            f"<span>{html.escape(s.episode.task)}</span>{outcome}<span class='soft'>{s.duration_s:.1f} s, "
            f"{s.episode.length} frames{' · ' + extra if extra else ''}</span></div>{_findings(s)}"
        )
        parts += _strips(s, pictures)
        parts.append("</section>")
    return "\n".join(parts)


def _strips(s: EpisodeSummary, pictures: Mapping[str, Sequence[Thumbnail]]) -> list[str]:
    """A strip per camera; marks and curve are on the first only, so that the others can be seen."""
    parts = []
    fps = (s.episode.length - 1) / s.duration_s if s.duration_s else 1.0
    marks = [(m.frame / fps, m.label) for m in s.meta.milestones]
    shown = {"curve": Curve(s.times, s.progress), "boundaries": marks, "standstills": s.standstills, "jumps": s.jumps}
    for camera, of_camera in (pictures or {"": ()}).items():
        drawn = charts.strip(of_camera, s.duration_s, label=f"episode {s.episode.index}, {camera}", **shown)
        parts += [f"<div class='camera'>{html.escape(camera)}</div>" if camera else "", drawn]
        shown = {"height": 90}
    return parts
