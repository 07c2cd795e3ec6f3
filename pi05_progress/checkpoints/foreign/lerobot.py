"""PyTorch checkpoints: openpi's port (``model.safetensors``) and LeRobot's PI05 (the same names after ``model.``)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...models.config import Pi05Config, ProgressConfig, pi05, tiny
from ...models.flow import PERIODS
from ...models.lora import is_adapter
from ...models.parameters import ParameterMismatchError, check_parameters, listed
from ...observation import IMAGE_KEYS
from ...units.normalize import NormStats
from ..checkpoint_error import CheckpointError
from ..description import CheckpointInfo
from ..parameter_source import ParameterSource, Progress
from . import torch_parameters as torch
from .config_fields import TORCH_HEADS, Fields, fields_of_tensors
from .foreign_checkpoint import ForeignCheckpoint, find_description, find_stats, read_json, refuse_incomplete
from .head_file import HEAD_FILE, open_head, to_torch, write_head
from .safetensors_files import SINGLE, TensorFile, open_safetensors, write_safetensors

CONFIG, TYPE = "config.json", "pi05"
PREPROCESSOR, NORMALIZER = "policy_preprocessor.json", "normalizer_processor"
STATE, ACTION = "observation.state", "action"
PICTURES, EMPTY_CAMERA = "observation.images.", "empty_camera_"  # the latter are always masked
STATISTICS = ("mean", "std", "q01", "q99")
NORMALIZATION = {"QUANTILES": True, "MEAN_STD": False}


def open_torch(path: Path, asset_id: str | None = None) -> ForeignCheckpoint:
    """Open ``model.safetensors`` or its folder; a ``CheckpointError`` unless it is a complete Pi0.5 of PyTorch's."""
    folder = path if path.is_dir() else path.parent
    settings = read_json(folder / CONFIG)
    if settings.get("type", TYPE) != TYPE:
        raise CheckpointError(f"{folder / CONFIG} is of a policy of type {settings['type']!r}; only {TYPE} is known")
    file = _with_head(open_safetensors(path), folder)
    is_lerobot = "type" in settings or any(name.startswith(torch.PREFIX) for name in file.tensors)
    names = torch.names_by_key(file.tensors)
    notes = []
    if names.get(torch.EMBEDDING) == names.get(torch.TRUNK_LM_HEAD):
        notes.append("embeddings are read from lm_head, under which files with tied weights keep them")
    fields = fields_of_tensors({key: tuple(file.tensors[name].shape) for key, name in names.items()})
    wanted, head = _keys(fields)
    refuse_incomplete(file.where, wanted, [key for key in names if key not in head and not torch.is_unused(key)])
    told, quantiles, delta = {k: v for k, v in settings.items() if k == "action_horizon"}, True, None
    if is_lerobot:
        told, quantiles, delta = _lerobot_settings(folder, settings)
    cameras = camera_names(settings)
    if cameras and cameras != IMAGE_KEYS:
        notes.append(
            f"its pictures came in the order {', '.join(cameras)}; this package's model takes "
            f"{', '.join(IMAGE_KEYS)}, in this order (backend torch keeps LeRobot's)"
        )
    found, stats = find_stats(folder, asset_id)
    if not stats and is_lerobot:
        stats = _processor_statistics(folder)
        found = (asset_id or "lerobot") if stats else None
    return ForeignCheckpoint(
        kind="lerobot" if is_lerobot else "openpi-pytorch",
        where=path,
        fields=fields | told,
        source=lambda config: _source(file, names, config, fields),
        listing=file.tensors,
        stats=stats,
        asset_id=found,
        notes=tuple(notes),
        description=find_description(folder),
        quantiles=quantiles,
        delta_actions=delta,
    )


