"""A checkpoint of another program, opened but not read yet, and what all such checkpoints have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jax

from ...files import json_file
from ...models.config import Pi05Config
from ...models.parameters import differences
from ...units.normalize import NormStats, load_norm_stats
from ..checkpoint_error import CheckpointError
from ..description import ASSETS, NORM_STATS, CheckpointInfo, parse_info
from ..parameter_source import ParameterSource
from .config_fields import Fields

DESCRIPTION = "pi05_progress.json"  # what an export of ours says about itself; other programs pass it over


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What was found of a checkpoint of another program; no parameters have been read."""

    kind: str  # `openpi`, `openpi-pytorch` or `lerobot`
    where: Path  # folder or file
    fields: Fields  # what it tells of the model's configuration
    source: Callable[[Pi05Config], ParameterSource]  # its parameters, by openpi's paths, for a configuration
    listing: Mapping[str, jax.ShapeDtypeStruct]  # its arrays under its own names
    stats: Mapping[str, NormStats] = field(default_factory=dict)  # its statistics; empty if there are none
    asset_id: str | None = None  # of the statistics
    notes: tuple[str, ...] = ()  # what a person should know about it
    description: CheckpointInfo | None = None  # what this package wrote beside it, if it is an export
    quantiles: bool | None = None  # whether quantiles normalise; None if not known
    delta_actions: bool | None = None  # whether actions are relative; None if not known


def find_stats(folder: Path, asset_id: str | None) -> tuple[str | None, dict[str, NormStats]]:
    """Statistics under ``assets/``, those of an asset id if there are several; the ids may contain slashes.

    Raises:
        CheckpointError: there are several and none was named, or the one named is missing.
        NormStatsError: they are damaged.
    """
    assets = folder / ASSETS
    found = {str(path.parent.relative_to(assets)): path for path in sorted(assets.rglob(NORM_STATS))}
    if not found and asset_id is None:
        return None, {}
    if asset_id is None and len(found) > 1:
        raise CheckpointError(f"{assets} has statistics of {', '.join(found)}; choose one with --asset-id")
    chosen = next(iter(found)) if asset_id is None else asset_id
    if chosen not in found:
        raise CheckpointError(f"{assets} has no statistics {chosen!r}; there are: {', '.join(found) or 'none'}")
    return chosen, load_norm_stats(found[chosen])


def find_description(folder: Path) -> CheckpointInfo | None:
    """What this package wrote beside an export; raises as ``parse_info`` if it is damaged."""
    return parse_info(folder / DESCRIPTION) if (folder / DESCRIPTION).is_file() else None


def read_json(path: Path) -> dict:
    """An object from a JSON file, empty if there is none; a ``CheckpointError`` if the file holds something else."""
    if not path.is_file():
        return {}
    try:
        data = json_file.read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: an object was expected")
    return data


def refuse_own_options(where: Path, info: CheckpointInfo, program: str) -> None:
    """Raise a ``CheckpointError`` that names what of a checkpoint another program cannot compute."""
    model = info.model
    options = {
        "a vision tower that finds points (vision)": model.vision == "points",
        f"named positions ({', '.join(model.positions)})": bool(model.positions),
        "a state token (state_token)": model.state_token,
        "actions normalised per row of a chunk (actions_per_row)": info.actions_per_row,
    }
    if own := [name for name, on in options.items() if on]:
        raise CheckpointError(f"{where}: the model has {' and '.join(own)}, which {program} cannot compute")


def refuse_incomplete(where: str, wanted: Iterable[str], given: Iterable[str]) -> None:
    """Raise a ``CheckpointError`` that lists missing and unknown parameters, before anything is derived from others."""
    given = list(given)
    if problems := differences(wanted, given):
        is_pi0 = any("state_proj" in name for name in given)
        hint = "; this looks like pi0, which has another action expert than pi0.5" if is_pi0 else ""
        raise CheckpointError(f"{where} is not a complete Pi0.5: {problems}{hint}")
