"""One optimiser step, compiled: (state, key, batch) -> (new state, metrics); or several, on samples on the device."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int32, Key

from pi05_progress.errors import UserError
from pi05_progress.models.augmentation import OPENPI, AugmentationConfig
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.layers import BATCH_AXES
from pi05_progress.models.lora import LLM, Trained, of_action_expert
from pi05_progress.models.pi05 import Drawn, Pi05

from ..loading.batch import Batch
from .loss import LossConfig, Part, Parts, pieces, shares, total_loss
from .optimizer import OptimizerConfig, global_norm, learning_rate, make_optimizer, moving_average
from .sharding import batch_sharding, check_batch_size, replicated, state_shardings
from .state import Parameters, TrainState, abstract_state, with_parameters

VISION = "PaliGemma/img/"
# What openpi leaves out of the norm of parameters, beside everything with one axis.
NO_KERNEL = re.compile(r".*/(bias|scale|pos_embedding|input_embedding)")
Metrics = dict[str, Float[Array, ""]]
AdjustDraw = Callable[[Drawn, Batch], Drawn]
Found = tuple[Float[Array, ""], Parts]  # what is minimised, and what it is made of
Losses = Callable[[Parameters, Parameters, Part], Found]
Gradients = Callable[[Parameters, Parameters, Part], tuple[Found, Parameters]]
TrainStep = Callable[[TrainState, Key[Array, ""], Batch], tuple[TrainState, Metrics]]
Steps = Callable[[TrainState, Key[Array, ""], Batch, Int32[Array, "n b"]], tuple[TrainState, Metrics]]


def training_keys(seed: int) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Keys of training, in which every step folds its number, and of initial parameters; openpi's."""
    train, init = jax.random.split(jax.random.key(seed))
    return train, init


def drawn_part(
    model: Pi05,
    key: Key[Array, ""],
    batch: Batch,
    loss: LossConfig,
    augmentation: AugmentationConfig | None,
    adjust_draw: AdjustDraw | None,
) -> Part:
    """The batch with all that is random in it. That is drawn for the whole batch: pieces of it see the same."""
    told = {"train": augmentation is not None, "augmentation": augmentation or OPENPI}
    drawn = model.draw(key, batch.observation, batch.actions, flow_samples=loss.flow_samples, **told)
    if adjust_draw is not None:
        drawn = adjust_draw(drawn, batch)
    labelled = batch.observation.progress_mask if model.has_progress else None
    located = batch.observation.positions_mask
    return Part(drawn, batch.actions, shares(loss, batch.action_weight, batch.action_is_pad, labelled, located))


