"""One optimiser step, compiled: (state, key, batch) -> (new state, metrics)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from pi05_progress.errors import UserError
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import Trained
from pi05_progress.models.pi05 import Drawn, Pi05

from ..loading.batch import Batch
from .gradients import gradient_function
from .loss import LossConfig, Part, Parts, shares, total_loss
from .norms import gradient_norms, parameter_norm
from .optimizer import OptimizerConfig, learning_rate, make_optimizer, moving_average
from .sharding import batch_sharding, replicated, state_shardings
from .state import Parameters, TrainState, abstract_state, with_parameters

Metrics = dict[str, Float[Array, ""]]
AdjustDraw = Callable[[Drawn, Batch], Drawn]
TrainStep = Callable[[TrainState, Key[Array, ""], Batch], tuple[TrainState, Metrics]]


def training_keys(seed: int) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Keys of training, in which every step folds its number, and of initial parameters; openpi's."""
    train, init = jax.random.split(jax.random.key(seed))
    return train, init


def drawn_part(
    model: Pi05, key: Key[Array, ""], batch: Batch, loss: LossConfig, augment: bool, adjust_draw: AdjustDraw | None
) -> Part:
    """The batch with all that is random in it. That is drawn for the whole batch: pieces of it see the same."""
    drawn = model.draw(key, batch.observation, batch.actions, train=augment)
    if adjust_draw is not None:
        drawn = adjust_draw(drawn, batch)
    labelled = batch.observation.progress_mask if model.has_progress else None
    return Part(drawn, batch.actions, shares(loss, batch.action_weight, batch.action_is_pad, labelled))


def check_batch(batch: Batch, trained: Trained, accumulation_steps: int, devices: int) -> None:
    """Refuse a batch that a step cannot take.

    Raises:
        UserError: it cannot be cut into pieces for all devices, or lacks the labels that are to be learnt.
    """
    rows = batch.actions.shape[0]
    if rows % (accumulation_steps * devices):
        raise UserError(
            f"a batch of {rows} cannot be cut into optimizer.accumulation_steps {accumulation_steps} times {devices} "
            f"devices; expected a multiple of {accumulation_steps * devices}"
        )
    if trained == "head" and batch.observation.progress is None:
        raise UserError("the progress head alone is to be trained, but the data has no progress labels")


def make_train_step(
    model: Pi05Config,
    mesh: Mesh,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    *,
    trained: Trained = "everything",
    action_size: int | None = None,
    augment: bool = True,
    adjust_draw: AdjustDraw | None = None,
) -> TrainStep:
    """The compiled step.

    Args:
        mesh: from ``make_mesh``; the state must lie on it as ``abstract_state`` says.
        action_size: numbers of an action before padding; needed for ``loss.ignore_padded_dims``.
        adjust_draw: applied to what is drawn for a batch; training.parity changes the last digits of times by it.

    Returns:
        A compiled function of the state (whose memory is taken over), the training key (the same in every step) and a
        batch on the mesh's devices (``put_batch``). Metrics are float32 scalars: ``loss``, ``action_loss``,
        ``grad_norm`` (before clipping), ``grad_norm/<group>``, ``param_norm`` (after the step), ``learning_rate`` (of
        the step), and with a head and labels ``progress_loss`` (0 where no frame has a label) and ``labelled`` (share
        of the batch).

    Raises:
        ModelConfigError: there is nothing of what is to be trained.
        UserError: the configuration does not fit together; or, when it is called, the batch does not.
    """
    if loss.ignore_padded_dims and not 1 <= (action_size or 0) <= model.action_dim:
        raise UserError(
            f"loss.ignore_padded_dims: the robot's actions have {action_size} numbers; expected 1 to {model.action_dim}"
        )
    counted_size = action_size if loss.ignore_padded_dims else None
    transform, rate = make_optimizer(optimizer), learning_rate(optimizer)
    places = state_shardings(mesh, abstract_state(model, mesh, trained, optimizer))

    def losses(params: Parameters, frozen: Parameters, part: Part) -> tuple[Float[Array, ""], Parts]:
        return total_loss(with_parameters(model, {**frozen, **params}), part, loss.progress_weight, counted_size)

    gradients = gradient_function(losses, mesh, places.params, optimizer.accumulation_steps)

    def step(state: TrainState, rng: Key[Array, ""], batch: Batch) -> tuple[TrainState, Metrics]:
        check_batch(batch, trained, optimizer.accumulation_steps, mesh.size)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            whole = with_parameters(model, {**state.frozen, **state.params})
            part = drawn_part(whole, jax.random.fold_in(rng, state.step), batch, loss, augment, adjust_draw)
            (total, (action, progress)), changes = gradients(state.params, state.frozen, part)
            updates, opt_state = transform.update(changes, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            averaged = state.ema_params
            if optimizer.ema_decay is not None:
                averaged = moving_average(optimizer.ema_decay, averaged, params)
            metrics = {"loss": total, "action_loss": action, "learning_rate": rate(state.step)}
            if progress is not None:
                metrics |= {"progress_loss": progress, "labelled": batch.observation.progress_mask.mean()}
            metrics |= gradient_norms(changes) | {"param_norm": parameter_norm({**params, **state.frozen})}
            metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
            return TrainState(state.step + 1, params, state.frozen, opt_state, averaged), metrics

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(places, replicated(mesh), batch_sharding(mesh)),
        out_shardings=(places, replicated(mesh)),
    )
