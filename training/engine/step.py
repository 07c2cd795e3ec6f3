"""One optimiser step, compiled: (state, key, batch) -> (new state, metrics)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import Trained

from .loss import LossConfig
from .optimizer import OptimizerConfig
from .state import TrainState

Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, Key[Array, ""], Any], tuple[TrainState, Metrics]]


def training_keys(seed: int) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Keys of training, in which every step folds its number, and of initial parameters; openpi's."""
    train, init = jax.random.split(jax.random.key(seed))
    return train, init


def make_train_step(
    model: Pi05Config,
    mesh: Mesh,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    *,
    trained: Trained = "everything",
    action_size: int | None = None,
    augment: bool = True,
) -> TrainStep:
    """The compiled step.

    Args:
        model: configuration of the model.
        mesh: from ``make_mesh``; the state and the batch must lie on it.
        trained: what is trained; the state must be made for the same.
        optimizer: of the step.
        loss: what counts.
        action_size: numbers of an action before padding; needed for ``loss.ignore_padded_dims``.
        augment: whether pictures are augmented.

    Returns:
        A function of the state (whose memory is taken over), the training key and a batch on the mesh's devices
        (``put_batch``). Metrics are float32 scalars: ``loss``, ``action_loss``, ``grad_norm`` (before clipping),
        ``grad_norm/<group>``, ``param_norm``, ``learning_rate``, and with labels ``progress_loss`` and ``labelled``
        (share of the batch).

    Raises:
        ModelConfigError: there is nothing of what is to be trained.
        TrainingError: the configuration does not fit together.
    """
    raise NotImplementedError
