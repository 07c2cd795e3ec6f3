"""Training runs of our own on a recorded set: as it is, and with arithmetic that is rounded differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Key

from pi05_progress.checkpoints.parameter_source import ParameterSource
from pi05_progress.models.augmentation import OPENPI
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import Trained
from pi05_progress.models.pi05 import Drawn
from pi05_progress.parity.outputs import observation_of, quick

from ..engine.loss import LossConfig
from ..engine.optimizer import OptimizerConfig
from ..engine.sharding import MeshConfig, make_mesh, put_batch
from ..engine.state import TrainState, start_state
from ..engine.step import TrainStep, make_train_step, training_keys
from ..loading.batch import Batch

# What the recorded runs were made with.
SEED = 42
RECORDED = OptimizerConfig(
    peak_learning_rate=1e-3, warmup_steps=2, decay_steps=10, end_learning_rate=1e-4, ema_decay=0.9
)
METRICS = ("loss", "grad_norm", "param_norm")
Numbers = dict[str, np.ndarray]  # by the parameter's path


@dataclass(frozen=True)
class Task:
    """What is trained, from what, on what, and how often."""

    config: Pi05Config  # of the model
    parameters: Mapping[str, np.ndarray]  # at the start
    inputs: Mapping[str, np.ndarray]  # of the recorded set
    trained: Trained  # what is trained
    augment: bool  # whether pictures are augmented
    steps: int  # how many are taken


@dataclass(frozen=True)
class Run:
    """What a run leads to."""

    start: Numbers  # parameters before the first step, as they are kept in training
    metrics: np.ndarray  # float64 (steps, metrics), in the order of `METRICS`
    params: Numbers  # parameters after the last step
    averages: Numbers  # their moving average


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NudgedBatch(Batch):
    """A batch whose drawn times are moved to the next larger (1) or smaller (-1) number of single precision."""

    direction: Int32[Array, " b"]


def run_as_is(task: Task) -> Run:
    """The steps as training takes them."""
    return _run(task, _step(task, RECORDED), task.parameters, [_batch(task.inputs)] * task.steps)


def runs_rounded_differently(task: Task, count: int) -> list[Run]:
    """The same steps by arithmetic that would give the same numbers if nothing were rounded.

    Every row's gradients are computed alone and added, by machine code that is compiled in another way; each run starts
    from parameters of which every one is moved to the next number of single precision, up or down, and so is every
    drawn time: whether a time is rounded once or twice depends on the processor's instructions, and the fastest angle
    of the time's embedding makes 1e-4 rad of its last digit.
    """
    batch = _batch(task.inputs)
    rows = len(batch.actions)
    step = _step(task, dataclasses.replace(RECORDED, accumulation_steps=rows), adjust_draw=_nudged)
    runs, compiled = [], None
    for seed in range(count):
        rng = np.random.default_rng(seed)
        parameters = {path: _next_numbers(rng, value) for path, value in task.parameters.items()}
        batches = [NudgedBatch(**vars(batch), direction=rng.choice([-1, 1], rows)) for _ in range(task.steps)]
        if compiled is None:
            given = (_start(task, parameters), training_keys(SEED)[0], put_batch(_mesh(), batches[0]))
            compiled = step.lower(*given).compile(compiler_options=quick())
        runs.append(_run(task, compiled, parameters, batches))
    return runs


def _step(task: Task, optimizer: OptimizerConfig, **options: Any) -> TrainStep:
    options |= {"trained": task.trained, "augmentation": OPENPI if task.augment else None}
    return make_train_step(task.config, _mesh(), optimizer, LossConfig(), **options)


def _nudged(drawn: Drawn, batch: NudgedBatch) -> Drawn:
    towards = jnp.where(batch.direction > 0, 2.0, -1.0).astype(drawn.time.dtype)
    return drawn._replace(time=jnp.nextafter(drawn.time, towards))


def _next_numbers(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return np.nextafter(values, np.where(rng.random(values.shape) < 0.5, -np.inf, np.inf).astype(values.dtype))


def _run(task: Task, step: TrainStep, parameters: Mapping[str, np.ndarray], batches: list[Batch]) -> Run:
    state = _start(task, parameters)
    start = _numbers({**state.frozen, **state.params})  # before the first step takes over their memory
    key: Key[Array, ""] = training_keys(SEED)[0]
    metrics = []
    for batch in batches:
        state, found = step(state, key, put_batch(_mesh(), batch))
        metrics.append([float(found[name]) for name in METRICS])
    averaged = {**state.frozen, **state.ema_params}
    return Run(start, np.array(metrics), _numbers({**state.frozen, **state.params}), _numbers(averaged))


def _start(task: Task, parameters: Mapping[str, np.ndarray]) -> TrainState:
    leaves = {path: jax.ShapeDtypeStruct(value.shape, value.dtype) for path, value in parameters.items()}
    source = ParameterSource(
        "the set's params.npz", leaves, lambda path, dtype, index: parameters[path][index].astype(dtype)
    )
    return start_state(task.config, _mesh(), task.trained, RECORDED, training_keys(SEED)[1], source).state


def _numbers(parameters: Mapping[str, jax.Array]) -> Numbers:
    return {path: np.asarray(value, np.float64) for path, value in parameters.items()}


def _mesh() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


def _batch(inputs: Mapping[str, np.ndarray]) -> Batch:
    rows, horizon, _ = inputs["actions"].shape
    return Batch(
        observation=observation_of(inputs),
        actions=inputs["actions"],
        action_is_pad=np.zeros((rows, horizon), bool),
        action_weight=np.ones(rows, np.float32),
        origin=np.zeros((rows, 3), np.int32),
    )