def camera_names(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Cameras of LeRobot's ``config.json`` in its order, which is that of the pictures in the prefix."""
    names = [name.removeprefix(PICTURES) for name in settings.get("input_features", {}) if name.startswith(PICTURES)]
    return tuple(name for name in names if not name.startswith(EMPTY_CAMERA))


def _with_head(file: TensorFile, folder: Path) -> TensorFile:
    """A model's file with the progress head beside it, if there is one."""
    head = open_head(folder)
    if head is None:
        return file
    if inside := [name for name in file.tensors if name.removeprefix(torch.PREFIX) in head.tensors]:
        raise CheckpointError(f"{file.where} has a progress head ({inside[0]}) and so has {head.where}: remove one")
    return TensorFile(file.where, {**file.tensors, **head.tensors}, {**file.files, **head.files})


def _keys(fields: Fields) -> tuple[list[str], set[str]]:
    """Keys of the tensors of a model with so many layers, and those of a progress head."""
    depth, small = max(fields.get("paligemma.depth", 1), fields.get("expert.depth", 1)), tiny()
    depths = {"siglip": fields.get("siglip.depth", 1), "paligemma": depth, "expert": depth}
    parts = {name: dataclasses.replace(getattr(small, name), depth=depth) for name, depth in depths.items()}
    like = dataclasses.replace(small, **parts)
    keys = [part.key for parts in torch.torch_parts(like).values() for part in parts]
    return sorted(keys), {part.key for parts in torch.head_parts(like).values() for part in parts}


def _source(file: TensorFile, names: Mapping[str, str], config: Pi05Config, fields: Fields) -> ParameterSource:
    head = {name.partition(".")[2]: value for name, value in fields.items() if name.startswith("progress.")}
    progress = ProgressConfig(**head) if head else ProgressConfig(kind="none")
    parts = torch.torch_parts(config) | torch.head_parts(dataclasses.replace(config, progress=progress))
    wanted = {part.key: jax.ShapeDtypeStruct(part.shape, np.float32) for of in parts.values() for part in of}
    try:
        check_parameters(wanted, {key: file.tensors[names[key]] for key in wanted})
    except ParameterMismatchError as error:
        raise CheckpointError(f"{file.where} does not fit the model configuration {config.name!r}: {error}") from error
    dtypes = {key: np.dtype(file.tensors[name].dtype) for key, name in names.items()}
    return torch.leaf_source(file.where, parts, dtypes, lambda key: file.read(names[key]))


def _lerobot_settings(folder: Path, settings: Mapping[str, Any]) -> tuple[Fields, bool | None, bool | None]:
    """From LeRobot's config.json: fields of the model, whether quantiles normalise, whether actions are relative."""
    fields: Fields = {"discrete_state": True}  # LeRobot always writes the state into the prompt
    names = {"chunk_size": "action_horizon", "tokenizer_max_length": "max_token_len", "dtype": "compute_dtype"}
    fields |= {ours: settings[theirs] for theirs, ours in names.items() if theirs in settings}
    if "image_resolution" in settings:
        fields["image_size"] = list(settings["image_resolution"])
    periods = (settings.get("min_period", PERIODS[0]), settings.get("max_period", PERIODS[1]))
    if periods != PERIODS:
        raise CheckpointError(f"{folder / CONFIG}: time embedding periods {periods}; this model has {PERIODS}")
    if not settings:
        return fields, None, None
    modes = {settings.get("normalization_mapping", {}).get(name, "QUANTILES") for name in ("STATE", "ACTION")}
    if len(modes) != 1 or not modes <= NORMALIZATION.keys():
        raise CheckpointError(
            f"{folder / CONFIG}: normalization_mapping {sorted(modes)}; state and action must both be one of "
            f"{', '.join(NORMALIZATION)}"
        )
    return fields, NORMALIZATION[modes.pop()], bool(settings.get("use_relative_actions", False))


def _processor_statistics(folder: Path) -> dict[str, NormStats]:
    """Statistics that LeRobot keeps with its preprocessor; empty if there are none."""
    steps = read_json(folder / PREPROCESSOR).get("steps", [])
    files = [step.get("state_file") for step in steps if step.get("registry_name") == NORMALIZER]
    if not files or not files[0]:
        return {}
    tensors = open_safetensors(folder / files[0])
    stats = {}
    for ours, theirs in (("state", STATE), ("actions", ACTION)):
        found = {name: f"{theirs}.{name}" for name in STATISTICS if f"{theirs}.{name}" in tensors.tensors}
        if not {"mean", "std"} <= found.keys():
            return {}
        stats[ours] = NormStats(**{name: np.asarray(tensors.read(key), float) for name, key in found.items()})
    return stats


def export_lerobot(
    folder: Path,
    source: ParameterSource,
    info: CheckpointInfo,
    stats: Mapping[str, NormStats],
    *,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Write ``model.safetensors``, ``config.json`` and the progress head; returns what a person should know.

    The statistics decide how many numbers of state and action LeRobot is told of. A model that LeRobot has not is a
    ``CheckpointError``.
    """
    config = info.model
    notes = _check_exportable(source, info)
    parts = torch.torch_parts(config)
    if config.progress.kind != "none":
        write_head(folder, to_torch({path: source.read(path) for path in torch.head_parts(config)}, config))
        notes.append(f"the progress head is kept in {HEAD_FILE}, which LeRobot passes over and backend torch reads")
    layout = {
        torch.PREFIX + part.key: jax.ShapeDtypeStruct(part.shape, source.dtype_of(path, dtype))
        for path, of in parts.items()
        for part in of
    }
    # Not used by the model, but LeRobot's strict loading wants them; it takes the embeddings from the first if it must.
    table = layout[torch.PREFIX + torch.EMBEDDING]
    layout[torch.PREFIX + torch.TRUNK_LM_HEAD] = table
    unused = jax.ShapeDtypeStruct((config.vocabulary, config.expert.width), table.dtype)
    layout[torch.PREFIX + torch.EXPERT_LM_HEAD] = unused

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for path, of in parts.items():
            leaf = source.read(path, dtype)
            for part in of:
                tensor = part.to_tensor(leaf)
                yield torch.PREFIX + part.key, tensor
                if part.key == torch.EMBEDDING:
                    yield torch.PREFIX + torch.TRUNK_LM_HEAD, tensor
            if progress is not None:
                progress(path, leaf.nbytes)
            del leaf, tensor  # before the next is read
        yield torch.PREFIX + torch.EXPERT_LM_HEAD, np.zeros(unused.shape, unused.dtype)

    write_safetensors(folder / SINGLE, layout, tensors())
    settings = _config_json(info, stats, str(jnp.dtype(table.dtype)))
    (folder / CONFIG).write_text(json.dumps(settings, indent=4) + "\n", encoding="utf-8")
    return notes


def _check_exportable(source: ParameterSource, info: CheckpointInfo) -> list[str]:
    config = info.model
    if adapters := list(filter(is_adapter, source.leaves)):
        raise CheckpointError(f"LeRobot's layout has no place for the model's adapters (LoRA): {listed(adapters)}")
    if (heads := config.paligemma.num_heads) != TORCH_HEADS:
        raise CheckpointError(f"the model has {heads} attention heads; {TORCH_HEADS} are written into LeRobot's code")
    if config.image_size[0] != config.image_size[1]:
        raise CheckpointError(f"the model reads pictures of {config.image_size} pixels; LeRobot's are square")
    notes = []
    full = pi05()
    if any(getattr(config, name) != getattr(full, name) for name in ("siglip", "paligemma", "expert", "vocabulary")):
        notes.append("LeRobot knows only the full sizes: to load this model, its tables of variants must be changed")
    if not config.discrete_state:
        notes.append("this model does not read the state; LeRobot writes it into every prompt")
    if info.delta_actions:
        notes.append("arm actions are relative to the state: see use_relative_actions and what it excludes in LeRobot")
    return notes


def _config_json(info: CheckpointInfo, stats: Mapping[str, NormStats], dtype: str) -> dict[str, Any]:
    config, normalization = info.model, "QUANTILES" if info.quantiles else "MEAN_STD"

    def size(key: str) -> int:
        return len(stats[key].mean) if key in stats else config.action_dim

    def feature(kind: str, *shape: int) -> dict[str, Any]:
        return {"type": kind, "shape": list(shape)}

    images = {f"{PICTURES}{key}": feature("VISUAL", 3, *config.image_size) for key in IMAGE_KEYS}
    return {
        "type": TYPE,
        "n_obs_steps": 1,
        "input_features": {**images, STATE: feature("STATE", size("state"))},
        "output_features": {ACTION: feature("ACTION", size("actions"))},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": normalization, "ACTION": normalization},
        "use_relative_actions": info.delta_actions,
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "dtype": dtype,
        "chunk_size": config.action_horizon,
        "n_action_steps": config.action_horizon,
        "max_state_dim": max(config.action_dim, size("state")),
        "max_action_dim": config.action_dim,
        "num_inference_steps": 10,
        "min_period": PERIODS[0],
        "max_period": PERIODS[1],
        "image_resolution": list(config.image_size),
        "tokenizer_max_length": config.max_token_len,
    }
