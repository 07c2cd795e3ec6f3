"""Where a run starts: with new parameters, with those of a checkpoint, or where it was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key

from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import Trained

from ..engine.optimizer import OptimizerConfig
from ..engine.state import TrainState, abstract_state, start_state
from ..engine.step import training_keys
from .base import Base
from .checkpoints import RUN, RunState, restore_state


class Start(NamedTuple):
    """What a run begins with.

    Attributes:
        state: parameters and optimiser.
        key: that every step folds its number into.
        begin: where the run is.
        source: where the parameters are from, as checkpoints say it: ``base``, ``base_model_id``, ``initialised``.
        unused: paths of parameters that the checkpoint has and the model does not.
    """

    state: TrainState
    key: Key[Array, ""]
    begin: RunState
    source: dict[str, Any]
    unused: list[str]


def fresh(
    model: Pi05Config, mesh: Mesh, trained: Trained, optimizer: OptimizerConfig, seed: int, base: Base | None
) -> Start:
    """The start of a new run, from a checkpoint if ``base`` is one; arguments as of ``start_state``.

    Raises:
        CheckpointError: the checkpoint does not fit the model, or is damaged.
    """
    train_key, init_key = training_keys(seed)
    started = start_state(model, mesh, trained, optimizer, init_key, None if base is None else base.source)
    source: dict[str, Any] = {}
    if base is not None:
        source = {"base": str(base.folder.resolve()), "base_model_id": base.info.model_id}
        if started.initialised:
            source["initialised"] = started.initialised
    data = [int(word) for word in jax.device_get(jax.random.key_data(train_key)).ravel()]
    return Start(started.state, train_key, RunState(0, data, None), source, started.unused)


def restored(
    last: Path,
    source: Mapping[str, Any],
    model: Pi05Config,
    mesh: Mesh,
    trained: Trained,
    optimizer: OptimizerConfig,
) -> Start:
    """Where a run was when it saved its last checkpoint.

    Args:
        last: folder of that checkpoint.
        source: where its parameters were from.
        model, mesh, trained, optimizer: as of ``abstract_state``.

    Raises:
        CheckpointError: it is damaged, or of another configuration.
    """
    begin = RunState.read(last / RUN)
    state = restore_state(last, abstract_state(model, mesh, trained, optimizer))
    return Start(state, jax.random.wrap_key_data(jnp.asarray(begin.key, jnp.uint32)), begin, dict(source), [])


def start_notes(start: Start, base: Base | None, robot: str) -> list[str]:
    """What should be said of a new run's start to whoever starts it; ``robot`` is the data's."""
    if base is None:
        return []
    notes = [f"starts from {base.folder} ({base.info.model_id}, robot {base.info.robot})"]
    if base.info.robot != robot:
        notes.append(f"note: that checkpoint is of robot {base.info.robot}, the data of {robot}")
    if initialised := start.source.get("initialised"):
        notes.append(f"not in the checkpoint, so they keep their initial values: {_brief(initialised)}")
    if start.unused:
        notes.append(f"in the checkpoint, but not in the model: {_brief(start.unused)}")
    return notes


def _brief(paths: list[str], most: int = 4) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return f"{', '.join(paths[:most])}{more}"