def gradient_function(losses: Losses, mesh: Mesh, places: Any, accumulation_steps: int) -> Gradients:
    """A function of parameters, frozen parameters and a batch that gives its losses and their gradients."""
    by_piece = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def gradients(params: Parameters, frozen: Parameters, part: Part) -> tuple[Found, Parameters]:
        found, changes = jax.value_and_grad(losses, has_aux=True)(params, frozen, part)
        # Summed over devices straight into the pieces they are needed in.
        return found, jax.lax.with_sharding_constraint(changes, places)

    def accumulated(params: Parameters, frozen: Parameters, part: Part) -> tuple[Found, Parameters]:
        parts = jax.lax.with_sharding_constraint(pieces(part, accumulation_steps), by_piece)
        first = jax.eval_shape(gradients, params, frozen, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

        def add(total: tuple, piece: Part) -> tuple[tuple, None]:
            return jax.tree.map(jnp.add, total, gradients(params, frozen, piece)), None

        return jax.lax.scan(add, zeros, parts)[0]

    return gradients if accumulation_steps == 1 else accumulated


def group_of(path: str) -> str:
    """The part of the model a parameter belongs to, for the norms of gradients."""
    if path.startswith(VISION):
        return "vision"
    if path.startswith(LLM):
        return "action_expert" if of_action_expert(path) else "language"
    head = path.partition("/")[0]
    return head if head in ("progress_head", "position_head") else "projections"


def gradient_norms(gradients: Parameters) -> dict[str, Float[Array, ""]]:
    """Norm of all gradients, and of each group's that is trained."""
    groups: dict[str, list[Array]] = {}
    for path, leaf in gradients.items():
        groups.setdefault(group_of(path), []).append(leaf)
    own = {f"grad_norm/{name}": global_norm(leaves) for name, leaves in groups.items()}
    return {"grad_norm": global_norm(gradients)} | own


def parameter_norm(parameters: Parameters) -> Float[Array, ""]:
    """Norm of the kernels, as openpi logs it: without biases, scales, and the two tables of embeddings."""
    return global_norm([p for path, p in parameters.items() if p.ndim > 1 and not NO_KERNEL.fullmatch(path)])


def make_train_step(
    model: Pi05Config,
    mesh: Mesh,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    *,
    trained: Trained = "everything",
    freeze: tuple[str, ...] = (),
    action_size: int | None = None,
    augmentation: AugmentationConfig | None = OPENPI,
    adjust_draw: AdjustDraw | None = None,
) -> TrainStep:
    """The compiled step.

    Args:
        mesh: from ``make_mesh``; the state must lie on it as ``abstract_state`` says.
        action_size: numbers of an action before padding; needed for ``loss.ignore_padded_dims``.
        augmentation: how pictures are changed and cameras dropped; None leaves them as they are.
        adjust_draw: applied to what is drawn for a batch; training.parity changes the last digits of times by it.

    Returns:
        A compiled function of the state (whose memory is taken over), the training key (the same in every step) and a
        batch on the mesh's devices (``put_batch``). Metrics are float32 scalars: ``loss``, ``action_loss``,
        ``grad_norm`` (before clipping), ``grad_norm/<group>``, ``param_norm`` (after the step), ``learning_rate`` (of
        the step), and with a head and labels ``progress_loss`` (0 where no frame has a label) and ``labelled`` (share
        of the batch), or of positions ``position_loss``, ``position_error_mm`` and ``located``.
    """
    if loss.ignore_padded_dims and not 1 <= (action_size or 0) <= model.action_dim:
        raise UserError(
            f"loss.ignore_padded_dims: the robot's actions have {action_size} numbers; expected 1 to {model.action_dim}"
        )
    counted_size = action_size if loss.ignore_padded_dims else None
    transform, rate = make_optimizer(optimizer), learning_rate(optimizer)
    places = state_shardings(mesh, abstract_state(model, mesh, trained, optimizer, freeze))

    def losses(params: Parameters, frozen: Parameters, part: Part) -> tuple[Float[Array, ""], Parts]:
        return total_loss(with_parameters(model, {**frozen, **params}), part, loss, counted_size)

    gradients = gradient_function(losses, mesh, places.params, optimizer.accumulation_steps)

    def step(state: TrainState, rng: Key[Array, ""], batch: Batch) -> tuple[TrainState, Metrics]:
        check_batch_size(batch.actions.shape[0], mesh.size, optimizer.accumulation_steps)
        if trained == "head" and batch.observation.progress is None:
            raise UserError("the progress head alone is to be trained, but the data has no progress labels")
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            whole = with_parameters(model, {**state.frozen, **state.params})
            part = drawn_part(whole, jax.random.fold_in(rng, state.step), batch, loss, augmentation, adjust_draw)
            (total, parts), changes = gradients(state.params, state.frozen, part)
            updates, opt_state = transform.update(changes, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            averaged = state.ema_params
            if optimizer.ema_decay is not None:
                averaged = moving_average(optimizer.ema_decay, averaged, params)
            metrics = {"loss": total, "action_loss": parts.action, "learning_rate": rate(state.step)}
            if parts.progress is not None:
                metrics |= {"progress_loss": parts.progress, "labelled": batch.observation.progress_mask.mean()}
            if parts.position is not None:
                metrics |= {"position_loss": parts.position, "position_error_mm": 1e3 * parts.position_error}
                metrics |= {"located": batch.observation.positions_mask.mean()}
            metrics |= gradient_norms(changes) | {"param_norm": parameter_norm({**params, **state.frozen})}
            metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
            return TrainState(state.step + 1, params, state.frozen, opt_state, averaged), metrics

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(places, replicated(mesh), batch_sharding(mesh)),
        out_shardings=(places, replicated(mesh)),
    )


def make_resident_steps(step: TrainStep, mesh: Mesh) -> Steps:
    """A compiled function of the state (whose memory is taken over), the training key, all samples and the rows of them
    that make ``n`` batches; metrics have an axis of ``n``, and everything else is as ``step`` has it."""

    def chosen(samples: Batch, rows: Int32[Array, " b"]) -> Batch:
        return jax.lax.with_sharding_constraint(jax.tree.map(lambda all: all[rows], samples), batch_sharding(mesh))

    def steps(state: TrainState, key: Key[Array, ""], samples: Batch, rows: Int32[Array, "n b"]) -> tuple:
        if len(rows) == 1:
            state, metrics = step(state, key, chosen(samples, rows[0]))
            return state, jax.tree.map(lambda value: value[None], metrics)
        return jax.lax.scan(lambda before, own: step(before, key, chosen(samples, own)), state, rows)

    return jax.jit(steps, donate_argnums=0)
