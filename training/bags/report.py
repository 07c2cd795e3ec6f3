"""The report of a conversion: what was kept, what was dropped and why, as JSON and as a page to look at."""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pi05_progress.files.output_file import write_file

from ..report.html_page import html_page, row, table
from .planning import Entry, Plans
from .second_pass import Part

WITHOUT = ".report"  # of the folder beside a data set that did not come to be
JSON_NAME, HTML_NAME = "conversion_report.json", "conversion_report.html"
COLUMNS = {
    "rate_hz": "rate,&nbsp;Hz", "largest_gap_s": "largest&nbsp;gap,&nbsp;s", "mean_skew_ms": "skew,&nbsp;ms",
    "max_skew_ms": "most", "received": "messages", "used": "used", "held": "held", "duplicates": "duplicates",
    "late": "late", "bad": "bad",
}  # fmt: skip
STYLE = """
td, th { text-align:right } td:first-child, th:first-child { text-align:left }
.kept { color:var(--good) } .dropped { color:var(--bad) } .note { color:var(--soft) }
.warn { color:var(--warn); font-weight:600 }
.episode { border-top:1px solid var(--line); padding:.3em 0 1em } .shots { display:flex; gap:4px; margin:3px 0 }
.shots span { width:7.5em; color:var(--soft) } img { height:72px; border-radius:3px }
"""


def _data(settings: Mapping[str, Any], plans: Plans, fps: int) -> dict[str, Any]:
    """Everything about a conversion as plain data, but for pictures."""
    bags = [
        {
            "bag": str(scan.path),
            "episodes_by": episodes.mode,
            "topics": {name: source.topic for name, source in scan.inputs.sources.items()},
            "absent": list(scan.inputs.absent),
            "cut_off": scan.cut_off,
            "notes": [*scan.inputs.notes, *scan.notes, *episodes.notes],
            "timing": [_timing(stretch.timings) for stretch in scan.stretches],
        }
        for scan, episodes in zip(plans.scans, plans.found, strict=True)
    ]
    bags += [{"bag": bag, "failed": why} for bag, why in plans.failed.items()]
    kept = [part for entry in plans.entries for part in entry.parts]
    return {
        "settings": dict(settings),
        "episodes_kept": len(kept),
        "episodes_dropped": sum(not entry.parts for entry in plans.entries),
        "bags_failed": len(plans.failed),
        "frames": sum(part.frames for part in kept),
        "seconds": round(sum(part.frames for part in kept) / fps, 3),
        "frames_held": sum(facts["held"] for part in kept for facts in part.inputs.values()),
        "episodes": [_entry(entry, fps) for entry in plans.entries],
        "bags": bags,
    }


def _timing(timings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "messages": t.count,
            "rate_hz": round((t.count - t.duplicates - 1) / max((t.last - t.first) * 1e-9, 1e-9), 2),
            "seconds": round((t.last - t.first) * 1e-9, 3),
            "duplicates": t.duplicates,
            "out_of_order": t.disorder,
            "without_stamp": t.stampless,
            "stamp_minus_reception_ms": None if t.offset_ns is None else round(t.offset_ns * 1e-6, 3),
            "gaps": [[round((a - t.first) * 1e-9, 3), round((b - a) * 1e-9, 3)] for a, b in t.gaps[:100]],
        }
        for name, t in timings.items()
    }


def _entry(entry: Entry, fps: int) -> dict[str, Any]:
    parts = []
    for number, part in enumerate(entry.parts):
        data = {k: v for k, v in asdict(part).items() if k not in ("thumbnails", "picture_stats", "folder")}
        index = None if entry.first_index is None else entry.first_index + number
        parts.append({**data, "episode_index": index, "seconds": round(part.frames / fps, 3)})
    outcome = str(entry.candidate.outcome) if entry.candidate else ""
    return {
        "bag": str(entry.scan.path), "episode": entry.name, "task": entry.task, "outcome": outcome,
        "kept": bool(parts), "reasons": entry.reasons, "notes": entry.notes, "parts": parts,
    }  # fmt: skip


