"""docs/gpu.md, written from results and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

HEAD = """# What a GPU does with it

Written by `python benchmarks/gpu.py --page FILE...` from the results named below: change those, not this page. One
command measures a machine, from a bare checkout and without a network (`--help`; `make bench-bare` tries it on a CPU):

    python benchmarks/gpu.py --json benchmarks/results/MACHINE.json

Models have random parameters. An inference is one compiled program from pictures on the host to actions (10 steps) and
progress on the device, awaited. Shares of the roofline are floor over median: the floor is what the matrix products and
the bytes that must be read would take at the card's peaks, for the prefix and for every step whichever is longer. MFU
counts the products of loss and gradient once, whatever is computed again. On a CPU training steps are not optimised.
Memory is what the compiled program reserves, arguments included; beside it the most that the process had in use.
"""
NO_GPU = "**No GPU has been measured yet.** What follows was computed on CPUs, to show that everything runs."
Row = dict[str, Any]


def write_page(path: Path, files: Sequence[Path]) -> None:
    """Write the page from results, GPUs first."""
    results = [(file, json.loads(file.read_text(encoding="utf-8"))) for file in files]
    results.sort(key=lambda pair: (pair[1]["platform"] == "cpu", pair[1]["variant"] != "pi05", pair[0].name))
    parts = [HEAD]
    if all(result["platform"] == "cpu" for _, result in results):
        parts.append(NO_GPU + "\n")
    parts += [_section(file, result) for file, result in results]
    path.write_text("\n".join(parts), encoding="utf-8")


def _section(file: Path, result: Row) -> str:
    on_cpu = result["platform"] == "cpu"
    title = f"{result['device'] or 'no device'}{' (a CPU, not a GPU)' if on_cpu else ''}: `{result['variant']}`"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    memory = result["device_memory_bytes"]
    driver = "no GPU driver" if on_cpu else f"driver {result['driver'] or 'unknown'}"
    driver += f", {memory / 1e9:.1f} GB" if memory else ""
    limit = f", JAX limited to {result['limit_memory_gb']:g} GB" if result["limit_memory_gb"] else ""
    about = f"`{file.name}`, {result['date']}; {driver}{limit}; load at start {result['load_at_start']}; {versions}."
    of: dict[str, list[Row]] = {part: [] for part in result["parts"]}
    for row in result["rows"]:
        of[row["part"]].append(row)
    if "error" in result:
        return f"## {title}\n\n{about}\n\n{result['error']}\n"
    blocks = [f"## {title}\n", about + "\n", _parts(result["parts"])]
    blocks += [SHOWN[part](part, rows) for part, rows in of.items() if rows and part in SHOWN]
    if result["limits"]:
        blocks.append(_limits(result["limits"]))
    return "\n".join(blocks)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines) + "\n"


def _number(value: float | None, form: str = ".1f", unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _instead(row: Row) -> str:
    """What a row says where it has no figures."""
    return f"left out: {row['left_out']}" if "left_out" in row else row.get("error", "").partition("\n")[0][:100]


def _remark(row: Row) -> str:
    """What must be known of a timed row beside its figures."""
    if row["median_ms"] is None:
        return f": {_instead(row)}"
    remarks = [
        row.get("disturbed"),
        "provisional" if row.get("provisional") else None,
        "NOT FINITE" if row.get("finite") is False else None,
    ]
    return "".join(f"; {remark}" for remark in remarks if remark)


def _giga(size: float | None) -> str:
    return _number(None if size is None else size / 1e9, ".2f")


def _parts(parts: dict[str, Row]) -> str:
    rows = [[name, p["status"], _number(p.get("seconds"), ".0f"), p.get("error", "")] for name, p in parts.items()]
    return _table(["part", "", "s", ""], rows)


def _timed(part: str, rows: list[Row]) -> str:
    def cells(row: Row) -> list[str]:
        rate = row["median_ms"] and 1e3 * row["batch"] / row["median_ms"]
        return [
            f"{row['name']}{_remark(row)}",
            _number(row["median_ms"]),
            _number(row["p99_ms"]),
            str(row.get("rounds", "-")),
            _number(rate, ".2f"),
            _number(row.get("ratio"), ".3f"),
            f"{_giga(row['peak_bytes'])}, {_giga(row.get('process_peak_bytes'))}",
            ", ".join(_number(row.get(f"difference_{what}"), ".1e") for what in ("actions", "progress")),
            _percent(row["roofline_share"]),
            f"{_percent(row.get('flop_share'))}, {_percent(row.get('memory_share'))}",
        ]

    heads = ["", "median, ms", "p99, ms", "rounds", "samples/s", "to the table's first", "reserved, high water, GB"]
    heads.append("largest difference of actions, of progress")
    last = "MFU" if part.startswith("training") else "of the roofline"
    return f"### {part}\n\n" + _table([*heads, last, "of FLOPs, of bandwidth"], map(cells, rows))


def _compared(part: str, rows: list[Row]) -> str:
    def cells(row: Row) -> list[str]:
        if "difference" in row:
            found = ", ".join(f"{key} {_number(value, '.1e')}" for key, value in row["difference"].items())
            bound = "-" if row["bound"] is None else f"{row['bound']:g}"
        elif "compared" in row:
            found, bound = f"{row['compared']} compared, {row['exceeded']} exceed", "each its own"
            found += "" if row["complete"] else " (cut off by the time)"
        else:
            found, bound = _instead(row), "-"
        return [row["name"], found, bound, {True: "kept", False: "EXCEEDED", None: "-"}[row.get("met")]]

    return f"### {part}\n\n" + _table(["", "relative difference", "bound", ""], map(cells, rows))


def _profiled(part: str, rows: list[Row]) -> str:
    text = f"### {part}\n\n"
    for row in rows:
        if "profile" not in row:
            timed = "" if row["median_ms"] is None else f"{_number(row['median_ms'])} ms; no profile "
            text += f"{row['name']}: {timed}{_instead(row)}\n"
            continue
        found = row["profile"]
        outside = row.get("outside_kernels_ms")
        outside = "" if outside is None else f"; outside of kernels {outside:.2f} ms of the median"
        flags = f"; XLA_FLAGS {row['xla_flags']}" if row["xla_flags"] else ""
        text += (
            f"{row['name']}: {_number(row['median_ms'])} ms, under the profiler {_number(row['profiled_ms'])} ms"
            f"{flags}. "
            f"{found['operations']} {found['kind']}: busy {found['busy_ms']:.2f} of {found['span_ms']:.2f} ms, "
            f"{found['gaps']} gaps of {found['idle_ms']:.2f} ms in all{outside}.\n\n"
        )
        kernels = [
            [f"`{k['name']}`", f"`{k['layer']}`", str(k["calls"]), f"{k['total_ms']:.3f}", _percent(k["share"])]
            for k in found["kernels"]
        ]
        text += _table(["largest", "layer", "calls", "ms in all", "share"], kernels) + "\n"
        gaps = [[f"{g['ms']:.3f}", f"`{g['after']}`", f"`{g['before']}`"] for g in found["largest_gaps"]]
        text += _table(["gap, ms", "after", "before"], gaps)
    return text


def _started(part: str, rows: list[Row]) -> str:
    def cells(row: Row) -> list[str]:
        steps = ", ".join(f"{name} {ms / 1e3:.1f}" for name, ms in row.get("steps_ms", {}).items())
        median = row["median_ms"]
        return [row["name"], _number(None if median is None else median / 1e3), steps or _instead(row)]

    return f"### {part}\n\n" + _table(["", "s from the process's start", "of it, s"], map(cells, rows))


def _limits(limits: list[Row]) -> str:
    def cells(limit: Row) -> list[str]:
        takes = limit.get("takes_bytes", {})
        largest = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in takes.items() if size >= 5e6)
        return [
            limit["name"],
            f"{limit['found_gb']:.2f}",
            _giga(limit.get("process_peak_bytes")),
            f"{limit['limit_gb']:g}",
            "kept" if limit["met"] else "EXCEEDED",
            largest,
        ]

    return "### memory\n\n" + _table(
        ["", "reserved, GB", "high water", "below", "", "what takes it, GB"], map(cells, limits)
    )


SHOWN: dict[str, Callable[[str, list[Row]], str]] = {
    "correctness": _compared,
    "golden": _compared,
    "inference": _timed,
    "inference_rest": _timed,
    "kernels": _profiled,
    "kernels_single": _profiled,
    "start": _started,
    "training_lora": _timed,
    "training_head": _timed,
    "training_full": _timed,
    "small_model": _timed,
}
