"""Where the time of one inference goes: the device's largest operations and its gaps, from JAX's profiler.

On a GPU the raw trace and the compiled program are kept beside the file of results, for a closer look.
"""

from __future__ import annotations

import gzip
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import jax

from .context import Context
from .inference import WITH, Case, Inference
from .subjects import inference_config
from .timing import Program
from .trace import device_operations, find_trace, last_run, read_events, summary

CASE = Case(3, 20, 1, (WITH,))
ROUNDS = {"pi05": 20, "tiny": 10}
TRACED = 3  # inferences in the trace, of which the last is looked at
PAUSE_S = 0.2  # between them: longer than any gap within one


def main(context: Context) -> None:
    """Three cameras, a short prompt; first the same inference without the profiler, which stays if that fails."""
    name = f"one inference, {CASE}"
    if context.on_cpu and context.variant == "pi05":
        context.row(name, left_out="it takes a CPU minutes")
        return
    program = Inference(context, inference_config(context.variant)).compile(CASE, WITH)
    for _ in range(3):
        jax.block_until_ready(program.run())
    times = [1e3 * _seconds(program) for _ in range(ROUNDS[context.variant])]
    timed = {
        "median_ms": statistics.median(times),
        "p99_ms": max(times),
        "rounds": len(times),
        "peak_bytes": program.reserved,
        "process_peak_bytes": context.high_water(),
        "progress": True,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
    context.row(name, provisional=True, **timed)
    with tempfile.TemporaryDirectory() as folder:
        _trace(context, program, Path(folder, "discarded"), 1)  # the profiler's own start is in it
        profiled = _trace(context, program, Path(folder, "kept"), TRACED)
        if context.keep is not None and not context.on_cpu:
            shutil.copy(find_trace(Path(folder, "kept")), f"{context.keep}.trace.json.gz")
            with gzip.open(f"{context.keep}.hlo.txt.gz", "wt", encoding="utf-8") as file:
                file.write(program.text())
        kind, operations = device_operations(read_events(Path(folder, "kept")))
    found = summary(kind, last_run(operations, TRACED))
    outside = timed["median_ms"] - found["busy_ms"]
    context.row(name, **timed, profiled_ms=1e3 * profiled, outside_kernels_ms=outside, profile=found)
    print(f"{found['kind']}: {found['operations']}, busy {found['busy_ms']:.2f} of {found['span_ms']:.2f} ms")
    for kernel in found["kernels"]:
        print(f"{kernel['total_ms']:>9.3f} ms {kernel['calls']:>6} x {kernel['name'][:40]:<40} {kernel['layer'][-60:]}")


def _trace(context: Context, program: Program, folder: Path, runs: int) -> float:
    """Run it so often under the profiler; returns how long the last took, s."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 2 if context.on_cpu else 0  # on a CPU the device is the host
    with jax.profiler.trace(str(folder), profiler_options=options):
        for _ in range(runs):
            time.sleep(PAUSE_S)
            took = _seconds(program)
    return took


def _seconds(program: Program) -> float:
    started = time.perf_counter()
    jax.block_until_ready(program.run())
    return time.perf_counter() - started
