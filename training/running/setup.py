"""Everything a run needs before its first step: quick checks come first, then each thing in the order it is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Key

from pi05_progress.checkpoints.description import CheckpointInfo, code_version, config_from_dict
from pi05_progress.errors import UserError
from pi05_progress.models.abstract import abstract_model
from pi05_progress.models.config import Pi05Config, config_to_dict
from pi05_progress.models.lora import count_parameters
from pi05_progress.observation import UNTRAINED
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.tokenizer import Encoder, TokenizerName, make_encoder

from ..engine.sharding import make_mesh
from ..engine.state import TrainState
from ..loading.loader import TrainLoader
from ..recipes.config import TrainConfig
from . import resolved, run_folder
from .agreement import check_same
from .base import check_acts_alike, check_labels, effective_model, open_base, with_statistics
from .checkpoints import POSITION, RunState
from .label_description import label_description
from .resolved import to_json
from .run_folder import RunFolder
from .start import fresh, restored, start_notes

Say = Callable[[str], None]


@dataclass
class Run:
    """A run that is ready to start or to go on.

    Attributes:
        config: as it was asked for.
        resolved: the same as plain values.
        model: what is trained; without a progress head if nothing would teach it.
        folder: where everything goes.
        mesh: of devices.
        loader: at the position to go on from.
        state: parameters and optimiser.
        key: that every step folds its number into.
        begin: where the run is.
        info: description of checkpoints, but for their step.
    """

    config: TrainConfig
    resolved: dict[str, Any]
    model: Pi05Config
    folder: RunFolder
    mesh: Mesh
    loader: TrainLoader
    state: TrainState
    key: Key[Array, ""]
    begin: RunState
    info: CheckpointInfo


def check_config(config: TrainConfig) -> None:
    """Refuse what contradicts itself, before anything is read.

    Raises:
        UserError: a field is wrong.
    """
    if not config.exp_name or "/" in config.exp_name or config.exp_name.startswith("."):
        raise UserError(f"--exp_name is {config.exp_name!r}; give the run a name, such as --exp_name=first")
    for name in ("batch_size", "num_train_steps", "log_interval", "save_interval", "validation_stride"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} is {getattr(config, name)}; expected at least 1")
    if config.validation_interval < 0 or (
        config.validation_interval and config.save_interval % config.validation_interval
    ):
        raise UserError(
            f"--save_interval is {config.save_interval}, --validation_interval {config.validation_interval}: every "
            "checkpoint is validated, so that the best is known; expected a multiple, or --validation_interval=0"
        )
    if config.keep_period is not None and config.keep_period < 1:
        raise UserError(f"--keep_period is {config.keep_period}; expected at least 1, or None")
    if config.trained == "head" and config.checkpoint is None:
        raise UserError("--trained=head needs a model that acts already: give its folder with --checkpoint")


def fitting_encoder(name: TokenizerName, path: Path | None, vocabulary: int) -> Encoder:
    """The tokenizer.

    Args:
        name: which.
        path: of PaliGemma's file, which that one needs.
        vocabulary: tokens that the model knows.

    Raises:
        UserError: it does not fit the model, no path is given, or it cannot be loaded.
    """
    if name == "paligemma" and path is None:
        raise UserError("--tokenizer_path is missing: the file of PaliGemma's tokenizer (docs/training.md says where)")
    encoder = make_encoder(name, path)
    if encoder.vocabulary > vocabulary:
        raise UserError(f"the tokenizer has {encoder.vocabulary} tokens, --model.vocabulary is {vocabulary}")
    return encoder


def prepare(config: TrainConfig, say: Say) -> Run:
    """Make or restore everything. The folder is checked, but nothing is written.

    Args:
        config: of the run.
        say: told what is found.

    Raises:
        ValueError: something is wrong; each kind's message says what to do.
    """
    check_config(config)
    values = to_json(config)
    folder = RunFolder(config.output.expanduser() / config.name / config.exp_name)
    run_folder.check(folder.root, resume=config.resume, overwrite=config.overwrite)
    steps = folder.steps() if config.resume else []
    saved = resolved.check_unchanged(folder.root / run_folder.CONFIG, values) if steps else None
    last = folder.step(steps[-1]) if steps else None
    if config.resume and last is None:
        say(f"there is no checkpoint in {folder.root} to go on from: starts anew")
    mesh = make_mesh(config.mesh)
    _check_batch(config.batch_size, config.optimizer.accumulation_steps, mesh)
    profile = RobotProfile.load(config.data.robot)
    encoder = fitting_encoder(config.tokenizer, config.tokenizer_path, config.model.vocabulary)
    base = None if last is not None else open_base(config.checkpoint)
    data = config.data
    if config.trained == "head":
        if base is not None:
            check_acts_alike(base, config.model, data, profile, config.tokenizer)
        data = with_statistics(data, base, last)
    loader = TrainLoader(
        data,
        config.model,
        encoder,
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    try:
        check_same(
            {
                "command lines": _without_place(values),
                "checkpoints to go on from": str(steps[-1] if steps else None),
                "data": loader.fingerprint,
            }
        )
        check_labels(config.trained, data, loader.has_labels)
        model, learns = effective_model(
            config.model, config.trained, config.loss.progress_weight, base, loader.has_labels
        )
        if saved is not None:
            model = config_from_dict(saved["model"])
        for note in (*loader.notes, learns):
            say(note)
        if last is not None and saved is not None:
            start = restored(last, saved["source"], model, mesh, config.trained, config.optimizer)
            loader.restore((last / POSITION).read_bytes())
            say(f"goes on from {last}")
        else:
            start = fresh(model, mesh, config.trained, config.optimizer, config.seed, base)
            for note in start_notes(start, base, profile.name):
                say(note)
        counts = count_parameters(abstract_model(model), model, config.trained)
        say(
            f"model: {model.name}, {counts.total:,} parameters, {counts.trained:,} of them trained, on {mesh.size} "
            "devices"
        )
        info = CheckpointInfo(
            model=model,
            robot=profile.name,
            model_id=UNTRAINED,
            action_dt_s=loader.action_dt_s,
            asset_id=loader.asset_id,
            tokenizer=config.tokenizer,
            delta_actions=data.delta_actions,
            quantiles=data.quantiles,
            labels=label_description(loader) if loader.has_labels else {},
            code_version=code_version(),
            source=start.source,
        )
        return Run(config, values, model, folder, mesh, loader, start.state, start.key, start.begin, info)
    except BaseException:
        loader.close()
        raise


def _without_place(values: Mapping[str, Any]) -> str:
    """A configuration as text, but for which process it is of."""
    mesh = {name: value for name, value in values["mesh"].items() if name != "process_index"}
    return json.dumps({**values, "mesh": mesh})


def _check_batch(batch_size: int, accumulation_steps: int, mesh: Mesh) -> None:
    pieces = mesh.size * accumulation_steps
    if batch_size % pieces:
        raise UserError(
            f"--batch_size is {batch_size}; expected a multiple of {pieces} ({mesh.size} devices x "
            f"{accumulation_steps} --optimizer.accumulation_steps)"
        )


@contextmanager
def open_folder(run: Run) -> Iterator[None]:
    """Take the run's folder and write down what the run is; only process 0 does, the others wait for it.

    Raises:
        UserError: another process trains there, or nothing can be written.
    """
    lock = None
    if jax.process_index() == 0:
        lock = run_folder.take(run.folder.root, overwrite=run.config.overwrite)
        extra = {
            "model": config_to_dict(run.model),
            "source": run.info.source,
            "code_version": run.info.code_version,
            "jax": jax.__version__,
        }
        resolved.save(run.folder.root / run_folder.CONFIG, run.resolved, extra)
        held_out = [
            {"folder": str(dataset.root.resolve()), "episodes": episodes}
            for dataset, episodes in zip(run.loader.datasets, run.loader.held_out, strict=True)
        ]
        (run.folder.root / run_folder.HELD_OUT).write_text(json.dumps(held_out, indent=1) + "\n")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("run folder")
    try:
        yield
    finally:
        if lock is not None:
            lock.close()
