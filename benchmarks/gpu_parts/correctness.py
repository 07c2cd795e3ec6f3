"""Whether the device computes the same numbers: as the CPU of the same machine, and as openpi's that were recorded.

The small model is compared in float32, with products in full precision, and in bfloat16; beside it float32 as a GPU
multiplies by default (TensorFloat-32), for which there is no bound. On a CPU actions of ``tiny`` in bfloat16 differ
from float32 by 2.6e-3: two devices that round at different places may differ by three times that, and not more. In
float32 only the order of sums differs, over ten steps. Golden sets have the bounds of the parity tools.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common.subjects import noise, random_model
from flax import nnx

from pi05_progress.models.config import tiny
from pi05_progress.parity import model, pytorch
from pi05_progress.parity.checks import Check
from pi05_progress.parity.program import find_sets
from training.parity import sets

from .context import Context
from .subjects import STEPS, padded, seen

GOLDEN = Path(__file__).resolve().parents[2] / "test/data/golden"
KINDS = [*model.KINDS, *sets.KINDS, *pytorch.KINDS]
TOKENS = 20
FULL = "highest"
CASES = (("float32", FULL, 5e-5), ("bfloat16", "default", 8e-3), ("float32", "default", None))
SMALLEST = "torch"  # this set comes first: one program, a quarter of what the others take to compile
WORST = 5  # checks that are listed


def small_models(context: Context) -> None:
    """``tiny`` on the device and on the CPU: actions of ten steps, and progress."""
    for dtype, precision, bound in CASES:
        name = f"tiny in {dtype}, products in {precision} precision"
        context.attempt(name, lambda: _compare(context, name, dtype, precision, bound))  # noqa: B023


def _compare(context: Context, name: str, dtype: str, precision: str, bound: float | None) -> None:
    config = dataclasses.replace(tiny(), compute_dtype=dtype)
    graph, parameters = nnx.split(random_model(config))
    given = (seen(config, 3, TOKENS, padded(TOKENS)), noise(config))

    def sample(p: nnx.State, observation: Any, start: Any) -> Any:
        found = nnx.merge(graph, p).sample(observation, noise=start, num_steps=STEPS)
        return {"actions": found.actions, "progress": found.progress.mean}

    with jax.default_matmul_precision(precision):
        answers = [_on(device, sample, (parameters, *given)) for device in (context.device, jax.devices("cpu")[0])]
    ours, theirs = answers
    spread = {key: _relative(ours[key], theirs[key]) for key in ours}
    met = None if bound is None else all(value <= bound for value in spread.values())  # NaN is not
    context.failed |= met is False
    context.row(name, difference=spread, bound=bound, met=met, progress=True, against="the CPU of the same machine")
    print(f"{name}: " + ", ".join(f"{key} {value:.1e}" for key, value in spread.items()) + f" (bound {bound})")


def _on(device: jax.Device, function: Callable, given: tuple) -> dict[str, np.ndarray]:
    with jax.default_device(device):
        return jax.device_get(jax.jit(function)(*jax.device_put(given, device)))


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Root mean square of the difference, relative to that of the numbers."""
    difference = np.asarray(ours, np.float64) - theirs
    return float(np.sqrt(np.mean(difference**2)) / np.sqrt(np.mean(np.asarray(theirs, np.float64) ** 2)))


def golden(context: Context) -> None:
    """Every set of recorded numbers that a model computes; those of transforms need no device."""
    for title, checker, key in sorted(find_sets([GOLDEN], KINDS)[0], key=lambda found: SMALLEST not in found[0]):
        context.attempt(title, lambda: _check(context, title, checker(key)))  # noqa: B023


def _check(context: Context, title: str, checks: Iterator[Check]) -> None:
    """One set, as much of it as there is time for: its programs are compiled one after the other, in a thread."""
    started, found = time.monotonic(), queue.Queue()
    threading.Thread(target=_produce, args=(checks, found), daemon=True).start()
    made, complete = [], True
    try:
        while (got := found.get(timeout=max(0.0, context.left_s()))) is not None:
            if isinstance(got, Exception):
                raise got
            made.append(got)
    except queue.Empty:
        complete = False
    compared = [check for check in made if not check.skipped]
    exceeded = [check for check in compared if not check.ok]
    context.failed |= bool(exceeded)
    context.row(
        title,
        compared=len(compared),
        exceeded=len(exceeded),
        met=not exceeded if compared else None,
        complete=complete,
        seconds=round(time.monotonic() - started, 1),
        worst=[
            {"name": c.name, "absolute": c.absolute, "relative": c.relative, "tolerance": str(c.tolerance)}
            for c in sorted(exceeded, key=lambda c: -c.relative)[:WORST]
        ],
    )
    print(f"{title}: {len(compared)} compared, {len(exceeded)} exceed their tolerance", flush=True)


def _produce(checks: Iterator[Check], found: queue.Queue) -> None:
    """Put all checks, None after the last, or the error that ended them."""
    try:
        with jax.default_matmul_precision(FULL):
            for check in checks:
                found.put(check)
        found.put(None)
    except Exception as error:  # whatever a damaged set or the device raises
        found.put(error)
