"""Everything a run needs before its first step: quick checks come first, then each thing in the order it is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Key

from pi05_progress.checkpoints.checkpoint import CheckpointInfo, abstract_model, code_version
from pi05_progress.models.config import Pi05Config, config_from_dict, config_to_dict
from pi05_progress.models.lora import count_parameters
from pi05_progress.observation import UNTRAINED
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.tokenizer import Encoder, make_encoder

from ..engine.sharding import make_mesh
from ..engine.state import TrainState, abstract_state, start_state
from ..engine.step import training_keys
from ..loading.loader import TrainLoader
from ..recipes.config import TrainConfig
from . import resolved, run_folder
from .agreement import check_same
from .base import Base, SetupError, data_config, effective_model, open_base
from .checkpoints import POSITION, RUN, RunState, restore_state
from .label_description import label_description
from .resolved import to_json
from .run_folder import RunFolder

Say = Callable[[str], None]


@dataclass
class Run:
    """A run that is ready to start or to go on.

    Attributes:
        config: as it was asked for.
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
    model: Pi05Config
    folder: RunFolder
    mesh: Mesh
    loader: TrainLoader
    state: TrainState
    key: Key[Array, ""]
    begin: RunState
    info: CheckpointInfo
    saved: dict[str, Any] = field(default_factory=dict)

    @property
    def learns_progress(self) -> bool:
        """Whether there is a head, and something that teaches it."""
        return self.model.progress.kind != "none" and self.loader.has_labels


def check_config(config: TrainConfig) -> None:
    """Refuse what contradicts itself, before anything is read.

    Raises:
        SetupError: a field is wrong.
    """
    if not config.exp_name or "/" in config.exp_name or config.exp_name.startswith("."):
        raise SetupError(f"--exp_name is {config.exp_name!r}; give the run a name, such as --exp_name=first")
    for name in ("batch_size", "num_train_steps", "log_interval", "save_interval", "validation_stride"):
        if getattr(config, name) < 1:
            raise SetupError(f"--{name} is {getattr(config, name)}; expected at least 1")
    if config.validation_interval < 0 or (
        config.validation_interval and config.save_interval % config.validation_interval
    ):
        raise SetupError(
            f"--save_interval is {config.save_interval}, --validation_interval {config.validation_interval}: every "
            "checkpoint is validated, so that the best is known; expected a multiple, or --validation_interval=0"
        )
    if config.keep_period is not None and config.keep_period < 1:
        raise SetupError(f"--keep_period is {config.keep_period}; expected at least 1, or None")
    if config.trained == "head" and config.checkpoint is None:
        raise SetupError("--trained=head needs a model that acts already: give its folder with --checkpoint")


def fitting_encoder(config: TrainConfig) -> Encoder:
    """The tokenizer.

    Raises:
        SetupError: it does not fit the model, or no path is given.
        TokenizerError: it cannot be loaded.
    """
    if config.tokenizer == "paligemma" and config.tokenizer_path is None:
        raise SetupError("--tokenizer_path is missing: the file of PaliGemma's tokenizer (docs/training.md says where)")
    encoder = make_encoder(config.tokenizer, config.tokenizer_path)
    if encoder.vocabulary > config.model.vocabulary:
        raise SetupError(
            f"the tokenizer has {encoder.vocabulary} tokens, --model.vocabulary is {config.model.vocabulary}"
        )
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
    folder = RunFolder(config.output.expanduser() / config.name / config.exp_name)
    run_folder.check(folder.root, resume=config.resume, overwrite=config.overwrite)
    steps = folder.steps() if config.resume else []
    saved = resolved.check_unchanged(folder.root / run_folder.CONFIG, config) if steps else None
    last = folder.step(steps[-1]) if steps else None
    if config.resume and last is None:
        say(f"there is no checkpoint in {folder.root} to go on from: starts anew")
    mesh = make_mesh(config.mesh)
    _check_batch(config, mesh)
    profile = RobotProfile.load(config.data.robot)
    encoder = fitting_encoder(config)
    base = None if last is not None else open_base(config, profile)
    loader = TrainLoader(
        data_config(config, base, last),
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
                "command lines": _without_place(config),
                "checkpoints to go on from": str(steps[-1] if steps else None),
                "data": loader.fingerprint,
            }
        )
        return _prepared(config, say, folder, saved, last, mesh, profile, base, loader)
    except BaseException:
        loader.close()
        raise


