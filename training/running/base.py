"""What a run starts from, and what follows from that and from the data: which model is trained, on what statistics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pi05_progress.checkpoints.checkpoint import ASSETS, NORM_STATS, PARAMS, CheckpointInfo, read_info
from pi05_progress.checkpoints.orbax_files import open_orbax
from pi05_progress.checkpoints.parameter_source import ParameterSource
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.parameters import HEAD
from pi05_progress.observation import UNTRAINED
from pi05_progress.robots.profile import RobotProfile

from ..loading.config import DataConfig
from ..recipes.config import TrainConfig


class SetupError(ValueError):
    """A run cannot be started as asked for; the message says which field and what would be right."""


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

    @property
    def stats(self) -> Path | None:
        """Its statistics, if it has any."""
        path = self.folder / ASSETS / self.info.asset_id / NORM_STATS
        return path if path.exists() else None


def open_base(config: TrainConfig, profile: RobotProfile) -> Base | None:
    """The checkpoint to start from; its parameters are compared, not read.

    Raises:
        CheckpointError: there is none, or its parameters are of another model.
        SetupError: the head alone is to be trained on a model that would act otherwise then.
    """
    if config.checkpoint is None:
        return None
    folder = config.checkpoint.expanduser()
    info = read_info(folder)
    base = Base(folder, info, open_orbax(folder / PARAMS))
    if config.trained == "head":
        _check_acts_alike(config, info, profile)
    return base


def _check_acts_alike(config: TrainConfig, info: CheckpointInfo, profile: RobotProfile) -> None:
    names = ("image_size", "action_dim", "action_horizon", "max_token_len", "discrete_state")
    theirs = {f"model.{name}": getattr(info.model, name) for name in names}
    ours = {f"model.{name}": getattr(config.model, name) for name in names}
    theirs |= {"data.robot": info.robot, "tokenizer": info.tokenizer, "data.delta_actions": info.delta_actions}
    ours |= {"data.robot": profile.name, "tokenizer": config.tokenizer, "data.delta_actions": config.data.delta_actions}
    theirs["data.quantiles"], ours["data.quantiles"] = info.quantiles, config.data.quantiles
    if different := [f"{name} is {ours[name]}, there {theirs[name]}" for name in ours if ours[name] != theirs[name]]:
        raise SetupError(
            f"--trained=head leaves the actions of {config.checkpoint} as they are, so everything around it must stay, "
            f"too: {'; '.join(different)}"
        )


def data_config(config: TrainConfig, base: Base | None, last: Path | None) -> DataConfig:
    """What is loaded: with the statistics of the checkpoint where its actions are to stay as they are."""
    if config.trained != "head" or config.data.norm_stats is not None:
        return config.data
    stats = base.stats if base is not None else None
    if last is not None:  # the checkpoint that the run started from may be gone
        info = read_info(last)
        stats = last / ASSETS / info.asset_id / NORM_STATS
    if stats is None:
        return config.data
    return dataclasses.replace(config.data, norm_stats=stats, foreign_norm_stats=True)


def effective_model(config: TrainConfig, base: Base | None, has_labels: bool) -> tuple[Pi05Config, str]:
    """The model to train, and a sentence on what is learnt.

    A head that nothing teaches is left out: it would publish numbers that mean nothing.

    Raises:
        SetupError: the head alone is to be trained, without labels.
    """
    model = config.model
    if has_labels and model.progress.kind != "none":
        weight = config.loss.progress_weight
        if config.trained == "head":
            return model, f"learns progress alone ({model.progress.kind} head); everything else stays as it is"
        return model, f"learns actions and progress ({model.progress.kind} head, weight {weight:g})"
    if has_labels:
        return model, "learns actions alone: the data has progress labels, but the model has no progress head"
    if config.trained == "head":
        raise SetupError(
            f"--trained=head, but there are no progress labels ({config.data.progress_column}) in "
            f"{config.data.repo_id}; make them: python -m training.add_progress_labels"
        )
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
