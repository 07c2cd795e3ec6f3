"""A training step of a recipe: seconds, share of the device's FLOPs, memory; with the progress loss and without.

Model FLOPs of a step are those of all matrix products in the loss and in its gradient with respect to what is trained,
none of them counted twice: what a layer computes again to save memory is not in them. Both rows train the same state,
the one from samples with labels, the other from the same samples without. On a CPU, where the step only shows that all
of this runs, machine code is not optimised: compiling it is most of the time.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from common.batches import made_up_batch
from common.costs import Cost
from common.rounds import reserved_bytes

from pi05_progress.models.pi05 import Drawn, Sample
from pi05_progress.parity.outputs import quick
from training.engine.loss import Part, shares, total_loss
from training.engine.memory import MemoryPlan
from training.engine.optimizer import make_optimizer
from training.engine.sharding import MeshConfig, make_mesh, put_batch
from training.engine.state import TrainState, abstract_state, with_parameters
from training.engine.step import make_train_step, training_keys
from training.loading.batch import Batch
from training.recipes.config import TrainConfig
from training.recipes.registry import named_recipe

from .compiling import DISTURBED, settle, workers
from .context import SHOWN, Context, lacks_memory
from .fitting import halved, largest_batch, small
from .roofline import product_flops
from .subjects import random_arrays
from .timing import Program, measure_programs

LORA, LORA_LIMIT_GB = "pi05_teleavatar_lora", 22
PLANNED = 0.9  # of what JAX may take


def main(context: Context) -> None:
    """The recipe of this part's settings."""
    recipe = named_recipe(context.settings["recipe"])
    if context.variant == "tiny":
        recipe = small(recipe)
    elif context.on_cpu:
        context.row(recipe.name, left_out="a step of the full-size model takes hours on a CPU")
        return
    limit = (context.device.memory_stats() or {}).get("bytes_limit")
    if limit is not None and recipe.trained == "everything":
        limit *= PLANNED  # the plan leaves out what the compiler keeps between layers for itself
    fitting, plan = largest_batch(recipe, limit)
    if fitting is None:
        context.row(
            recipe.name,
            left_out=f"memory: one sample needs {plan.total / 1e9:.1f} GB, JAX may take {limit / 1e9:.1f}",
            plan_bytes=dataclasses.asdict(plan),
        )
        return
    context.attempt(recipe.name, lambda: measure_fitting(context, fitting, plan))


def measure_fitting(context: Context, recipe: TrainConfig, plan: MemoryPlan) -> None:
    """Measure it; if the device's memory does not do for that, once more with half the batch."""
    try:
        measure_training(context, recipe, plan)
        return
    except Exception as error:
        if recipe.batch_size == 1 or not lacks_memory(error):
            raise
        name = f"{recipe.name}, a step of {recipe.batch_size}"
        context.row(name, error=f"the device's memory is full: {str(error)[:SHOWN]}")
    gc.collect()  # the state of the first try is gone only now that its error is
    measure_training(context, *halved(recipe))