def _without_place(config: TrainConfig) -> str:
    """A configuration as text, but for which process it is of."""
    values = to_json(config)
    values["mesh"].pop("process_index")
    return json.dumps(values)


def _check_batch(config: TrainConfig, mesh: Mesh) -> None:
    pieces = mesh.size * config.optimizer.accumulation_steps
    if config.batch_size % pieces:
        raise SetupError(
            f"--batch_size is {config.batch_size}; expected a multiple of {pieces} ({mesh.size} devices x "
            f"{config.optimizer.accumulation_steps} --optimizer.accumulation_steps)"
        )


def _prepared(
    config: TrainConfig,
    say: Say,
    folder: RunFolder,
    saved: dict[str, Any] | None,
    last: Path | None,
    mesh: Mesh,
    profile: RobotProfile,
    base: Base | None,
    loader: TrainLoader,
) -> Run:
    model, learns = effective_model(config, base, loader.has_labels)
    if last is not None and saved is not None:
        model = config_from_dict(saved["model"])
    for note in loader.notes:
        say(note)
    say(learns)
    train_key, init_key = training_keys(config.seed)
    source: dict[str, Any] = dict(saved["source"]) if saved is not None and last is not None else {}
    if last is None:
        started = start_state(
            model, mesh, config.trained, config.optimizer, init_key, None if base is None else base.source
        )
        state = started.state
        begin = RunState(0, _key_data(train_key), None)
        if base is not None:
            source = {"base": str(base.folder.resolve()), "base_model_id": base.info.model_id}
            say(f"starts from {base.folder} ({base.info.model_id}, robot {base.info.robot})")
            if base.info.robot != profile.name:
                say(f"note: that checkpoint is of robot {base.info.robot}, the data of {profile.name}")
            if started.initialised:
                source["initialised"] = started.initialised
                say(f"not in the checkpoint, so they keep their initial values: {_brief(started.initialised)}")
            if started.unused:
                say(f"in the checkpoint, but not in the model: {_brief(started.unused)}")
    else:
        begin = RunState.read(last / RUN)
        state = restore_state(last, abstract_state(model, mesh, config.trained, config.optimizer))
        loader.restore((last / POSITION).read_bytes())
        train_key = jax.random.wrap_key_data(jnp.asarray(begin.key, jnp.uint32))
        say(f"goes on from {last}")
    counts = count_parameters(abstract_model(model), model, config.trained)
    say(f"model: {model.name}, {counts.total:,} parameters, {counts.trained:,} of them trained, on {mesh.size} devices")
    info = CheckpointInfo(
        model=model,
        robot=profile.name,
        model_id=UNTRAINED,
        action_dt_s=loader.action_dt_s,
        asset_id=loader.asset_id,
        tokenizer=config.tokenizer,
        delta_actions=config.data.delta_actions,
        quantiles=config.data.quantiles,
        labels=label_description(loader) if loader.has_labels else {},
        code_version=code_version(),
        source=source,
    )
    record = {"model": config_to_dict(model), "source": source, "code_version": code_version(), "jax": jax.__version__}
    return Run(config, model, folder, mesh, loader, state, train_key, begin, info, record)


def _key_data(key: Key[Array, ""]) -> list[int]:
    return [int(word) for word in jax.device_get(jax.random.key_data(key)).ravel()]


def _brief(paths: list[str], most: int = 4) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return f"{', '.join(paths[:most])}{more}"


@contextmanager
def open_folder(run: Run) -> Iterator[None]:
    """Take the run's folder and write down what the run is; only process 0 does, the others wait for it.

    Raises:
        RunFolderError: another process trains there, or nothing can be written.
    """
    lock = None
    if jax.process_index() == 0:
        lock = run_folder.take(run.folder.root, overwrite=run.config.overwrite)
        resolved.save(run.folder.root / run_folder.CONFIG, run.config, run.saved)
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
