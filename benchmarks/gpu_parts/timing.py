"""Programs that are measured side by side, in rounds, and the rows they become."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from common.costs import Cost
from common.rounds import Row, measure

from pi05_progress.models.pi05 import Sample

from .context import Context

ROUNDS = {"least": 5, "most": 200}
SECONDS = {"pi05": 4.0, "tiny": 0.7}  # that a program is run for
BRIEF = {"pi05": 2.0, "tiny": 0.7}  # where there are many


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
        text: of the compiled program.

    What ``run`` returns must be finite, else the part fails.
    """

    run: Callable[[], Any]
    reserved: int
    cost: Cost
    floor_s: float | None
    progress: bool
    sample: Callable[[Any], Sample] = lambda result: result
    about: Mapping[str, Any] = field(default_factory=dict)
    text: Callable[[], str] = str


def measure_programs(
    context: Context,
    title: str,
    programs: Mapping[str, Program],
    rounds: int | None = None,
    seconds: Mapping[str, float] = SECONDS,
) -> None:
    """Run all in turn, round after round, and say a row for each; the first is what the others are compared to.

    A provisional row of a single round is said first: it stays if the rest takes too long.

    Args:
        context: of the part.
        title: of the printed table.
        programs: by the names of their rows.
        rounds: None takes as many as the time for each allows.
        seconds: by variant, that each program is run for.
    """
    if rounds is None:
        once = {}
        for program in programs.values():
            _seconds(program)  # the first run sets things up
        for name, program in programs.items():
            once[name] = _seconds(program)
            took = {"ms": 1e3 * once[name], "all_ms": [1e3 * once[name]]}
            _say(context, name, program, took, None, provisional=True)
        left = context.left_s() / 2
        most = min(ROUNDS["most"], int(min(seconds[context.variant] * len(programs), left) / sum(once.values())))
        # A slow program still gets a few rounds, if the time is enough for them and the warming up of ``measure``.
        rounds = max(1, most, min(ROUNDS["least"], int(left / sum(once.values())) - 1))
    finite: dict[str, bool] = {}

    def checked(name: str, result: Any) -> Sample:
        finite[name] = _is_finite(result)
        return programs[name].sample(result)

    table = {name: Row(p.run, p.cost, functools.partial(checked, name)) for name, p in programs.items()}
    found = measure(title, table, rounds)
    context.failed |= not all(finite.values())
    for name, program in programs.items():
        _say(context, name, program, found[name], finite[name])


def _say(
    context: Context, name: str, program: Program, took: Mapping[str, Any], finite: bool | None, **about: Any
) -> None:
    """A row, from times in ms; ``ratio`` and differences are there once all programs have been run side by side."""
    seconds, floor = took["ms"] / 1e3, program.floor_s
    context.row(
        name,
        median_ms=took["ms"],
        p99_ms=float(np.percentile(took["all_ms"], 99)),
        rounds=len(took["all_ms"]),
        samples_per_s=program.about["batch"] / seconds,
        ratio=took.get("ratio"),
        difference_actions=took.get("actions"),
        difference_progress=took.get("progress"),
        finite=finite,
        peak_bytes=program.reserved,
        process_peak_bytes=context.high_water(),
        roofline_share=None if floor is None else floor / seconds,
        floor_ms=None if floor is None else 1e3 * floor,
        flop_share=_share(context, program.cost.flops / seconds, "flops"),
        memory_share=_share(context, program.cost.bytes / seconds, "bandwidth"),
        gflop=program.cost.flops / 1e9,
        least_mb=program.cost.bytes / 1e6,
        progress=program.progress,
        **program.about,
        **about,
    )


def _is_finite(result: Any) -> bool:
    return all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(result))


def _seconds(program: Program) -> float:
    started = time.perf_counter()
    jax.block_until_ready(program.run())
    return time.perf_counter() - started


def _share(context: Context, rate: float, of: str) -> float | None:
    return None if context.peak is None or not rate else rate / getattr(context.peak, of)
