"""The resolved configuration of a run: as JSON, and what of it a run that goes on may change."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi05_progress.errors import UserError
from pi05_progress.files.output_file import write_file

from ..recipes.config import TrainConfig

# Fields that change neither what is learnt from nor how; those of ``mesh`` change rounding at most.
FREE = (
    "exp_name",
    "output",
    "from_scratch",
    "tokenizer_path",
    "num_train_steps",
    "log_interval",
    "validation_interval",
    "validation_stride",
    "save_interval",
    "keep_period",
    "mesh",
    "logs",
    "resume",
    "overwrite",
    "plan",
    "plan_devices",
    "plan_gib",
    "data.cache",
    "data.workers",
    "data.threads",
)


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, nested as the dataclasses are."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def save(path: Path, resolved: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Write a configuration (see ``to_json``) and what else is to be known of the run, complete or not at all."""
    write_file(path, json.dumps({"config": dict(resolved), **extra}, indent=2) + "\n", durable=True)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations beyond what may, a line each."""
    old, new = flat(before), flat(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name) and not _is_free(name)]
    return [f"{name}: {_shown(old, name)} -> {_shown(new, name)}" for name in names]


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in FREE)


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name]) if name in values else "(not there)"


def gone_on_with(path: Path, config: TrainConfig) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration of a run that goes on: the one that was saved, with what may be changed as it is now.

    Args:
        config: as it was asked for; what the run started from and its tokenizer's file need not be given again.

    Returns:
        The configuration, and all that was saved: the former one and ``extra``.

    Raises:
        UserError: something else than what may be changed differs, or the file is damaged.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        before = dict(saved["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read, so the run cannot go on: {error}") from error
    known = {name: Path(before[name]) for name in ("checkpoint", "tokenizer_path") if before.get(name)}
    config = dataclasses.replace(config, **{name: of for name, of in known.items() if getattr(config, name) is None})
    if different := changes(before, to_json(config)):
        listed = "\n  ".join(different)
        raise UserError(
            f"the run was started with another configuration ({path}):\n  {listed}\nGo on with the former values, or "
            "give another --exp_name to start a run of its own; these may change: " + ", ".join(FREE)
        )
    return config, saved
