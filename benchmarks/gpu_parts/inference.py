"""Inference as the node does it: one program from pictures on the host to actions and progress on the device.

First three cameras and a short prompt, with progress and without, beside openpi's plain way; as a part of its own
larger batches, longer prompts and fewer cameras (of ``tiny`` a few of them). Every prompt is padded as the node pads
it. All programs of a table take turns, and nothing is compiled meanwhile.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from common.costs import size_in_bytes
from common.rounds import reserved_bytes
from common.subjects import noise
from flax import nnx

from pi05_progress.models.config import Pi05Config
from pi05_progress.models.parameters import parameter_paths
from pi05_progress.models.pi05 import Sample

from .compiling import DISTURBED, settle, workers
from .context import Context
from .roofline import inference_work
from .subjects import STEPS, device_model, inference_config, padded, seen
from .timing import BRIEF, SECONDS, Program, measure_programs

NODE_LIMIT_GB = 10
MOST = 8  # programs that are compiled at once
LONG = 200  # what openpi pads every prompt to
WITH, WITHOUT, PLAIN = "with progress", "actions only", f"openpi's plain way: text padded to {LONG}, no modulations"


@dataclass(frozen=True)
class Case:
    """What is asked: so many cameras, tokens of the prompt and rows of a batch, and in which ways."""

    cameras: int
    tokens: int
    rows: int
    ways: tuple[str, ...]

    def __str__(self) -> str:
        batch = f", batch {self.rows}" if self.rows > 1 else ""
        return f"{self.cameras} camera{'s' * (self.cameras > 1)}, {self.tokens} tokens{batch}"


FIRST = Case(3, 20, 1, (WITH, WITHOUT, PLAIN))
LONG_PROMPT = 150
BOTH = (WITH, WITHOUT)
REST = {
    "pi05": [
        *(Case(3, 20, rows, (WITH,)) for rows in (4, 16, 32)),
        Case(3, LONG_PROMPT, 1, BOTH),
        *(Case(cameras, tokens, 1, BOTH) for cameras in (2, 1) for tokens in (20, LONG_PROMPT)),
    ],
    "tiny": [Case(3, 20, 4, (WITH,)), Case(3, LONG_PROMPT, 1, BOTH), Case(1, 20, 1, BOTH)],
}


def main(context: Context) -> None:
    """What matters most; at full size on a CPU one inference, which is all that it can do in minutes."""
    inference = Inference(context, inference_config(context.variant))
    if context.on_cpu and context.variant == "pi05":
        inference.measure([Case(3, 20, 1, (WITH,))], rounds=1)
        inference.say_limit()
        return
    inference.measure([FIRST])
    inference.say_limit()


def rest(context: Context) -> None:
    """All other cases."""
    if context.on_cpu and context.variant == "pi05":
        context.row("other inferences", left_out="they take a CPU minutes each")
        return
    Inference(context, inference_config(context.variant)).measure(REST[context.variant], seconds=BRIEF)


class Inference:
    """A model with random parameters on the device, and the programs that ask it.

    Args:
        context: of the part.
        config: of the model.
    """

    def __init__(self, context: Context, config: Pi05Config) -> None:
        began = time.perf_counter()
        self._context, self._config, self._first = context, config, None
        self._model = device_model(config)
        self._graph, self._parameters = nnx.split(self._model)
        graph = self._graph
        self._modulations = jax.jit(lambda p: nnx.merge(graph, p).step_modulations(STEPS))(self._parameters)
        jax.block_until_ready((self._parameters, self._modulations))
        print(f"parameters made in {time.perf_counter() - began:.1f} s", flush=True)

    def measure(self, cases: list[Case], rounds: int | None = None, seconds: Mapping[str, float] = SECONDS) -> None:
        """Compile as many cases as there are workers, one for every two cores, measure them, then the next."""
        pool = ThreadPoolExecutor(workers(MOST))
        for some in _batches(cases, workers(MOST)):
            if self._context.left_s() <= 0:
                for case in some:
                    self._context.row(str(case), left_out="time")
                continue
            compiling = {case: [pool.submit(self.compile, case, way) for way in case.ways] for case in some}
            quiet = settle(self._context, [one for programs in compiling.values() for one in programs])
            for case, programs in compiling.items():
                measure = functools.partial(self._measure, case, programs, quiet, rounds, seconds)
                self._context.attempt(str(case), measure)
        pool.shutdown(wait=False, cancel_futures=True)

    def _measure(
        self, case: Case, compiled: list[Future], quiet: bool, rounds: int | None, seconds: Mapping[str, float]
    ) -> None:
        """The programs that could be compiled in time; a failure to compile is the row's error."""
        rows: dict[str, Program] = {}
        for way, one in zip(case.ways, compiled, strict=True):
            if one.cancelled() or not one.done():
                self._context.row(f"{case}, {way}", left_out="time")
                continue
            program = one.result()
            about = program.about if quiet else {**program.about, **DISTURBED}
            rows[f"{case}, {way}"] = dataclasses.replace(program, about=about)
        if rows:
            measure_programs(self._context, str(case), rows, rounds, seconds)
            self._first = self._first or next(iter(rows.values()))

    def compile(self, case: Case, way: str) -> Program:
        """One of a case's programs."""
        config, graph = self._config, self._graph
        length = LONG if way == PLAIN else padded(case.tokens)
        observation = seen(config, case.cameras, case.tokens, min(length, config.max_token_len), case.rows)
        start = np.repeat(noise(config), case.rows, axis=0)
        modulations = None if way == PLAIN else self._modulations

        def sample(p: nnx.State, modulations: Any, observation: Any, start: Any) -> Sample:
            given = {"noise": start, "num_steps": STEPS, "modulations": modulations}
            found = nnx.merge(graph, p).sample(observation, **given)
            return found if way == WITH else Sample(found.actions, None)

        given = (self._parameters, modulations, observation, start)
        began = time.perf_counter()
        compiled = jax.jit(sample, donate_argnums=3).lower(*given).compile()
        took = time.perf_counter() - began
        work = inference_work(self._model, observation, start, modulations, STEPS)
        peak = self._context.peak if config.compute_dtype == "bfloat16" else None
        return Program(
            run=_runner(compiled, given),
            reserved=reserved_bytes(compiled),
            cost=work.total,
            floor_s=None if peak is None else work.floor_s(peak),
            progress=way == WITH,
            text=compiled.as_text,
            about={"cameras": case.cameras, "tokens": case.tokens, "padded_to": observation.tokenized_prompt.shape[1],
                   "batch": case.rows, "way": way, "dtype": config.compute_dtype, "compile_s": round(took, 2)},
        )  # fmt: skip

    def say_limit(self) -> None:
        """Whether the first program that was measured keeps to the node's limit, and what takes its memory."""
        program = self._first
        if program is None:
            return
        parameters = size_in_bytes(parameter_paths(self._model))
        modulations = size_in_bytes(self._modulations)
        takes = {
            "parameters": parameters,
            "modulations": modulations,
            "numbers between layers, inputs and outputs": program.reserved - parameters - modulations,
        }
        self._context.say(
            limit={
                "name": "the node's inference, as the compiler reserves it",
                "limit_gb": NODE_LIMIT_GB,
                "found_gb": program.reserved / 1e9,
                "process_peak_bytes": self._context.high_water(),
                "met": program.reserved < NODE_LIMIT_GB * 1e9,
                "takes_bytes": takes,
            }
        )


def _batches(cases: list[Case], most: int) -> Iterator[list[Case]]:
    """In their order, as many at a time as have so many programs; one case at least."""
    batch: list[Case] = []
    for case in cases:
        if batch and sum(len(one.ways) for one in [*batch, case]) > most:
            yield batch
            batch = []
        batch.append(case)
    yield batch


def _runner(compiled: Any, given: tuple) -> Callable[[], Any]:
    return lambda: compiled(*given)
