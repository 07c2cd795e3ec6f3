"""From the start of a process to its first answer: with nothing compiled, and with what an earlier process compiled."""

from __future__ import annotations

import os
import tempfile
import time

import jax
from common.subjects import noise

from pi05_progress.policies.sampler import Sampler

from .context import Context
from .parts import CACHE
from .processes import CutOffError, Task, messages
from .subjects import STEPS, device_model, inference_config, padded, seen

TOKENS = 20


def main(context: Context) -> None:
    """Two processes, one after the other, with a compilation cache of their own; this one leaves the device alone."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, CACHE: cache}
        for name in ("nothing compiled yet", "compiled by an earlier process"):
            context.attempt(name, lambda name=name: _one(context, name, environment))


def _one(context: Context, name: str, environment: dict[str, str]) -> None:
    task = Task("gpu_parts.start:first_answer", context.variant, context.until)
    try:
        said = list(messages(task, context.until, environment, nested=True))
    except CutOffError:
        context.row(f"first answer, {name}", left_out="time")
        return
    for found in (message["found"] for message in said):
        context.row(f"first answer, {name}", median_ms=found["first_answer_ms"], progress=True, **found)


def first_answer(context: Context) -> None:
    """In the process that is timed: random parameters stand for a checkpoint."""
    times = {"imported": time.time()}
    jax.devices()
    times["devices there"] = time.time()
    config = inference_config(context.variant)
    model = device_model(config)
    jax.block_until_ready(jax.tree.leaves(model))
    times["parameters there"] = time.time()
    sampler = Sampler(model, STEPS)
    given = (seen(config, 3, TOKENS, padded(TOKENS)), noise(config))
    jax.block_until_ready(sampler(*given))
    times["first answer"] = time.time()
    jax.block_until_ready(sampler(*given))
    times["second answer"] = time.time()
    steps, before = {}, context.started
    for name, at in times.items():
        steps[name], before = round(1e3 * (at - before), 1), at
    first = 1e3 * (times["first answer"] - context.started)
    context.say(found={"first_answer_ms": first, "steps_ms": steps, "process_peak_bytes": context.high_water()})
