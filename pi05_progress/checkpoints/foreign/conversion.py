"""Checkpoints of other programs into this package's format, and this package's into their layouts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from flax import nnx

from ...files.output_folder import output_folder, refuse_overlap
from ...models.config import (
    BYTE_VOCABULARY,
    PALIGEMMA_VOCABULARY,
    WORD_VOCABULARY,
    ModelConfigError,
    Pi05Config,
    ProgressKind,
    named_config,
)
from ...models.parameters import HEAD, parameter_paths
from ...models.progress import ProgressHead
from ...observation import UNTRAINED
from ...units.normalize import NormStats, load_norm_stats
from ...units.tokenizer import TokenizerName
from ..checkpoint import MARKERS
from ..checkpoint_error import CheckpointError
from ..description import CONFIG, PARAMS, CheckpointInfo, code_version, read_info, read_stats, write_description
from ..orbax_files import VALUE, open_orbax, write_orbax
from ..parameter_source import ParameterSource, Progress, check_fit
from .config_fields import OPTIONAL, SHAPELESS, Fields, make_config
from .foreign_checkpoint import DESCRIPTION, ForeignCheckpoint, read_json, refuse_own_options
from .lerobot import export_lerobot, open_torch
from .openpi import is_openpi, open_openpi
from .safetensors_files import is_safetensors

Layout = Literal["openpi", "lerobot"]
EXPORT_MARKERS = (DESCRIPTION,)  # what has it is an export, which may be overwritten
TOKENIZERS: dict[int, TokenizerName] = {
    PALIGEMMA_VOCABULARY: "paligemma",
    BYTE_VOCABULARY: "bytes",
    WORD_VOCABULARY: "words",
}


@dataclass(frozen=True)
class ImportOptions:
    """What a person adds to what a checkpoint tells; None leaves it to the checkpoint, or to a default that is told."""

    config: str | None = None  # name of a configuration that supplies what cannot be told from parameters
    fields: Fields = field(default_factory=dict)  # of the configuration, one by one
    progress: ProgressKind | None = None  # kind of progress head
    robot: str | None = None  # name of the robot profile
    model_id: str | None = None  # under which estimates are published
    action_dt_s: float | None = None  # time between two actions
    delta_actions: bool | None = None  # whether arm actions are relative to the state
    quantiles: bool | None = None  # whether quantiles normalise
    tokenizer: TokenizerName | None = None  # of the prompt
    norm_stats: Path | None = None  # file with statistics
    asset_id: str | None = None  # which statistics, if there are several
    seed: int = 0  # of a progress head that is initialised


def open_foreign(path: Path, asset_id: str | None = None) -> ForeignCheckpoint:
    """Open a checkpoint of openpi or LeRobot, whichever it is; a ``CheckpointError`` if it is neither."""
    if is_native(path):
        raise CheckpointError(f"{path} is one of this package's checkpoints already; there is nothing to import")
    if is_safetensors(path):
        return open_torch(path, asset_id)
    if is_openpi(path):
        return open_openpi(path, asset_id)
    raise CheckpointError(
        f"{path}: no checkpoint is recognised. Expected a step's folder of openpi (with params/), or a folder with "
        "model.safetensors of openpi's PyTorch port or of LeRobot's PI05"
    )


def is_native(path: Path) -> bool:
    """Whether a folder is a checkpoint of this package."""
    return (path / PARAMS).is_dir() and {"format", "model"} <= read_json(path / CONFIG).keys()


@dataclass(frozen=True)
class Planned:
    """An import that is ready to be carried out."""

    foreign: ForeignCheckpoint  # what was found
    info: CheckpointInfo  # what the checkpoint will say about itself
    source: ParameterSource  # its parameters, the progress head included
    notes: tuple[str, ...]  # what a person should know


def plan_import(path: Path, options: ImportOptions, name: str | None = None) -> Planned:
    """Open a checkpoint and settle everything; no parameters are read. Without a ``name`` it is remembered by its path.

    Raises:
        CheckpointError: it is incomplete or does not fit; what is missing, extra or of another shape is listed.
        ModelConfigError: fields of the configuration are unknown or contradict each other.
    """
    foreign = open_foreign(path, None if options.norm_stats else options.asset_id)
    described = foreign.description
    base = named_config(options.config) if options.config else described.model if described else None
    told = foreign.fields
    if described and not options.config:  # it knows better than a guess, or another program's settings
        told = {name: value for name, value in told.items() if name not in SHAPELESS or name in OPTIONAL}
    config = make_config(told, base=base, given=options.fields, where=str(path))
    notes = list(foreign.notes)
    source, config, initialised = _with_head(foreign, config, options, notes)
    check_fit(config, source)
    stats = _statistics(foreign, options, notes)
    info = _info(foreign, config, options, name or _name(path), initialised, notes)
    return Planned(dataclasses.replace(foreign, stats=stats), info, source, tuple(notes))


def _with_head(
    foreign: ForeignCheckpoint, config: Pi05Config, options: ImportOptions, notes: list[str]
) -> tuple[ParameterSource, Pi05Config, bool]:
    """Parameters with the progress head that is wanted, the configuration with it, and whether it is a new one."""
    source = foreign.source(config)
    there = foreign.fields.get("progress.kind")  # None without a head
    wanted = options.progress or there or config.progress.kind
    config = config.with_progress(wanted)
    if wanted == "none":
        if there:
            notes.append(f"the {there} progress head is left out, as asked for")
        return source.without(HEAD), config, False
    told = {name.partition(".")[2]: value for name, value in foreign.fields.items() if name.startswith("progress.")}
    if wanted == there and dataclasses.replace(config.progress, **told) == config.progress:
        notes.append(f"the {there} progress head is kept")
        return source, config, False
    made = parameter_paths(ProgressHead(config.progress, config.paligemma.width, nnx.Rngs(options.seed)))
    head = {f"{HEAD}{path}": np.asarray(value, np.float32) for path, value in made.items()}
    reason = f"instead of the {there} one" if there else "there was none"
    notes.append(
        f"a {wanted} progress head is initialised ({reason}; {sum(a.size for a in head.values()):,} parameters, seed "
        f"{options.seed}): its estimates mean nothing until it is trained"
    )
    return source.without(HEAD).with_arrays(head), config, True


def _statistics(foreign: ForeignCheckpoint, options: ImportOptions, notes: list[str]) -> dict[str, NormStats]:
    stats = dict(foreign.stats) if options.norm_stats is None else load_norm_stats(options.norm_stats)
    if not stats:
        notes.append("there are no normalisation statistics; add them with --norm-stats before it runs on a robot")
    without = [key for key, values in stats.items() if values.q01 is None]
    told = options.quantiles, foreign.quantiles, foreign.description and foreign.description.quantiles
    if without and next((value for value in told if value is not None), True):
        notes.append(
            f"the statistics of {' and '.join(without)} have no quantiles, by which this model normalises: compute "
            "them anew, or give --z-score if mean and deviation normalise"
        )
    return stats


def _name(path: Path) -> str:
    """A folder's name; for a step of a run, the run's before it."""
    path = path.resolve()
    return f"{path.parent.name}/{path.name}" if path.name.isdigit() else path.name


def _info(
    foreign: ForeignCheckpoint,
    config: Pi05Config,
    options: ImportOptions,
    name: str,
    initialised: bool,
    notes: list[str],
) -> CheckpointInfo:
    """The description; what neither the checkpoint nor a person says is assumed, and the assumption is told."""
    described = foreign.description
    known = described or CheckpointInfo(config)
    tokenizer = described.tokenizer if described else TOKENIZERS.get(config.vocabulary)
    choices = {  # what a person says, what the checkpoint says, and what is assumed otherwise
        "robot": (options.robot, None, f"robot {known.robot} (--robot)"),
        "action_dt_s": (options.action_dt_s, None, f"{1 / known.action_dt_s:.3g} actions per second (--fps)"),
        "delta_actions": (options.delta_actions, foreign.delta_actions, "absolute actions (--delta-actions)"),
        "quantiles": (options.quantiles, foreign.quantiles, "quantiles normalise (--z-score)"),
        "tokenizer": (options.tokenizer, tokenizer, f"tokenizer {known.tokenizer} (--tokenizer)"),
    }
    stated = {name: told if given is None else given for name, (given, told, _) in choices.items()}
    assumed = [choices[name][2] for name, value in stated.items() if value is None and described is None]
    if assumed:
        notes.append(f"assumed, as the checkpoint does not say: {', '.join(assumed)}")
    if initialised and options.model_id not in (None, UNTRAINED):
        raise ModelConfigError(
            f"--model-id {options.model_id}: the progress head is new, so its estimates are published as "
            f"{UNTRAINED!r}; leave --model-id out, or choose --progress none"
        )
    model_id = options.model_id or (described.model_id if described else name)
    return dataclasses.replace(
        known,
        model=config,
        model_id=UNTRAINED if initialised else model_id,
        asset_id=options.asset_id or foreign.asset_id or known.asset_id,
        code_version=code_version(),
        source={"kind": foreign.kind, "name": name, "notes": list(notes)},
        **{name: value for name, value in stated.items() if value is not None},
    )


def carry_out(
    planned: Planned,
    destination: Path,
    *,
    dtype: Literal["float32", "bfloat16"] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write what was planned; the folder appears when it is complete, and one leaf at a time is in memory.

    Args:
        dtype: to store parameters in; None keeps what they have. The progress head keeps its own.
        overwrite: whether to replace what was written there before; other folders never are.
        progress: called with path and bytes of every leaf.

    Raises:
        CheckpointError: parameters are damaged.
        OutputFolderError: the folder is there already or cannot be written, or one of both lies in the other.
    """
    refuse_overlap(destination, [planned.foreign.where])
    with output_folder(destination, replaces=MARKERS if overwrite else None) as partial:
        write_orbax(partial / PARAMS, planned.source, dtype=dtype, progress=progress)
        write_description(partial, planned.info, planned.foreign.stats)


