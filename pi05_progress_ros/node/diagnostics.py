"""The node's state as ``diagnostic_msgs``: rates and ages per input, inference, commands; with what to do about it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from ..commanding.commands import Situation
from ..commanding.state_machine import State
from ..inputs import Input

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SLOW_S = 1.0  # an inference that runs longer, and thrice as long as usual, is reported while it runs


@dataclass
class InferenceStats:
    """Counters of the inference thread; written by it, read by the diagnostics timer (single values, no lock)."""

    count: int = 0
    failures: int = 0
    skipped: int = 0  # images that came while an inference ran
    last_error: str = ""
    no_progress: str = ""  # why the newest answer has none
    busy_since_s: float | None = None  # monotonic, while the policy runs
    model_ms: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    overhead_ms: deque[float] = field(default_factory=lambda: deque(maxlen=200))

    def slow(self) -> str:
        """What there is to say about the present inference if it takes unusually long; empty if not."""
        since = self.busy_since_s
        usual_ms = float(np.median(list(self.model_ms))) if self.model_ms else 0.0
        limit_s = max(SLOW_S, 3e-3 * usual_ms)
        if since is None or time.monotonic() - since <= limit_s:
            return ""
        return f"the policy has been busy for more than {limit_s:.3g} s"


def _status(name: str, level: bytes, message: str, values: dict[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)


def _milliseconds(prefix: str, values: deque[float]) -> dict[str, object]:
    found = list(values)
    shares = (("median", 50), ("p99", 99))
    return {f"{prefix}_{name}_ms": f"{np.percentile(found, q):.1f}" if found else "-" for name, q in shares}


def input_statuses(node: str, inputs: Sequence[Input], problems: Sequence[str]) -> list[DiagnosticStatus]:
    """One entry per input."""
    now, entries = time.monotonic(), []
    for entry in inputs:
        own = [text for text in problems if text.startswith((f"{entry.name} ", f"{entry.name}:"))]
        level, text = (ERROR, own[0]) if own else (OK, "fresh")
        if not own and not entry.required and now - entry.changed_s > entry.max_age_s:
            level, text = WARN, "absent or silent; its values are taken as 0"
        age = f"{now - entry.arrived_s:.3f}" if entry.message is not None else "-"
        values = {"topic": entry.topic, "rate_hz": f"{entry.rate_hz():.1f}", "age_s": age, "messages": entry.count}
        entries.append(_status(f"{node}: input {entry.name}", level, text, values))
    return entries


def inference_status(node: str, stats: InferenceStats, waiting: str, values: dict[str, object]) -> DiagnosticStatus:
    """How the policy does."""
    level, text = OK, "running"
    if stats.last_error:
        level, text = ERROR, stats.last_error
    elif slow := stats.slow():
        level, text = WARN, slow
    elif stats.no_progress:
        level, text = WARN, f"running without progress: {stats.no_progress}"
    elif waiting or stats.count == 0:
        level, text = WARN, f"waiting: {waiting or 'no inference yet'}"
    counters = {"inferences": stats.count, "failures": stats.failures, "frames_skipped": stats.skipped}
    times = _milliseconds("policy", stats.model_ms) | _milliseconds("overhead", stats.overhead_ms)
    return _status(f"{node}: inference", level, text, values | counters | times)


def commands_status(node: str, allowed: bool, now: Situation) -> DiagnosticStatus:
    """In which state commanding is and why; ``allowed`` is the parameter ``publish_commands``."""
    level = OK if now.state in (State.ARMED, State.RUNNING) or not now.text else WARN
    message = f"{now.state.name}: {now.text}" if now.text else now.state.name
    if now.broken:
        level, message = ERROR, now.against[0]
    elif not allowed:
        level, message = OK, "off (publish_commands is false)"
    values = {
        "publish_commands": str(allowed).lower(),
        "state": now.state.name,
        "full_speed": str(now.full_speed).lower(),
        "against_arming": "; ".join(now.against),
    }
    return _status(f"{node}: commands", level, message, values)
