"""What a trace of JAX's profiler says about the device: which operations took how long, and when it did nothing.

The trace is the JSON that JAX writes beside its own format. A GPU is a process ``/device:GPU:N`` in it whose threads
``Stream #N(...)`` hold kernels and copies; other threads of it repeat them by layer. A CPU has no such process: there
the compiled program's operations are events with the argument ``hlo_op``, and loops hold those in them.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

LARGEST, GAPS = 20, 10  # that are listed
CONTAINERS = ("while", "call", "conditional")
NAME = 140  # characters of a kernel's name
Event = dict[str, Any]


class Operation(NamedTuple):
    """One event on the device; times in microseconds, ``layer`` is where in the model it comes from."""

    name: str
    start: float
    duration: float
    layer: str


def read_events(folder: Path) -> list[Event]:
    """The events of the one trace in a folder that JAX's profiler wrote.

    Raises:
        ValueError: there is none.
    """
    with gzip.open(find_trace(folder)) as file:
        return json.load(file)["traceEvents"]


def find_trace(folder: Path) -> Path:
    """The file of the one trace in a folder that JAX's profiler wrote.

    Raises:
        ValueError: there is none.
    """
    files = sorted(folder.rglob("*.trace.json.gz"))
    if not files:
        raise ValueError(f"{folder}: the profiler wrote no *.trace.json.gz")
    return files[-1]


def last_run(operations: list[Operation], runs: int) -> list[Operation]:
    """Those of the last of so many runs of a program; pauses between runs are longer than any within."""
    pauses: list[tuple[float, int]] = []
    end = operations[0].start if operations else 0.0
    for index, operation in enumerate(operations):
        pauses.append((operation.start - end, index))
        end = max(end, operation.start + operation.duration)
    longest = sorted(pauses[1:], reverse=True)[: runs - 1]
    return operations[max((index for _, index in longest), default=0) :]


def device_operations(events: Iterable[Event]) -> tuple[str, list[Operation]]:
    """What they are, and the operations in order of their start."""
    events = list(events)
    named = [e for e in events if e.get("ph") == "M"]
    gpus = {e["pid"] for e in named if e["name"] == "process_name" and e["args"]["name"].startswith("/device:GPU:")}
    first = min(gpus, default=None)
    streams = {
        e["tid"]
        for e in named
        if e["name"] == "thread_name" and e["pid"] == first and e["args"]["name"].startswith("Stream #")
    }
    spans = [e for e in events if e.get("ph") == "X"]
    if first is not None:
        kind, chosen = "GPU kernels and copies", [e for e in spans if e["pid"] == first and e["tid"] in streams]
    else:
        kind = "operations of XLA's CPU program, not kernels of a GPU"
        chosen = [e for e in spans if "hlo_op" in e.get("args", {}) and not e["name"].startswith(CONTAINERS)]
    found = [Operation(e["name"], float(e["ts"]), float(e.get("dur", 0.0)), _layer(e)) for e in chosen]
    return kind, sorted(found, key=lambda o: o.start)


def _layer(event: Event) -> str:
    given = event.get("args", {})
    return str(given.get("name") or given.get("tf_op") or given.get("hlo_op") or "")


def summary(kind: str, operations: list[Operation]) -> dict[str, Any]:
    """The largest operations by total time, and the gaps between them: what is in the file.

    Raises:
        ValueError: there are none.
    """
    if not operations:
        raise ValueError("the trace holds no operation of the device")
    totals: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for operation in operations:
        totals[operation.name, operation.layer].append(operation)
    busy, gaps = _gaps(operations)
    span = max(o.start + o.duration for o in operations) - operations[0].start
    by_total = sorted(totals.items(), key=lambda item: -sum(o.duration for o in item[1]))
    all_time = sum(o.duration for o in operations)
    return {
        "kind": kind,
        "operations": len(operations),
        "span_ms": span / 1e3,
        "busy_ms": busy / 1e3,
        "idle_ms": (span - busy) / 1e3,
        "gaps": len(gaps),
        "kernels": [
            {
                "name": name[:NAME],
                "calls": len(calls),
                "total_ms": sum(o.duration for o in calls) / 1e3,
                "share": sum(o.duration for o in calls) / all_time if all_time else 0.0,
                "layer": layer[-NAME:],
            }
            for (name, layer), calls in by_total[:LARGEST]
        ],
        "largest_gaps": [
            {"ms": length / 1e3, "after": after[:NAME], "before": before[:NAME]}
            for length, after, before in sorted(gaps, reverse=True)[:GAPS]
        ],
    }


def _gaps(operations: list[Operation]) -> tuple[float, list[tuple[float, str, str]]]:
    """Time in which anything runs, and the gaps in between: length, what ended last before, what begins after."""
    busy, gaps = 0.0, []
    last, end = operations[0], operations[0].start
    for operation in operations:
        if operation.start > end:
            gaps.append((operation.start - end, last.name, operation.name))
        stop = operation.start + operation.duration
        if stop > end:
            busy += stop - max(end, operation.start)
            last, end = operation, stop
    return busy, gaps