def open_native(folder: Path) -> tuple[CheckpointInfo, ParameterSource]:
    """A checkpoint of this package, its parameters unread; a ``CheckpointError`` if they are not all of its model's."""
    info = read_info(folder)
    source = open_orbax(Path(folder) / PARAMS)
    check_fit(info.model, source)
    return info, source


def export_checkpoint(
    folder: Path,
    destination: Path,
    layout: Layout,
    *,
    dtype: Literal["float32", "bfloat16"] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Write a checkpoint in another program's layout; returns what a person should know. Arguments are as of
    ``carry_out``, and so are errors, also where the layout has no place for the checkpoint.

    Beside what the other program reads lie the statistics (``assets/<id>/norm_stats.json``) and this checkpoint's
    description (``pi05_progress.json``), so that importing the export gives the same checkpoint again.
    """
    info, source = open_native(folder)
    refuse_own_options(folder, info, "openpi" if layout == "openpi" else "LeRobot")
    stats = read_stats(folder, info)
    refuse_overlap(destination, [folder])
    with output_folder(destination, replaces=EXPORT_MARKERS if overwrite else None) as partial:
        if layout == "openpi":
            write_orbax(partial / PARAMS, source, dtype=dtype, suffix=VALUE, progress=progress)
            kept = f"the progress head is kept ({HEAD}*); openpi passes over parameters it does not know"
            notes = [] if info.model.progress.kind == "none" else [kept]
        else:
            notes = export_lerobot(partial, source, info, stats, dtype=dtype, progress=progress)
        write_description(partial, info, stats, DESCRIPTION)
    if not stats:
        notes.append("the checkpoint has no normalisation statistics, so the export has none")
    return notes
