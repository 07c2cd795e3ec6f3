"""Everything a run needs before its first step: quick checks come first, then each thing in the order it is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Key

from pi05_progress.checkpoints.description import CheckpointInfo, code_version, config_from_dict, read_info
from pi05_progress.checkpoints.starts import starts_files
from pi05_progress.errors import UserError
from pi05_progress.files.output_file import write_file
from pi05_progress.models.config import Pi05Config, config_to_dict
from pi05_progress.models.lora import count_parameters
from pi05_progress.models.parameters import abstract_model
from pi05_progress.observation import UNTRAINED
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.tokenizer import make_encoder

from ..engine.frozen_tower import frozen_tower
from ..engine.sharding import check_batch_size, make_mesh
from ..engine.state import TrainState
from ..loading.loader import TrainLoader
from ..loading.split import HELD_OUT, SPLITS, read_splits, splits_of
from ..loading.starts import gather_starts
from ..recipes.config import TrainConfig
from ..recipes.registry import recipes
from . import run_folder, start
from .checkpoints import POSITION, RunState
from .run_folder import RunFolder, to_json
from .signals import check_same
from .simulation import SIMULATED, check_simulation

Say = Callable[[str], None]


@dataclass
class Run:
    """A run that is ready to start or to go on."""

    config: TrainConfig  # as it was asked for
    resolved: dict[str, Any]  # the same as plain values
    model: Pi05Config  # what is trained; without a progress head if nothing would teach it
    folder: RunFolder  # where everything goes
    mesh: Mesh  # of devices
    loader: TrainLoader  # at the position to go on from
    state: TrainState  # parameters and optimiser
    key: Key[Array, ""]  # that every step folds its number into
    begin: RunState  # where the run is
    info: CheckpointInfo  # description of checkpoints, but for their step
    starts: dict[str, bytes]  # files of a checkpoint that say how episodes begin


def check_config(config: TrainConfig) -> None:
    """Refuse what contradicts itself, before anything is read."""
    if not config.exp_name or "/" in config.exp_name or config.exp_name.startswith("."):
        raise UserError(f"--exp_name is {config.exp_name!r}; give the run a name, such as --exp_name=first")
    counts = ("num_train_steps", "log_interval", "save_interval")
    for name in (*counts, "batch_size", "validation_stride", "steps_per_dispatch"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} is {getattr(config, name)}; expected at least 1")
    if config.steps_per_dispatch > 1 and not config.data.resident:
        raise UserError(f"--steps_per_dispatch is {config.steps_per_dispatch}, which needs --data.resident")
    for name in (*counts, "validation_interval"):
        if getattr(config, name) % config.steps_per_dispatch:
            raise UserError(
                f"--{name} is {getattr(config, name)}; expected a multiple of --steps_per_dispatch, "
                f"{config.steps_per_dispatch}"
            )
    if config.validation_interval < 0 or (
        config.validation_interval and config.save_interval % config.validation_interval
    ):
        raise UserError(
            f"--save_interval is {config.save_interval}, --validation_interval {config.validation_interval}: every "
            "checkpoint is validated, so that the best is known; expected a multiple, or --validation_interval=0"
        )
    if config.sim_validation_every < 0 or config.sim_validation_every % config.save_interval or config.sim_episodes < 1:
        raise UserError(
            f"--sim_validation_every is {config.sim_validation_every}, --sim_episodes {config.sim_episodes}: a "
            f"checkpoint drives, so expected a multiple of --save_interval, {config.save_interval}, and at least one "
            "episode"
        )
    if config.best in SIMULATED and not config.sim_validation_every:
        raise UserError(f"--best is {config.best}, which is found out in simulation: --sim_validation_every is missing")
    if config.keep_period is not None and config.keep_period < 1:
        raise UserError(f"--keep_period is {config.keep_period}; expected at least 1, or None")


def check_complete(config: TrainConfig) -> None:
    """Refuse a run that is to start without what it needs; all that is missing is named at once."""
    missing = []
    if config.trained == "head" and config.checkpoint is None:
        missing.append("--checkpoint=FOLDER of a model that acts already, whose progress head is to be trained")
    elif config.checkpoint is None and not config.from_scratch:
        missing.append(
            "--checkpoint=FOLDER to start from, such as openpi's pi05_base imported with convert_checkpoint, or "
            "--from-scratch to start with random parameters"
        )
    if config.tokenizer == "paligemma" and config.tokenizer_path is None:
        missing.append(
            "--tokenizer_path=FILE, PaliGemma's tokenizer.model: gcloud storage cp "
            "gs://big_vision/paligemma_tokenizer.model ."
        )
    if not config.data.repo_id:
        missing.append("--data.repo_id=FOLDER of a LeRobot v3.0 data set")
    if missing:
        raise UserError(f"{config.name} cannot start, what is missing: {'; '.join(missing)} (docs/training.md)")


def prepare(config: TrainConfig, say: Say) -> Run:
    """Make or restore everything. The folder is checked, but nothing is written."""
    check_config(config)
    folder = RunFolder(config.output.expanduser() / config.name / config.exp_name)
    run_folder.check(folder.root, resume=config.resume, overwrite=config.overwrite)
    steps = folder.steps() if config.resume else []
    last, saved = folder.step(steps[-1]) if steps else None, None
    if last is not None:
        config, saved = run_folder.gone_on_with(folder.root / run_folder.CONFIG, config)
    else:
        check_complete(config)
    values = to_json(config)
    if config.resume and last is None:
        say(f"there is no checkpoint in {folder.root} to go on from: starts anew")
    if config.sim_validation_every:
        check_simulation(config.sim_arguments)
    mesh = make_mesh(config.mesh)
    check_batch_size(config.batch_size, mesh.size, config.optimizer.accumulation_steps)
    profile = RobotProfile.load(config.data.robot)
    encoder = make_encoder(config.tokenizer, config.tokenizer_path)
    base = None if last is not None else start.open_base(config.checkpoint)
    data = config.data
    if last is not None:
        data = start.with_statistics(data, last, read_info(last))
    different = "" if base is None else start.differences(base, config.model, data, profile, config.tokenizer)
    if base is not None and config.trained == "head":
        if different:
            raise UserError(
                f"--trained=head leaves the actions of {base.folder} as they are, so everything around it must stay, "
                f"too: {different}"
            )
        data = data if data.norm_stats is not None else start.with_statistics(data, base.folder, base.info)
    loader = TrainLoader(
        data,
        config.model,
        encoder,
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        before=read_splits(folder.root / HELD_OUT) if last is not None else splits_of(base.folder) if base else (),
        goes_on=last is not None,
    )
    try:
        check_same(
            {
                "command lines": _without_place(values),
                "checkpoints to go on from": str(steps[-1] if steps else None),
                "data": loader.fingerprint,
            }
        )
        start.check_labels(config.trained, data, loader.has_labels)
        model, learns = start.effective_model(
            config.model, config.trained, config.loss.progress_weight, base, loader.has_labels
        )
        if saved is not None:
            model = config_from_dict(saved["model"])
        default = recipes()[config.name][1]().best if config.name in recipes() else TrainConfig.best
        validates = config.validation_interval > 0 and any(loader.held_out)
        chosen = last is None and config.best != default  # a run that goes on keeps what it began with
        taught = loader.has_positions and config.loss.position_weight > 0
        for note in (
            *loader.notes,
            learns,
            *start.position_notes(model, taught),
            *start.check_best(config.best, chosen, validates, model, loader),
        ):
            say(note)
        if last is not None and saved is not None:
            begun = start.restored(config, model, mesh, last, saved["source"])
            loader.restore((last / POSITION).read_bytes())
            say(f"goes on from {last}")
        else:
            begun = start.fresh(config, model, mesh, base)
            for note in start.start_notes(begun, base, different, loader.stats):
                say(note)
        if config.data.features is not None:
            loader.use_features(frozen_tower(model, begun.state))
        counts = count_parameters(abstract_model(model), model, config.trained, config.freeze)
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
            actions_per_row=data.actions_per_row,
            quantiles=data.quantiles,
            labels=start.label_description(loader) if loader.has_labels else {},
            code_version=code_version(),
            source=begun.source,
        )
        starts = starts_files(gather_starts(loader.datasets, profile, config.data.cameras))
        return Run(config, values, model, folder, mesh, loader, begun.state, begun.key, begun.begin, info, starts)
    except BaseException:
        loader.close()
        raise


def _without_place(values: Mapping[str, Any]) -> str:
    """A configuration as text, but for which process it is of."""
    mesh = {name: value for name, value in values["mesh"].items() if name != "process_index"}
    return json.dumps({**values, "mesh": mesh})


@contextmanager
def open_folder(run: Run) -> Iterator[None]:
    """Take the run's folder and write down what the run is; only process 0 does, the others wait for it."""
    lock = None
    if jax.process_index() == 0:
        lock = run_folder.take(run.folder.root, overwrite=run.config.overwrite)
        facts = {
            "config": run.resolved,
            "model": config_to_dict(run.model),
            "source": run.info.source,
            "code_version": run.info.code_version,
            "jax": jax.__version__,
        }
        write_file(run.folder.root / run_folder.CONFIG, json.dumps(facts, indent=2) + "\n", durable=True)
        write_file(run.folder.root / HELD_OUT, SPLITS.dump_json(run.loader.splits, indent=1), durable=True)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("run folder")
    try:
        yield
    finally:
        if lock is not None:
            lock.close()
