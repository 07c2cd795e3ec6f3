"""Where a run starts: with new parameters, with those of a checkpoint, or where it was stopped; and which model is
trained then, on what statistics.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from pi05_progress.checkpoints.description import (
    ASSETS,
    DURATIONS,
    NORM_STATS,
    PARAMS,
    CheckpointInfo,
    read_info,
    read_stats,
)  # fmt: skip
from pi05_progress.checkpoints.orbax_files import open_orbax
from pi05_progress.checkpoints.parameter_source import ParameterSource
from pi05_progress.errors import UserError
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import Trained
from pi05_progress.models.parameters import HEAD
from pi05_progress.observation import UNTRAINED
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import NormStats
from pi05_progress.units.tokenizer import TokenizerName

from ..engine.state import TrainState, abstract_state, start_state
from ..engine.step import training_keys
from ..labels.milestones import STAGES, durations_s
from ..loading.config import DataConfig
from ..loading.loader import TrainLoader
from ..recipes.config import TrainConfig
from .checkpoints import RUN, RunState, restore_state
from .simulation import SIMULATED


@dataclass(frozen=True)
class Base:
    """The checkpoint a run starts from; its parameters are still on disk."""

    folder: Path
    info: CheckpointInfo
    source: ParameterSource

    @property
    def has_trained_head(self) -> bool:
        """Whether its estimates of progress mean something."""
        return self.info.model_id != UNTRAINED and any(path.startswith(HEAD) for path in self.source.leaves)


def open_base(checkpoint: Path | None) -> Base | None:
    """The checkpoint to start from, if one is given; its parameters are not read yet."""
    if checkpoint is None:
        return None
    folder = checkpoint.expanduser()
    return Base(folder, read_info(folder), open_orbax(folder / PARAMS))


def differences(
    base: Base, model: Pi05Config, data: DataConfig, profile: RobotProfile, tokenizer: TokenizerName
) -> str:
    """What decides how a model acts and is not as in the checkpoint, with both values; empty if all of it is."""
    info = base.info
    names = ("image_size", "base_size", "base_crop", "hands", "state_token", "discrete_state")
    names += ("action_dim", "action_horizon", "max_token_len")
    names += ("positions", "positions_middle") * bool(model.positions and info.model.positions)
    theirs = {f"model.{name}": getattr(info.model, name) for name in names}
    ours = {f"model.{name}": getattr(model, name) for name in names}
    theirs |= {"data.robot": info.robot, "tokenizer": info.tokenizer}
    ours |= {"data.robot": profile.name, "tokenizer": tokenizer}
    for name in ("delta_actions", "quantiles", "actions_per_row"):
        theirs[f"data.{name}"], ours[f"data.{name}"] = getattr(info, name), getattr(data, name)
    return "; ".join(f"{name} is {ours[name]}, there {theirs[name]}" for name in ours if ours[name] != theirs[name])


def with_statistics(data: DataConfig, checkpoint: Path, info: CheckpointInfo) -> DataConfig:
    """What is loaded where a checkpoint's statistics are to be used: with these, if it has any."""
    path = checkpoint / ASSETS / info.asset_id / NORM_STATS
    return dataclasses.replace(data, norm_stats=path, foreign_norm_stats=True) if path.exists() else data


def check_labels(trained: Trained, data: DataConfig, has_labels: bool) -> None:
    """Refuse to train the progress head alone on data that say nothing about progress."""
    if trained == "head" and not has_labels:
        raise UserError(
            f"--trained=head, but there are no progress labels in {data.repo_id}; make them: python -m "
            "training.add_progress_labels"
        )


def effective_model(
    model: Pi05Config, trained: Trained, progress_weight: float, base: Base | None, has_labels: bool
) -> tuple[Pi05Config, str]:
    """The model to train, and a sentence on what is learnt.

    A head that nothing teaches is left out: it would publish numbers that mean nothing.
    """
    if has_labels and model.progress.kind != "none":
        if trained == "head":
            return model, f"learns progress alone ({model.progress.kind} head); everything else stays as it is"
        return model, f"learns actions and progress ({model.progress.kind} head, weight {progress_weight:g})"
    if has_labels:
        return model, "learns actions alone: the data has progress labels, but the model has no progress head"
    if model.progress.kind == "none":
        return model, "learns actions alone: the data has no progress labels, and the model has no progress head"
    if base is not None and base.has_trained_head:
        return model, (
            "learns actions alone: the data has no progress labels. The progress head stays as it is in the "
            "checkpoint, but what it reads changes: check its estimates"
        )
    return model.with_progress("none"), (
        "learns actions alone: the data has no progress labels. The progress head would mean nothing and is left out"
    )


def position_notes(model: Pi05Config, taught: bool) -> list[str]:
    """What is to be said where nothing teaches the positions that a model acts by."""
    text = (
        f"note: nothing teaches where {', '.join(model.positions)} are, so their head learns from the actions alone: "
        "that takes truth.positions in the data and --loss.position_weight above 0; convert recordings that have them, "
        "or leave the head out: --model.positions without names"
    )
    return [text] if model.positions and not taught else []


