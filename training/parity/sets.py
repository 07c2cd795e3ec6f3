"""Recorded training runs of openpi's: finds their files, and compares every quantity in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import Trained, has_adapters, is_trained
from pi05_progress.parity.checks import FORWARD, Check, Tolerance, compare, npz_names, read_json, read_npz, skip
from pi05_progress.parity.model import NO_GRADIENT
from pi05_progress.parity.outputs import config_of, observation_of
from pi05_progress.parity.program import Kind

from ..engine.optimizer import OptimizerConfig, learning_rate
from ..engine.state import with_parameters
from ..engine.step import training_keys
from .differences import compare_metric, compare_parameter, compare_scale, compare_sums, sums
from .runs import METRICS, RECORDED, SEED, Run, Task, run_as_is, runs_rounded_differently

DEFAULT = OptimizerConfig()
RATE = Tolerance(rtol=1e-6)  # a formula of the step alone: nothing adds up
OTHERS = 4  # runs of our own that are rounded differently
RUNS = {"noaug": False, "aug": True}
PARTS = ("config.json", "inputs.npz", "params.npz", "train.npz")


def _train_file(file: Path) -> Path | None:
    """The recorded run of the set that a file belongs to."""
    match = re.fullmatch(rf"(.+?)_({'|'.join(map(re.escape, PARTS))})", file.name)
    key = file.with_name(f"{match[1]}_train.npz") if match else None
    # Outputs of the model in training precision have a name of this form, too.
    return key if key and key.is_file() and {f"{run}/metrics" for run in RUNS} & set(npz_names(key)) else None


def check(path: Path) -> Iterator[Check]:
    """All quantities of a set; a ``ValueError`` if a file is damaged or missing, a ``KeyError`` if it lacks one."""
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
        recorded = _below(golden, f"{run}/")
        trained = _trained(config, parameters, _below(recorded, "params/"))
        task = Task(config, parameters, inputs, trained, augment, len(recorded["metrics"]))
        yield from _check_run(run, run_as_is(task), runs_rounded_differently(task, OTHERS), recorded)


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
    steps = sorted(map(int, _below(golden, "noise/")))
    draw = jax.jit(
        lambda step: model.draw(jax.random.fold_in(train_rng, step), observation_of(inputs), inputs["actions"])
    )
    for step in steps:
        drawn = draw(step)
        yield compare(f"noise of step {step}", drawn.noise, golden[f"noise/{step}"], FORWARD)
        yield compare(f"time of step {step}", drawn.time, golden[f"time/{step}"], FORWARD)


def _check_run(name: str, ours: Run, others: Sequence[Run], recorded: Mapping[str, np.ndarray]) -> Iterator[Check]:
    for column, metric in enumerate(METRICS):
        own = [other.metrics[:, column] for other in others]
        yield compare_metric(f"{name} {metric}", ours.metrics[:, column], own, recorded["metrics"][:, column])
    for path, theirs in _below(recorded, "params/").items():
        if path.endswith(NO_GRADIENT):
            yield skip(
                f"{name} {path}", "its gradient is zero but for rounding, which Adam makes as large as any other"
            )
        elif path not in ours.params:
            yield _unknown(f"{name} {path}")
        else:
            own = [other.params[path] for other in others]
            yield from compare_parameter(f"{name} {path}", ours.start[path], ours.params[path], own, theirs)
    yield from _check_averages(name, ours, others, _below(recorded, "ema_sum/"))


def _check_averages(name: str, ours: Run, others: Sequence[Run], recorded: Mapping[str, np.ndarray]) -> Iterator[Check]:
    updates = []
    for path, theirs in recorded.items():
        if path.endswith(NO_GRADIENT):
            continue
        if path not in ours.averages:
            yield _unknown(f"{name} average of {path}")
            continue
        start, average = ours.start[path], ours.averages[path]
        own = [other.averages[path] for other in others]
        yield compare_sums(f"{name} average of {path}, sums", start, average, own, theirs)
        updates.append((sums(average) - sums(start), theirs - sums(start)))
    if updates:
        yield compare_scale(f"{name} sums of all averages, scale", *map(np.array, zip(*updates, strict=True)))


def _unknown(name: str) -> Check:
    return Check(name, np.inf, np.inf, Tolerance(), False, "no such parameter")


def _below(recorded: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in recorded.items() if name.startswith(prefix)}


def _trained(config: Pi05Config, start: Mapping[str, np.ndarray], final: Mapping[str, np.ndarray]) -> Trained:
    """Adapters if the model has them and everything else stayed where openpi keeps it, in bfloat16; else everything."""
    if not (has_adapters(config.paligemma) or has_adapters(config.expert)):
        return "everything"
    frozen = [path for path in final if path in start and not is_trained(config, "adapters", path)]
    kept = all(np.array_equal(np.asarray(start[p], jnp.bfloat16).astype(np.float32), final[p]) for p in frozen)
    return "adapters" if frozen and kept else "everything"


KINDS: Sequence[Kind] = [("training", _train_file, check)]
