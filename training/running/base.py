"""What a run starts from, and what follows from that and from the data: which model is trained, on what statistics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pi05_progress.checkpoints.description import ASSETS, NORM_STATS, PARAMS, CheckpointInfo, read_info
from pi05_progress.checkpoints.orbax_files import open_orbax
from pi05_progress.checkpoints.parameter_source import ParameterSource
from pi05_progress.errors import UserError
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import Trained
from pi05_progress.models.parameters import HEAD
from pi05_progress.observation import UNTRAINED
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.tokenizer import TokenizerName

from ..loading.config import DataConfig


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


def open_base(checkpoint: Path | None) -> Base | None:
    """The checkpoint to start from, if one is given; its parameters are not read yet.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    if checkpoint is None:
        return None
    folder = checkpoint.expanduser()
    return Base(folder, read_info(folder), open_orbax(folder / PARAMS))


def check_acts_alike(
    base: Base, model: Pi05Config, data: DataConfig, profile: RobotProfile, tokenizer: TokenizerName
) -> None:
    """Refuse to train the head alone on a model that would act otherwise then.

    Args:
        base: whose actions must stay as they are.
        model, data, profile, tokenizer: of the run.

    Raises:
        UserError: something that decides the actions differs; the message names it.
    """
    info, names = base.info, ("image_size", "action_dim", "action_horizon", "max_token_len", "discrete_state")
    theirs = {f"model.{name}": getattr(info.model, name) for name in names}
    ours = {f"model.{name}": getattr(model, name) for name in names}
    theirs |= {"data.robot": info.robot, "tokenizer": info.tokenizer, "data.delta_actions": info.delta_actions}
    ours |= {"data.robot": profile.name, "tokenizer": tokenizer, "data.delta_actions": data.delta_actions}
    theirs["data.quantiles"], ours["data.quantiles"] = info.quantiles, data.quantiles
    if different := [f"{name} is {ours[name]}, there {theirs[name]}" for name in ours if ours[name] != theirs[name]]:
        raise UserError(
            f"--trained=head leaves the actions of {base.folder} as they are, so everything around it must stay, "
            f"too: {'; '.join(different)}"
        )


def with_statistics(data: DataConfig, base: Base | None, last: Path | None) -> DataConfig:
    """What is loaded where the actions are to stay as they are: with the statistics they were learnt with.

    Args:
        data: as it was asked for; statistics that it names stay.
        base: the checkpoint that the run starts from.
        last: the run's own last checkpoint, if it goes on.
    """
    if data.norm_stats is not None:
        return data
    stats = base.stats if base is not None else None
    if last is not None:  # the checkpoint that the run started from may be gone
        info = read_info(last)
        stats = last / ASSETS / info.asset_id / NORM_STATS
    if stats is None:
        return data
    return dataclasses.replace(data, norm_stats=stats, foreign_norm_stats=True)


def check_labels(trained: Trained, data: DataConfig, has_labels: bool) -> None:
    """Refuse to train the progress head alone on data that say nothing about progress.

    Raises:
        UserError: there are no labels; the message says how to make them.
    """
    if trained == "head" and not has_labels:
        raise UserError(
            f"--trained=head, but there are no progress labels ({data.progress_column}) in {data.repo_id}; make them: "
            "python -m training.add_progress_labels"
        )


def effective_model(
    model: Pi05Config, trained: Trained, progress_weight: float, base: Base | None, has_labels: bool
) -> tuple[Pi05Config, str]:
    """The model to train, and a sentence on what is learnt.

    A head that nothing teaches is left out: it would publish numbers that mean nothing.

    Args:
        model: as it was asked for.
        trained: what is trained; the head alone only with labels (see ``check_labels``).
        progress_weight: of the progress loss.
        base: the checkpoint that the run starts from.
        has_labels: whether the data has progress labels.
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
