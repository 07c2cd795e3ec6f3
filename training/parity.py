"""Compares training with recorded runs of openpi's.

    python -m training.parity test/data/golden

Reads every <name>_train.npz in the files or folders given, with <name>_config.json, <name>_inputs.npz and
<name>_params.npz beside it: optimiser steps on one batch, with and without augmentation, the parameters they lead to,
their moving average, what was drawn, and the learning rate. Prints per quantity the largest absolute and relative
difference beside what is tolerated, as pi05_progress.models.parity does for the model. Exit status 1 if a tolerance is
exceeded, a file is damaged, or nothing was checked.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pi05_progress.checkpoints.parameter_source import ParameterSource
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import Trained, has_adapters, is_trained
from pi05_progress.models.parity import (
    FORWARD,
    Check,
    Kind,
    Tolerance,
    compare,
    npz_names,
    read_json,
    read_npz,
    run_program,
    skip,
)
from pi05_progress.models.parity.model import NO_GRADIENT
from pi05_progress.models.parity.outputs import config_of, observation_of

from .engine.loss import LossConfig
from .engine.optimizer import OptimizerConfig, learning_rate
from .engine.sharding import MeshConfig, make_mesh, put_batch
from .engine.state import start_state, with_parameters
from .engine.step import make_train_step, training_keys
from .loading.batch import Batch

# What the recorded runs were made with.
SEED = 42
RECORDED = OptimizerConfig(
    peak_learning_rate=1e-3, warmup_steps=2, decay_steps=10, end_learning_rate=1e-4, ema_decay=0.9
)
DEFAULT = OptimizerConfig()
METRICS = ("loss", "grad_norm", "param_norm")
# Of six steps with a learning rate of 1e-3: two versions of JAX differ by 2e-5 in metrics and by 2.5e-5 in parameters.
TRAINED = FORWARD
RATE = Tolerance(rtol=1e-6)
RUNS = {"noaug": False, "aug": True}
PARTS = ("config.json", "inputs.npz", "params.npz", "train.npz")


def _train_file(file: Path) -> Path | None:
    """The recorded run of the set that a file belongs to."""
    match = re.fullmatch(rf"(.+?)_({'|'.join(map(re.escape, PARTS))})", file.name)
    key = file.with_name(f"{match[1]}_train.npz") if match else None
    # Outputs of the model in training precision have a name of this form, too.
    return key if key and key.is_file() and {f"{run}/metrics" for run in RUNS} & set(npz_names(key)) else None


def check(path: Path) -> Iterator[Check]:
    """All quantities of a set.

    Raises:
        ValueError: a file is damaged or missing.
        KeyError: a file lacks something.
    """
    name = path.name.removesuffix("_train.npz")
    beside = {part: path.with_name(f"{name}_{part}") for part in PARTS}
    if missing := [file.name for file in beside.values() if not file.is_file()]:
        raise ValueError(f"{path}: {', '.join(missing)} is missing beside it")
    golden = read_npz(path)
    config, parameters = config_of(read_json(beside["config.json"])), read_npz(beside["params.npz"])
    inputs = read_npz(beside["inputs.npz"])
    yield from _check_rates(golden)
    yield from _check_draws(config, parameters, inputs, golden)
    for run, augment in RUNS.items():
        if f"{run}/metrics" not in golden:
            yield skip(f"{name} {run}", "there is no such run in the set")
            continue
        recorded = {key.removeprefix(f"{run}/"): value for key, value in golden.items() if key.startswith(f"{run}/")}
        yield from _check_run(run, config, parameters, inputs, recorded, augment)


def _check_rates(golden: Mapping[str, np.ndarray]) -> Iterator[Check]:
    if "lr" in golden:
        rate = learning_rate(RECORDED)
        yield compare("learning rate", [rate(step) for step in range(len(golden["lr"]))], golden["lr"], RATE)
    if "lr_default" in golden:
        rate = learning_rate(DEFAULT)
        ours = [rate(int(step)) for step in golden["lr_default_steps"]]
        yield compare("learning rate of the default", ours, golden["lr_default"], RATE)


def _check_draws(
    config: Pi05Config,
    parameters: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    golden: Mapping[str, np.ndarray],
) -> Iterator[Check]:
    model = with_parameters(config, {path: jnp.asarray(value) for path, value in parameters.items()})
    train_rng, _ = training_keys(SEED)
    steps = sorted(int(key.removeprefix("noise/")) for key in golden if key.startswith("noise/"))
    draw = jax.jit(
        lambda step: model.draw(jax.random.fold_in(train_rng, step), observation_of(inputs), inputs["actions"])
    )
    for step in steps:
        drawn = draw(step)
        yield compare(f"noise of step {step}", drawn.noise, golden[f"noise/{step}"], FORWARD)
        yield compare(f"time of step {step}", drawn.time, golden[f"time/{step}"], FORWARD)


def _check_run(
    run: str,
    config: Pi05Config,
    parameters: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    recorded: Mapping[str, np.ndarray],
    augment: bool,
) -> Iterator[Check]:
    final = {key.removeprefix("params/"): value for key, value in recorded.items() if key.startswith("params/")}
    trained = _trained(config, parameters, final)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    train_rng, init_rng = training_keys(SEED)
    state = start_state(config, mesh, trained, RECORDED, init_rng, _source(parameters)).state
    batch = put_batch(mesh, _batch(inputs))
    step = make_train_step(config, mesh, RECORDED, LossConfig(), trained=trained, augment=augment)
    metrics = []
    for _ in recorded["metrics"]:
        state, found = step(state, train_rng, batch)
        metrics.append([found[name] for name in METRICS])
    for column, metric in enumerate(METRICS):
        yield compare(f"{run} {metric}", np.asarray(metrics)[:, column], recorded["metrics"][:, column], TRAINED)
    ours = {**state.frozen, **state.params}
    averages = {**state.frozen, **state.ema_params}
    for path, theirs in final.items():
        if path.endswith(NO_GRADIENT):
            yield skip(f"{run} {path}", "its gradient is zero but for rounding, which Adam makes as large as any other")
        elif path not in ours:
            yield Check(f"{run} {path}", np.inf, np.inf, TRAINED, False, "no such parameter")
        else:
            yield compare(f"{run} {path}", np.asarray(ours[path], np.float32), theirs, TRAINED)
    for key, theirs in recorded.items():
        path = key.removeprefix("ema_sum/")
        if not key.startswith("ema_sum/") or path.endswith(NO_GRADIENT):
            continue
        if path not in averages:
            yield Check(f"{run} average of {path}", np.inf, np.inf, TRAINED, False, "no such parameter")
            continue
        value = np.asarray(averages[path], np.float64)
        # Rounding errors of elements are independent of one another: their sum grows with the root of their number.
        tolerance = Tolerance(atol=TRAINED.atol * math.sqrt(value.size), rtol=1e-6)
        yield compare(f"{run} average of {path}, sums", [value.sum(), np.abs(value).sum()], theirs, tolerance)


def _trained(config: Pi05Config, start: Mapping[str, np.ndarray], final: Mapping[str, np.ndarray]) -> Trained:
    """Adapters if the model has them and everything else stayed where openpi keeps it, in bfloat16; else everything."""
    if not (has_adapters(config.paligemma) or has_adapters(config.expert)):
        return "everything"
    frozen = [path for path in final if path in start and not is_trained(config, "adapters", path)]
    kept = all(np.array_equal(np.asarray(start[p], jnp.bfloat16).astype(np.float32), final[p]) for p in frozen)
    return "adapters" if frozen and kept else "everything"


def _source(parameters: Mapping[str, np.ndarray]) -> ParameterSource:
    leaves = {path: jax.ShapeDtypeStruct(value.shape, value.dtype) for path, value in parameters.items()}
    return ParameterSource(
        "the set's params.npz", leaves, lambda path, dtype, index: parameters[path][index].astype(dtype)
    )


def _batch(inputs: Mapping[str, np.ndarray]) -> Batch:
    rows, horizon, _ = inputs["actions"].shape
    return Batch(
        observation=observation_of(inputs),
        actions=inputs["actions"],
        action_is_pad=np.zeros((rows, horizon), bool),
        action_weight=np.ones(rows, np.float32),
        origin=np.zeros((rows, 3), np.int32),
    )


KINDS: Sequence[Kind] = [("training", _train_file, check)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program(KINDS, "python -m training.parity", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