def measure_training(context: Context, recipe: TrainConfig, plan: MemoryPlan) -> None:
    """Compile both, run and say the rows; of the recipe with adapters also whether it keeps to its limit.

    Both are compiled at once where there are cores for it, but one after the other where everything is trained: what
    the compiler tries takes memory.
    """
    stepper = Stepper(recipe)
    batch = made_up_batch(recipe.model, recipe.batch_size)
    kinds = {True: batch} if recipe.trained == "head" else {True: batch, False: without_labels(batch)}
    programs, pool = {}, ThreadPoolExecutor(1 if recipe.trained == "everything" else workers(len(kinds)))
    compiling = {progress: pool.submit(stepper.compile, samples) for progress, samples in kinds.items()}
    quiet = settle(context, list(compiling.values()))
    pool.shutdown(wait=False)
    for progress, samples in kinds.items():
        name = f"{recipe.name}, a step of {recipe.batch_size}, {'with progress' if progress else 'actions only'}"
        if compiling[progress].cancelled() or not compiling[progress].done():
            context.row(name, left_out="time")
            continue
        run, compiled = compiling[progress].result()
        flops = step_flops(recipe, samples)
        peak = context.peak if recipe.model.compute_dtype == "bfloat16" else None
        programs[name] = (
            Program(
                run=run,
                reserved=reserved_bytes(compiled),
                cost=Cost(flops, 0.0),
                floor_s=None if peak is None else flops / peak.flops,
                progress=progress,
                sample=lambda _: Sample(None, None),
                about={"batch": recipe.batch_size, "pieces": recipe.optimizer.accumulation_steps,
                       "trained": recipe.trained, "optimised": not context.on_cpu,
                       "plan_bytes": dataclasses.asdict(plan)} | ({} if quiet else DISTURBED),
            )
        )  # fmt: skip
    if not programs:
        return
    measure_programs(context, recipe.name, programs)
    if recipe.name == LORA:
        first = next(iter(programs.values()))
        context.say(
            limit={"name": f"training of {recipe.name}, batch {recipe.batch_size}", "limit_gb": LORA_LIMIT_GB,
                   "found_gb": first.reserved / 1e9, "met": first.reserved < LORA_LIMIT_GB * 1e9,
                   "process_peak_bytes": context.high_water(),
                   "takes_bytes": dataclasses.asdict(plan) | {"reserved by the compiler, all": first.reserved}}
        )  # fmt: skip


class Stepper:
    """A state on one device, with random parameters; its steps take turns at it.

    Args:
        recipe: what is trained, and how.
    """

    def __init__(self, recipe: TrainConfig) -> None:
        self._recipe, self._mesh = recipe, make_mesh(MeshConfig(), jax.devices()[:1])
        shapes = abstract_state(recipe.model, self._mesh, recipe.trained, recipe.optimizer)
        params, frozen = random_arrays(shapes.params), random_arrays(shapes.frozen)
        averaged = None if recipe.optimizer.ema_decay is None else jax.tree.map(jnp.copy, params)
        opt_state = jax.jit(make_optimizer(recipe.optimizer).init)(params)
        state = TrainState(jnp.zeros((), jnp.int32), params, frozen, opt_state, averaged)
        self._state = jax.tree.map(lambda x, shape: jax.device_put(x, shape.sharding), state, shapes)
        self._rng = training_keys(0)[0]
        self._options = quick()

    def compile(self, samples: Batch) -> tuple[Callable[[], Any], Any]:
        """A function that takes a step and gives its metrics, and the compiled program."""
        recipe, batch = self._recipe, put_batch(self._mesh, samples)
        step = make_train_step(recipe.model, self._mesh, recipe.optimizer, recipe.loss, trained=recipe.trained,
                               action_size=16)  # fmt: skip
        compiled = step.lower(self._state, self._rng, batch).compile(self._options)

        def run() -> Any:
            self._state, metrics = compiled(self._state, self._rng, batch)
            return metrics

        return run, compiled


def without_labels(batch: Batch) -> Batch:
    """The same samples, as of data without progress."""
    seen = dataclasses.replace(batch.observation, progress=None, progress_mask=None)
    return dataclasses.replace(batch, observation=seen)


def step_flops(recipe: TrainConfig, batch: Batch) -> float:
    """Model FLOPs of a step; see the module's docstring. One sample is counted."""
    model = dataclasses.replace(recipe.model, remat="none")
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), batch)
    state = abstract_state(model, make_mesh(MeshConfig(), jax.devices()[:1]), recipe.trained, recipe.optimizer)

    def loss(params: Any, frozen: Any, samples: Batch, noise: Any, time: Any) -> Any:
        seen = samples.observation
        part = Part(
            Drawn(seen, noise, time),
            samples.actions,
            shares(recipe.loss, samples.action_weight, samples.action_is_pad, seen.progress_mask),
        )
        return total_loss(with_parameters(model, {**frozen, **params}), part, recipe.loss)[0]

    noise = jax.ShapeDtypeStruct(one.actions.shape, jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    return recipe.batch_size * product_flops(jax.grad(loss), state.params, state.frozen, one, noise, time)
