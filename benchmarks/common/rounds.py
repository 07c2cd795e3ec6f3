"""Programs run in turn, round after round, and the tables of what they took."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from common.costs import Cost

from pi05_progress.models.pi05 import Sample


@dataclass(frozen=True)
class Row:
    """One program of a table.

    Attributes:
        run: does it once; what it returns is awaited.
        cost: of its compiled program.
        sample: the part of its result that is compared with the reference.
    """

    run: Callable[[], Any]
    cost: Cost
    sample: Callable[[Any], Sample] = lambda result: result


def measure(
    title: str, rows: Mapping[str, Row], repeats: int, reference: Callable[[Mapping[str, Sample]], Sample] | None = None
) -> dict[str, dict[str, Any]]:
    """Run all rows once, then ``repeats`` rounds in turn; print the table and return it.

    Args:
        title: of the table.
        rows: the first is the one that others' times are compared with.
        repeats: rounds.
        reference: what outputs are compared with, from all rows' outputs; the first row's if None.

    Returns:
        Per row: ``ms`` (median), ``ratio`` (median over rounds of its time to the first row's), ``all_ms``, ``gflop``,
        ``mb``, and the largest differences of ``actions`` and ``progress``, None where there is nothing to compare.
    """
    outputs = {name: row.sample(jax.block_until_ready(row.run())) for name, row in rows.items()}
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, row in rows.items():
            started = time.perf_counter()
            jax.block_until_ready(row.run())
            times[name].append(1e3 * (time.perf_counter() - started))
    expected = reference(outputs) if reference else next(iter(outputs.values()))
    first = next(iter(times.values()))
    table = {}
    for name, row in rows.items():
        own = outputs[name]
        table[name] = {
            "ms": statistics.median(times[name]),
            "ratio": statistics.median(t / f for t, f in zip(times[name], first, strict=True)),
            "gflop": row.cost.flops / 1e9,
            "mb": row.cost.bytes / 1e6,
            "actions": _difference(own.actions, expected.actions),
            "progress": _difference(_mean(own), _mean(expected)),
            "all_ms": times[name],
        }
    _show(title, table)
    return table


def reserved_bytes(compiled: Any) -> int:
    """Bytes that a compiled program reserves on its device, arguments included."""
    found = compiled.memory_analysis()
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + found.temp_size_in_bytes + outputs


def _mean(sample: Sample) -> jax.Array | None:
    return None if sample.progress is None else sample.progress.mean


def _difference(ours: jax.Array | None, expected: jax.Array | None) -> float | None:
    if ours is None or expected is None:
        return None
    return float(np.abs(np.asarray(ours, np.float64) - np.asarray(expected, np.float64)).max())


def _show(title: str, table: Mapping[str, Mapping[str, Any]]) -> None:
    width = 36
    print(f"\n{title}\n{'':<{width}}{'ms':>10}{'ratio':>8}{'GFLOP':>12}{'MB':>11}{'actions +-':>12}{'progress +-':>13}")
    first = next(iter(table.values()))["ms"]
    for name, row in table.items():
        cells = f"{row['ms']:>10.{2 if first < 1e3 else 0}f}{row['ratio']:>8.3f}{row['gflop']:>12.4f}{row['mb']:>11.2f}"
        print(f"{name:<{width}}{cells}{_number(row['actions']):>12}{_number(row['progress']):>13}")


def _number(value: float | None) -> str:
    return "" if value is None else "nan" if math.isnan(value) else f"{value:.1e}"