def check_best(best: str, chosen: bool, validates: bool, model: Pi05Config, loader: TrainLoader) -> list[str]:
    """Refuse a number that no validation of this run will give; returns what is to be said.

    ``chosen`` is whether it was asked for, and not only what the recipe says; ``validates`` whether there will be any.
    """
    head, labels = model.progress.kind != "none", "progress labels (training.add_progress_labels) and a progress head"
    needs = {
        "position_error_mm": (model.positions and loader.has_positions, "labelled positions and --model.positions"),
        "progress_mae": (head and loader.has_labels, labels),
        "spearman": (head, labels),
    }
    there, what = needs.get(best, (True, ""))
    if not there:
        raise UserError(f"--best is {best}, which this run cannot measure without {what}; or choose --best=loss")
    if validates or best in SIMULATED:
        return []
    if chosen:
        raise UserError(
            f"--best is {best}, but nothing is validated: --validation_interval and --data.validation_fraction above 0 "
            "do, with episodes to hold out; or leave --best out"
        )
    return ["note: nothing is validated, so no checkpoint is called best"]


class Start(NamedTuple):
    """What a run begins with."""

    state: TrainState  # parameters and optimiser
    key: Key[Array, ""]  # that every step folds its number into
    begin: RunState  # where the run is
    # where the parameters are from, as checkpoints say it: ``base``, ``base_model_id``, ``initialised``
    source: dict[str, Any]
    unused: list[str]  # paths of parameters that the checkpoint has and the model does not


def fresh(config: TrainConfig, model: Pi05Config, mesh: Mesh, base: Base | None) -> Start:
    """The start of a new run with this model, from a checkpoint if ``base`` is one."""
    train_key, init_key = training_keys(config.seed)
    source = None if base is None else base.source
    started = start_state(model, mesh, config.trained, config.optimizer, init_key, source, freeze=config.freeze)
    told: dict[str, Any] = {}
    if base is not None:
        told = {"base": str(base.folder.resolve()), "base_model_id": base.info.model_id}
        if started.initialised:
            told["initialised"] = started.initialised
    data = [int(word) for word in jax.device_get(jax.random.key_data(train_key)).ravel()]
    return Start(started.state, train_key, RunState(0, data, None), told, started.unused)


def restored(config: TrainConfig, model: Pi05Config, mesh: Mesh, last: Path, source: Mapping[str, Any]) -> Start:
    """Where a run was when it saved its last checkpoint."""
    begin = RunState.read(last / RUN)
    state = restore_state(last, abstract_state(model, mesh, config.trained, config.optimizer, config.freeze))
    return Start(state, jax.random.wrap_key_data(jnp.asarray(begin.key, jnp.uint32)), begin, dict(source), [])


def start_notes(start: Start, base: Base | None, different: str, stats: Mapping[str, NormStats]) -> list[str]:
    """What should be said of a new run's start to whoever starts it; ``different`` is what ``differences`` says."""
    if base is None:
        return ["starts with random parameters"]
    notes = [f"starts from {base.folder} ({base.info.model_id}, robot {base.info.robot})"]
    if different:
        notes.append(f"note: what that checkpoint learnt was with other settings: {different}")
    theirs = read_stats(base.folder, base.info)
    if others := [key for key in stats if key in theirs and not _alike(stats[key], theirs[key])]:
        notes.append(
            f"note: {' and '.join(others)} are normalised by other statistics than in that checkpoint; its own: "
            f"--data.norm_stats={base.folder / ASSETS / base.info.asset_id / NORM_STATS} --data.foreign_norm_stats"
        )
    if initialised := start.source.get("initialised"):
        notes.append(f"not in the checkpoint, so they keep their initial values: {_brief(initialised)}")
    if start.unused:
        notes.append(f"in the checkpoint, but not in the model: {_brief(start.unused)}")
    return notes


def _alike(one: NormStats, other: NormStats) -> bool:
    """Whether statistics are the same in all dimensions that both have."""
    size = min(one.mean.shape[-1], other.mean.shape[-1])
    pairs = ((one.mean, other.mean), (one.std, other.std))
    return all(np.allclose(a[..., :size], b[..., :size], rtol=1e-3, atol=1e-6) for a, b in pairs)


def _brief(paths: list[str], most: int = 4) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return f"{', '.join(paths[:most])}{more}"


def label_description(loader: TrainLoader) -> dict[str, Any]:
    """Plain values for JSON.

    Returns:
        ``method`` and ``arguments`` (under ``methods`` by data set, if they differ), ``stages`` by task, and
        ``median_durations_s`` by task over episodes that were trained on and did not fail.
    """
    seconds: dict[str, list[float]] = {}
    stages: dict[str, list[dict[str, Any]]] = {}
    methods: dict[str, dict[str, Any]] = {}
    parts = zip(loader.datasets, loader.progress_meta, loader.held_out, loader.label_columns, strict=True)
    for dataset, meta, held_out, column in parts:
        for task, durations in durations_s(dataset, meta, held_out).items():
            seconds.setdefault(task, []).extend(durations)
        if meta.labels is not None and meta.labels.columns.get("progress") == column:  # else of others
            methods[dataset.root.name] = {"method": meta.labels.method, "arguments": dict(meta.labels.arguments)}
            stages |= {
                task: [{"name": stage.name, "share": stage.share} for stage in of_task]
                for task, of_task in meta.labels.stages.items()
            }
    different = {json.dumps(method, sort_keys=True) for method in methods.values()}
    how = next(iter(methods.values())) if len(different) == 1 else {"methods": methods}
    return {**how, STAGES: stages, DURATIONS: {task: float(np.median(of)) for task, of in seconds.items()}}
