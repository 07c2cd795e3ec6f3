"""Where the time of one inference goes: the device's largest operations and its gaps, from JAX's profiler."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
from common.subjects import noise

from pi05_progress.policies.sampler import Sampler

from .context import Context
from .subjects import STEPS, device_model, inference_config, padded, seen
from .trace import device_operations, read_events, summary

TOKENS = 20
ROUNDS = {"pi05": 20, "tiny": 10}


def main(context: Context) -> None:
    """Three cameras, a short prompt; the same inference without the profiler beside."""
    config = inference_config(context.variant)
    sampler = Sampler(device_model(config), STEPS)
    given = (seen(config, 3, TOKENS, padded(TOKENS)), noise(config))
    for _ in range(3):
        jax.block_until_ready(sampler(*given))
    times = []
    for _ in range(ROUNDS[context.variant]):
        started = time.perf_counter()
        jax.block_until_ready(sampler(*given))
        times.append(1e3 * (time.perf_counter() - started))
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 2 if context.on_cpu else 0  # on a CPU the device is the host
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            started = time.perf_counter()
            jax.block_until_ready(sampler(*given))
            profiled = 1e3 * (time.perf_counter() - started)
        found = summary(*device_operations(read_events(Path(folder))))
    context.row(
        f"one inference, 3 cameras, {TOKENS} tokens",
        median_ms=statistics.median(times),
        p99_ms=max(times),
        rounds=len(times),
        peak_bytes=context.high_water(),
        progress=True,
        profiled_ms=profiled,
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        profile=found,
    )
    print(f"{found['kind']}: {found['operations']}, busy {found['busy_ms']:.2f} of {found['span_ms']:.2f} ms")
    for kernel in found["kernels"]:
        print(f"{kernel['total_ms']:>9.3f} ms {kernel['calls']:>6} x {kernel['name'][:80]}")