def report_without_data_set(output: Path) -> Path:
    """The folder of the report where no episode was kept, so that there is no data set to put it in."""
    real = output.resolve()
    return real.with_name(real.name + WITHOUT)


def write_report(root: Path, settings: Mapping[str, Any], plans: Plans, fps: int) -> None:
    """Write both files into a folder."""
    report = _data(settings, plans, fps)
    write_file(root / JSON_NAME, json.dumps(report, indent=1) + "\n")
    write_file(root / HTML_NAME, _page(report, plans.entries))


def remove_report(root: Path) -> None:
    """Remove a folder with both files, if it is there; whatever else is in it stays."""
    for name in (JSON_NAME, HTML_NAME):
        (root / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or somebody else's files are in it
        root.rmdir()


def _page(report: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """A summary, each episode with its inputs' rates, gaps and skews and with pictures, each recording."""
    text = html.escape
    lines = [
        "<h1>Conversion report</h1>",
        f"<p>{report['episodes_kept']} episodes kept, {report['episodes_dropped']} dropped, "
        f"{report['bags_failed']} recordings could not be used; {report['frames']} frames, "
        f"{report['seconds'] / 60:.1f} min, {report['frames_held']} pictures held for want of a nearer one.</p>",
        "<h2>Episodes</h2>",
    ]  # fmt: skip
    for entry, written in zip(entries, report["episodes"], strict=True):
        if not entry.parts:
            why = text("; ".join([*entry.reasons, *entry.notes]))
            lines.append(f"<div class='episode'><b class='dropped'>dropped</b> {text(entry.title)}: {why}</div>")
        for part, facts in zip(entry.parts, written["parts"], strict=True):
            lines += _part(entry, written["outcome"], part, facts)
    lines.append("<h2>Recordings</h2>")
    for bag in report["bags"]:
        if "failed" in bag:
            lines.append(f"<p><b class='dropped'>not used</b> {text(bag['bag'])}: {text(bag['failed'])}</p>")
        else:
            notes = "".join(f"<li>{text(note)}</li>" for note in bag["notes"])
            named = f"<p>{text(bag['bag'])}: episodes by {text(bag['episodes_by'])}</p>"
            lines.append(f"{named}<ul class='note'>{notes}</ul>")
    settings = text(json.dumps(report["settings"], indent=1))
    lines.append(f"<h2>Settings</h2><details><summary>show</summary><pre>{settings}</pre></details>")
    return html_page("Conversion report", lines, STYLE)


def _part(entry: Entry, outcome: str, part: Part, facts: Mapping[str, Any]) -> list[str]:
    text = html.escape
    which = f", part {part.part + 1} of {part.parts}" if part.parts > 1 else ""
    lines = [
        f"<div class='episode'><b class='kept'>episode {facts['episode_index']}</b> {text(entry.title)}{which} · "
        f"{facts['seconds']:.2f} s, {part.frames} frames · {text(entry.task)} · {outcome}"
    ]
    if part.milestones:
        steps = "; ".join(f"{text(label or 'milestone')} at frame {frame}" for label, frame in part.milestones)
        lines.append(f"<div class='note'>{steps}</div>")
    if part.not_to_imitate:
        lines.append(f"<div class='note'>{part.not_to_imitate} frames are not to be imitated</div>")
    lines += [f"<div class='warn'>{text(note)}</div>" for note in [*entry.reasons, *entry.notes]]
    for camera, shots in part.thumbnails.items():
        pictures = "".join(f"<img src='{shot}' alt=''>" for shot in shots)
        lines.append(f"<div class='shots'><span>{text(camera)}</span>{pictures}</div>")
    rows = [row(["input", *COLUMNS.values()], "th")]
    for name, of in part.inputs.items():
        rows.append(row([text(name), *(str(of[key]) for key in COLUMNS)]))
        if of["first_problem"]:
            rows.append(f"<tr><td class='note' colspan='11'>{text(of['first_problem'])}</td></tr>")
    return [*lines, f"<details><summary>inputs</summary>{table(rows)}</details></div>"]
