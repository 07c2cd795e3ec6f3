"""The node's state as ``diagnostic_msgs``: rates and ages per input, inference, commands; with what to do about it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from .inputs import Input


@dataclass
class InferenceStats:
    """Counters of the inference thread; written by it, read by the diagnostics timer (single values, no lock)."""

    count: int = 0
    failures: int = 0
    skipped: int = 0  # images of the trigger camera that came while an inference ran
    last_error: str = ""
    busy_since_s: float | None = None  # monotonic, while the policy runs
    model_ms: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    overhead_ms: deque[float] = field(default_factory=lambda: deque(maxlen=200))

    def busy_s(self) -> float:
        """How long the present inference has been running, s."""
        since = self.busy_since_s
        return 0.0 if since is None else time.monotonic() - since


def _status(name: str, level: bytes, message: str, values: dict[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)


def _milliseconds(values: deque[float]) -> dict[str, object]:
    found = list(values)
    if not found:
        return {"median_ms": "-", "p99_ms": "-"}
    return {"median_ms": f"{np.median(found):.1f}", "p99_ms": f"{np.percentile(found, 99):.1f}"}


def diagnostics(
    node: str,
    stamp: Time,
    *,
    inputs: list[Input],
    problems: tuple[str, ...],
    stats: InferenceStats,
    model_id: str,
    status: str,
    wanted: bool,
    reason: str,
) -> DiagnosticArray:
    """All of it.

    Args:
        node: its name, which comes first in every entry's.
        stamp: the time.
        inputs: the table of inputs.
        problems: what speaks against using them.
        stats: of the inference thread.
        model_id: which checkpoint.
        status: name of the present task status.
        wanted: whether commands were asked for.
        reason: why nothing is commanded.
    """
    now = time.monotonic()
    entries = []
    for entry in inputs:
        own = [text for text in problems if text.startswith(f"{entry.name} ")]
        level, text = (DiagnosticStatus.ERROR, own[0]) if own else (DiagnosticStatus.OK, "fresh")
        if not own and entry.message is None:
            level, text = DiagnosticStatus.WARN, "absent; its values are taken as 0"
        age = f"{now - entry.arrived_s:.3f}" if entry.message is not None else "-"
        values = {"topic": entry.topic, "rate_hz": f"{entry.rate_hz():.1f}", "age_s": age, "messages": entry.count}
        entries.append(_status(f"{node}: input {entry.name}", level, text, values))
    level, text = DiagnosticStatus.OK, "running"
    if stats.last_error:
        level, text = DiagnosticStatus.ERROR, stats.last_error
    elif stats.busy_s() > 1.0:
        level, text = DiagnosticStatus.WARN, f"the policy has been busy for {stats.busy_s():.1f} s"
    elif stats.count == 0:
        level, text = DiagnosticStatus.WARN, problems[0] if problems else "no inference yet"
    overhead = {f"overhead_{key}": value for key, value in _milliseconds(stats.overhead_ms).items()}
    values = {
        "model_id": model_id,
        "task_status": status,
        "inferences": stats.count,
        "failures": stats.failures,
        "frames_skipped": stats.skipped,
        **_milliseconds(stats.model_ms),
        **overhead,
    }
    entries.append(_status(f"{node}: inference", level, text, values))
    if not wanted:
        level, text = DiagnosticStatus.OK, "off (publish_commands is false)"
    else:
        level, text = (
            (DiagnosticStatus.WARN, f"holding still: {reason}") if reason else (DiagnosticStatus.OK, "commanding")
        )
    entries.append(_status(f"{node}: commands", level, text, {"publish_commands": wanted}))
    array = DiagnosticArray(status=entries)
    array.header.stamp = stamp
    return array
