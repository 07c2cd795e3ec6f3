"""Programs that are measured side by side, in rounds, and the rows they become."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from common.rounds import Row, measure

from pi05_progress.models.costs import Cost
from pi05_progress.models.pi05 import Sample

from .context import Context

ROUNDS = {"least": 5, "most": 200}
SECONDS = {"pi05": 4.0, "tiny": 0.7}  # that a program is run for


@dataclass(frozen=True)
class Program:
    """One row to be.

    Attributes:
        run: does it once; what it returns is awaited.
        reserved: bytes that it reserves on the device, arguments included, by the compiler.
        cost: floating point operations of its products, and bytes it must move at least.
        floor_s: the shortest time the device could take; None if its peaks are not known.
        progress: whether it gives progress, too, or learns it.
        sample: the part of its result that is compared with the first program's.
        about: further figures of the row, ``batch`` among them.
    """

    run: Callable[[], Any]
    reserved: int
    cost: Cost
    floor_s: float | None
    progress: bool
    sample: Callable[[Any], Sample] = lambda result: result
    about: Mapping[str, Any] = field(default_factory=dict)


def measure_programs(context: Context, title: str, programs: Mapping[str, Program], rounds: int | None = None) -> None:
    """Run all in turn, round after round, and say a row for each; the first is what the others' times are compared to.

    Args:
        context: of the part.
        title: of the printed table.
        programs: by the names of their rows.
        rounds: None takes as many as the time for each allows.
    """
    before = context.high_water()
    if rounds is None:
        once = _seconds(programs)  # the first run, which sets things up
        once = _seconds(programs)
        time_for_all = min(SECONDS[context.variant] * len(programs), context.left_s() / 2)
        rounds = max(ROUNDS["least"], min(ROUNDS["most"], int(time_for_all / once)))
    table = {name: Row(p.run, p.cost, p.sample) for name, p in programs.items()}
    found = measure(title, table, rounds)
    after = context.high_water()
    for name, program in programs.items():
        took = found[name]
        raised = after is not None and after > (before or 0)
        seconds = took["ms"] / 1e3
        context.row(
            name,
            median_ms=took["ms"],
            p99_ms=float(np.percentile(took["all_ms"], 99)),
            rounds=rounds,
            samples_per_s=program.about["batch"] / seconds,
            ratio=took["ratio"],
            peak_bytes=after if raised else program.reserved,
            peak_of="the process, all rows of the table" if raised else "the compiled program",
            reserved_bytes=program.reserved,
            roofline_share=None if program.floor_s is None else program.floor_s / seconds,
            floor_ms=None if program.floor_s is None else 1e3 * program.floor_s,
            flop_share=_share(context, program.cost.flops / seconds, "flops"),
            memory_share=_share(context, program.cost.bytes / seconds, "bandwidth"),
            gflop=program.cost.flops / 1e9,
            least_mb=program.cost.bytes / 1e6,
            progress=program.progress,
            **program.about,
        )


def _seconds(programs: Mapping[str, Program]) -> float:
    started = time.perf_counter()
    for program in programs.values():
        jax.block_until_ready(program.run())
    return time.perf_counter() - started


def _share(context: Context, rate: float, of: str) -> float | None:
    return None if context.peak is None or not rate else rate / getattr(context.peak, of)
