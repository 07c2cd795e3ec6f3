"""A checkpoint folder: parameters, statistics and a description of what they belong to, complete or not there at all.

params/                          Orbax, openpi's tree names
assets/<asset id>/norm_stats.json
config.json                      model, robot profile, tokenizer, data and code version
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from .models.config import ModelConfigError, Pi05Config, config_from_dict, config_to_dict
from .models.parameters import ParameterMismatchError, load_parameters, parameter_paths
from .models.pi05 import Pi05
from .normalize import NormStats, NormStatsError, load_norm_stats, save_norm_stats

FORMAT = 1
CONFIG, PARAMS, ASSETS = "config.json", "params", "assets"


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete, or does not fit; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What parameters belong to.

    Attributes:
        model: sizes.
        robot: name of the robot profile the data came from.
        model_id: name under which estimates are published.
        action_dt_s: time between two actions of a chunk, 1 / frame rate of the training data.
        asset_id: folder of the statistics.
        tokenizer: ``bytes``, or ``paligemma`` (then a path is needed to load it).
        delta_actions: whether arm actions are relative to the state.
        quantiles: whether quantiles normalise, else mean and deviation.
        labels: how progress labels were made, with arguments.
        code_version: of this package, when it was saved.
    """

    model: Pi05Config
    robot: str = "teleavatar"
    model_id: str = "untrained"
    action_dt_s: float = 1 / 30
    asset_id: str = "teleavatar"
    tokenizer: str = "bytes"
    delta_actions: bool = False
    quantiles: bool = True
    labels: Mapping[str, Any] = field(default_factory=dict)
    code_version: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A model with what it needs to be used; ``stats`` may be empty, then nothing is normalised."""

    info: CheckpointInfo
    model: Pi05
    stats: Mapping[str, NormStats]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, overwrite: bool = False) -> None:
    """Write a checkpoint folder; it appears when it is complete.

    Raises:
        CheckpointError: the folder is already there and overwriting was not asked for.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    if folder.exists() and not overwrite:
        raise CheckpointError(f"{folder} is already there; choose another folder, or overwrite it explicitly")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(partial / PARAMS, {"params": _nested(parameter_paths(checkpoint.model))})
    if checkpoint.stats:
        save_norm_stats(partial / ASSETS / checkpoint.info.asset_id / "norm_stats.json", checkpoint.stats)
    data = dataclasses.asdict(checkpoint.info) | {"format": FORMAT, "model": config_to_dict(checkpoint.info.model)}
    (partial / CONFIG).write_text(json.dumps(data, indent=2) + "\n")
    if folder.exists():
        old = folder.with_name(f"{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old)
    else:
        os.replace(partial, folder)


def read_info(folder: Path) -> CheckpointInfo:
    """What a checkpoint says about itself.

    Raises:
        CheckpointError: no checkpoint, or its description is wrong.
    """
    path = Path(folder) / CONFIG
    if not Path(folder).is_dir():
        raise CheckpointError(f"{folder}: no such folder; a checkpoint is a folder with {CONFIG} and {PARAMS}/")
    try:
        data = json.loads(path.read_text())
        if data.pop("format") != FORMAT:
            raise CheckpointError(f"{path}: written in another format than {FORMAT}; use the version that wrote it")
        return CheckpointInfo(**data | {"model": config_from_dict(data["model"])})
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); is {folder} a checkpoint?") from error
    except (KeyError, TypeError, json.JSONDecodeError, ModelConfigError) as error:
        raise CheckpointError(f"{path}: not a checkpoint's description: {error}") from error


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        CheckpointError: missing, incomplete or damaged; what is missing, extra or of another shape is listed.
    """
    info = read_info(folder)
    parameters = read_parameters(Path(folder) / PARAMS)
    model = nnx.eval_shape(lambda: Pi05(info.model, nnx.Rngs(0)))
    try:
        load_parameters(model, parameters)
        stats_path = Path(folder) / ASSETS / info.asset_id / "norm_stats.json"
        stats = load_norm_stats(stats_path) if stats_path.parent.exists() else {}
    except (ParameterMismatchError, NormStatsError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    if not stats and info.model_id != "untrained":
        raise CheckpointError(f"{folder}: {ASSETS}/{info.asset_id}/norm_stats.json is missing")
    return Checkpoint(info, model, stats)


def read_parameters(folder: Path) -> dict[str, np.ndarray | jax.Array]:
    """Parameters by path from an Orbax folder, openpi's or ours; ``value`` at the end of every path is taken off.

    Raises:
        CheckpointError: missing or damaged.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; the checkpoint is incomplete")
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(folder).item_metadata
            arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), dict(metadata))
            tree = checkpointer.restore(folder, ocp.args.PyTreeRestore(restore_args=arguments))
    except Exception as error:  # Orbax and TensorStore raise whatever they come upon
        raise CheckpointError(f"{folder}: cannot be restored, it is damaged or incomplete: {error}") from error
    flat = dict(_flat(tree.get("params", tree)))
    if flat and all(path.endswith("/value") for path in flat):
        flat = {path.removesuffix("/value"): value for path, value in flat.items()}
    return flat


def _nested(flat: Mapping[str, Any]) -> dict:
    tree: dict = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def _flat(tree: Mapping, prefix: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for name, value in tree.items():
        path = f"{prefix}{name}"
        leaves += _flat(value, f"{path}/") if isinstance(value, Mapping) else [(path, value)]
    return leaves


def untrained(config: Pi05Config, robot: str, seed: int = 0) -> Checkpoint:
    """Random parameters: something to run before anything was learnt. Its estimates mean nothing and are marked so."""
    return Checkpoint(CheckpointInfo(config, robot=robot), Pi05(config, nnx.Rngs(seed)), {})
