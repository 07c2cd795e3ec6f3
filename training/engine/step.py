"""One optimiser step, compiled: (state, key, batch) -> (new state, metrics)."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from pi05_progress.models.activations import BATCH_AXES
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import LLM, Trained, of_action_expert
from pi05_progress.models.parameters import HEAD
from pi05_progress.models.pi05 import Drawn

from ..loading.batch import Batch
from .errors import TrainingError
from .loss import LossConfig, Part, Parts, pieces, shares, total_loss
from .optimizer import OptimizerConfig, global_norm, learning_rate, make_optimizer, moving_average
from .sharding import batch_sharding, replicated, state_shardings
from .state import Parameters, TrainState, abstract_state, with_parameters

Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, Key[Array, ""], Batch], tuple[TrainState, Metrics]]

VISION = "PaliGemma/img/"
# What openpi leaves out of the norm of parameters, beside everything with one axis.
NO_KERNEL = re.compile(r".*/(bias|scale|pos_embedding|input_embedding)")


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
    adjust_draw: Callable[[Drawn, Batch], Drawn] | None = None,
) -> TrainStep:
    """The compiled step.

    Args:
        model: configuration of the model.
        mesh: from ``make_mesh``; the state must lie on it as ``abstract_state`` says.
        optimizer: of the step.
        loss: what counts.
        trained: what is trained; the state must be made for the same.
        action_size: numbers of an action before padding; needed for ``loss.ignore_padded_dims``.
        augment: whether pictures are augmented.
        adjust_draw: applied to what is drawn for a batch; training.parity changes the last digits of times by it.

    Returns:
        A compiled function of the state (whose memory is taken over), the training key (the same in every step) and a
        batch on the mesh's devices (``put_batch``). Metrics are float32 scalars: ``loss``, ``action_loss``,
        ``grad_norm`` (before clipping), ``grad_norm/<group>``, ``param_norm`` (after the step), ``learning_rate`` (of
        the step), and with a head and labels ``progress_loss`` (0 where no frame has a label) and ``labelled`` (share
        of the batch).

    Raises:
        ModelConfigError: there is nothing of what is to be trained.
        TrainingError: the configuration does not fit together; or, when it is called, the batch does not.
    """
    if loss.ignore_padded_dims and not 1 <= (action_size or 0) <= model.action_dim:
        raise TrainingError(
            f"loss.ignore_padded_dims: the robot's actions have {action_size} numbers; expected 1 to {model.action_dim}"
        )
    counted_size = action_size if loss.ignore_padded_dims else None
    transform, rate = make_optimizer(optimizer), learning_rate(optimizer)
    places = state_shardings(mesh, abstract_state(model, mesh, trained, optimizer))
    by_piece = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def losses(params: Parameters, frozen: Parameters, part: Part) -> tuple[Float[Array, ""], Parts]:
        return total_loss(with_parameters(model, {**frozen, **params}), part, loss.progress_weight, counted_size)

    def gradients(params: Parameters, frozen: Parameters, part: Part) -> tuple[tuple, Parameters]:
        found, changes = jax.value_and_grad(losses, has_aux=True)(params, frozen, part)
        # Summed over devices straight into the pieces they are needed in.
        return found, jax.lax.with_sharding_constraint(changes, places.params)

    def accumulated(params: Parameters, frozen: Parameters, part: Part) -> tuple[tuple, Parameters]:
        if optimizer.accumulation_steps == 1:
            return gradients(params, frozen, part)
        parts = jax.lax.with_sharding_constraint(pieces(part, optimizer.accumulation_steps), by_piece)
        first = jax.eval_shape(gradients, params, frozen, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

        def add(total: tuple, piece: Part) -> tuple[tuple, None]:
            return jax.tree.map(jnp.add, total, gradients(params, frozen, piece)), None

        return jax.lax.scan(add, zeros, parts)[0]

    def step(state: TrainState, rng: Key[Array, ""], batch: Batch) -> tuple[TrainState, Metrics]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            part = prepared(state, rng, batch)
            (total, (action, progress)), changes = accumulated(state.params, state.frozen, part)
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

    def prepared(state: TrainState, rng: Key[Array, ""], batch: Batch) -> Part:
        """The batch with all that is random in it. That is drawn for the whole batch: pieces of it see the same."""
        rows = batch.actions.shape[0]
        if rows % (optimizer.accumulation_steps * mesh.size):
            raise TrainingError(
                f"a batch of {rows} cannot be cut into optimizer.accumulation_steps {optimizer.accumulation_steps} "
                f"times {mesh.size} devices; expected a multiple of {optimizer.accumulation_steps * mesh.size}"
            )
        if trained == "head" and batch.observation.progress is None:
            raise TrainingError("the progress head alone is to be trained, but the data has no progress labels")
        model_ = with_parameters(model, {**state.frozen, **state.params})
        key = jax.random.fold_in(rng, state.step)
        drawn = model_.draw(key, batch.observation, batch.actions, train=augment)
        if adjust_draw is not None:
            drawn = adjust_draw(drawn, batch)
        labelled = batch.observation.progress_mask if model_.has_progress else None
        return Part(drawn, batch.actions, shares(loss, batch.action_weight, batch.action_is_pad, labelled))

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(places, replicated(mesh), batch_sharding(mesh)),
        out_shardings=(places, replicated(mesh)),
    )


def group_of(path: str) -> str:
    """The part of the model a parameter belongs to, for the norms of gradients."""
    if path.startswith(VISION):
        return "vision"
    if path.startswith(LLM):
        return "action_expert" if of_action_expert(path) else "language"
    return "progress_head" if path.startswith(HEAD) else "projections"


def gradient_norms(gradients: Parameters) -> Metrics:
    """Norm of all gradients, and of each group's that is trained."""
    groups: dict[str, list[Array]] = {}
    for path, leaf in gradients.items():
        groups.setdefault(group_of(path), []).append(leaf)
    own = {f"grad_norm/{name}": global_norm(leaves) for name, leaves in groups.items()}
    return {"grad_norm": global_norm(gradients)} | own


def parameter_norm(parameters: Parameters) -> Float[Array, ""]:
    """Norm of the kernels, as openpi logs it: without biases, scales, and the two tables of embeddings."""
    return global_norm([p for path, p in parameters.items() if p.ndim > 1 and not NO_KERNEL.fullmatch(path)])
