"""What a checkpoint folder says about itself: ``config.json`` and the statistics beside the parameters."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from ..files import output_folder
from ..files.json_file import read_json
from ..files.validation import problems
from ..models.config import STRICT, ModelConfigError, Pi05Config, config_to_dict
from ..observation import UNTRAINED
from ..units.normalize import NormStats, NormStatsError, load_norm_stats, save_norm_stats
from .checkpoint_error import CheckpointError

FORMAT = 1
LONGEST_DT_S = 10.0  # between two actions; more is a mistake, and so are 0 and less
CONFIG, PARAMS, ASSETS, NORM_STATS = "config.json", "params", "assets", "norm_stats.json"
DURATIONS = "median_durations_s"  # in `labels`: the median duration of each task, s


@dataclass(frozen=True)
class CheckpointInfo:
    """What parameters belong to."""

    __pydantic_config__: ClassVar = STRICT
    model: Pi05Config  # sizes
    robot: str = "teleavatar"  # name of the robot profile the data came from
    model_id: str = UNTRAINED  # name under which estimates are published; ``untrained`` if its progress means nothing
    # time between two actions of a chunk, 1 / frame rate of the training data
    action_dt_s: Annotated[float, Field(gt=0, le=LONGEST_DT_S)] = 1 / 30
    asset_id: str = "teleavatar"  # folder of the statistics; may contain slashes
    tokenizer: str = "bytes"  # ``bytes``, ``words`` or ``paligemma`` (then a path is needed to load it)
    delta_actions: bool = False  # whether arm actions are relative to the state
    actions_per_row: bool = False  # whether every row of a chunk is normalised by statistics of its own
    quantiles: bool = True  # whether quantiles normalise, else mean and deviation
    labels: Mapping[str, Any] = field(default_factory=dict)  # how progress labels were made, with arguments
    code_version: str = ""  # of this package, when it was saved
    # what the parameters were imported from, and what was initialised or assumed then
    source: Mapping[str, Any] = field(default_factory=dict)

    def durations_s(self) -> dict[str, float]:
        """The median duration of each task in training, s, by instruction; empty if the checkpoint does not tell it, a
        ``CheckpointError`` if they are no positive numbers by instruction."""
        try:
            return _DURATIONS.validate_python(self.labels.get(DURATIONS) or {})
        except ValidationError as error:
            raise CheckpointError(f"{CONFIG} of {self.model_id}: labels.{DURATIONS}: {problems(error)}") from error


_INFO, _MODEL = TypeAdapter(CheckpointInfo), TypeAdapter(Pi05Config)
_DURATIONS = TypeAdapter(dict[str, Annotated[FiniteFloat, Field(gt=0)]])


def write_description(folder: Path, info: CheckpointInfo, stats: Mapping[str, NormStats], name: str = CONFIG) -> None:
    """Write all but the parameters; ``config.json`` comes last, a folder without it is not a checkpoint."""
    if stats:
        save_norm_stats(folder / ASSETS / info.asset_id / NORM_STATS, stats)
    data = dataclasses.asdict(info) | {"format": FORMAT, "model": config_to_dict(info.model)}
    (folder / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def code_version() -> str:
    """This package's version, as it is installed; empty if it is not."""
    try:
        return importlib.metadata.version("pi05_progress")
    except importlib.metadata.PackageNotFoundError:
        return ""


def read_info(folder: Path) -> CheckpointInfo:
    """What a checkpoint says about itself; a ``CheckpointError`` if it is none, or its description is wrong."""
    folder = Path(folder)
    path = folder / CONFIG
    if not folder.is_dir():
        old = folder.with_name(folder.name + output_folder.OLD)
        left = f". {old} is what an interrupted overwriting left: rename it to get it back" if old.is_dir() else ""
        raise CheckpointError(f"{folder}: no such folder; a checkpoint is a folder with {CONFIG} and {PARAMS}/{left}")
    if path.exists():
        return parse_info(path)
    raise CheckpointError(
        f"{folder} has no {CONFIG}: not a checkpoint of this package, or an incomplete one. Checkpoints of openpi and "
        "LeRobot are imported with: python -m pi05_progress.convert_checkpoint import"
    )


def parse_info(path: Path) -> CheckpointInfo:
    """A description from its file; a ``CheckpointError`` if it cannot be read, or is of another format."""
    try:
        data = read_json(path)
        if not isinstance(data, dict) or "format" not in data:
            raise CheckpointError(f"{path}: not the description of one of this package's checkpoints")
        if data.pop("format") != FORMAT:
            raise CheckpointError(f"{path}: written in another format than {FORMAT}; use the version that wrote it")
        if isinstance(model := data.get("model"), dict):
            data["model"] = _of_today(model)
        return _INFO.validate_python(data)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except CheckpointError:
        raise
    except ValueError as error:
        found = problems(error) if isinstance(error, ValidationError) else error
        raise CheckpointError(f"{path}: not a checkpoint's description: {found}") from error


def read_stats(folder: Path, info: CheckpointInfo) -> dict[str, NormStats]:
    """A checkpoint's statistics, empty if it has none; a ``CheckpointError`` if they are damaged."""
    path = Path(folder) / ASSETS / info.asset_id / NORM_STATS
    if not path.exists():
        return {}
    try:
        return load_norm_stats(path)
    except NormStatsError as error:
        raise CheckpointError(str(error)) from error


def config_from_dict(data: Mapping[str, Any]) -> Pi05Config:
    """The inverse of ``config_to_dict``; a ``ModelConfigError`` names a field that is missing, unknown or wrong."""
    try:
        return _MODEL.validate_python(_of_today(data))
    except ValidationError as error:
        raise ModelConfigError(f"model configuration: {problems(error)}") from error


def _of_today(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration as it is written now; ``remat`` was true or false once."""
    remat = model.get("remat")
    return {**model, "remat": "layers" if remat else "none"} if isinstance(remat, bool) else dict(model)
