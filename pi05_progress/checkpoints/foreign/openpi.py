"""openpi's JAX checkpoints: a step's folder with ``params``, ``assets`` and, from training, ``train_state``."""

from __future__ import annotations

from pathlib import Path

from ...models.config import tiny
from ...models.lora import is_adapter
from ...models.parameters import HEAD, parameter_shapes
from ..checkpoint_error import CheckpointError
from ..orbax_files import open_orbax
from .config_fields import fields_of_leaves
from .foreign_checkpoint import ForeignCheckpoint, find_description, find_stats, refuse_incomplete

PARAMS, TRAIN_STATE, METADATA = "params", "train_state", "_METADATA"


def is_openpi(folder: Path) -> bool:
    """Whether a folder is, or contains, Orbax parameters or steps of a run with them."""
    return folder.is_dir() and ((folder / METADATA).is_file() or (folder / PARAMS).is_dir() or bool(_steps(folder)))


def _steps(folder: Path) -> list[str]:
    steps = [path.name for path in folder.iterdir() if path.name.isdigit() and (path / PARAMS).is_dir()]
    return sorted(steps, key=int)


def open_openpi(folder: Path, asset_id: str | None = None) -> ForeignCheckpoint:
    """Open a step's folder, or its ``params``; a ``CheckpointError`` if it holds several steps, or is incomplete."""
    if not (folder / METADATA).is_file() and not (folder / PARAMS).is_dir() and (steps := _steps(folder)):
        raise CheckpointError(f"{folder} holds steps {', '.join(steps)}; give one, as {folder / steps[-1]}")
    parameters = folder if (folder / METADATA).is_file() else folder / PARAMS
    step = parameters.parent if parameters.name == PARAMS else parameters
    source = open_orbax(parameters)
    wanted = parameter_shapes(tiny().with_progress("none"))
    of_trunk = [path for path in source.leaves if path in wanted or not (path.startswith(HEAD) or is_adapter(path))]
    refuse_incomplete(source.where, wanted, of_trunk)
    found, stats = find_stats(step, asset_id)
    notes = []
    if (step / TRAIN_STATE).is_dir():
        notes.append("train_state is left out: parameters are those of params, averaged if the run averaged them")
    if any(map(is_adapter, source.leaves)):
        notes.append("it has adapters (LoRA), which are kept as they are")
    shapes = {path: tuple(leaf.shape) for path, leaf in source.leaves.items()}
    return ForeignCheckpoint(
        kind="openpi",
        where=folder,
        fields=fields_of_leaves(shapes),
        source=lambda _: source,
        listing=source.leaves,
        stats=stats,
        asset_id=found,
        notes=tuple(notes),
        description=find_description(step),
    )
