"""All that changes while a model is trained, and what stays beside it: made, loaded, and turned into a model again."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from pi05_progress.checkpoints.checkpoint_error import CheckpointError
from pi05_progress.checkpoints.parameter_source import ParameterSource, load_arrays
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import Trained, is_adapter, is_trained, trained_paths
from pi05_progress.models.parameters import (
    ADDED,
    HEAD,
    ParameterMismatchError,
    abstract_model,
    check_parameters,
    parameter_paths,
    parameter_shapes,
)
from pi05_progress.models.pi05 import Pi05

from .optimizer import OptimizerConfig, make_optimizer
from .sharding import parameter_sharding, replicated, state_shardings

Parameters = dict[str, Array]  # by openpi's path, parts joined with "/"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A pytree."""

    step: Int[Array, ""]  # int32, how many steps were taken
    params: Parameters  # parameters that are trained, float32
    frozen: Parameters  # those that are not, in the dtype they are kept in
    opt_state: Any  # optax's, of ``params`` alone
    ema_params: Parameters | None  # moving average of ``params``, or None. (Of what is frozen it is the same.)


class Started(NamedTuple):
    """A new state, and what of it does not come from a checkpoint."""

    state: TrainState
    initialised: list[str]
    """Paths of parameters that start at random, or at zero."""
    unused: list[str]
    """Paths in the checkpoint that the model does not have."""


def parameter_kinds(model: Pi05Config, trained: Trained, freeze: tuple[str, ...] = ()) -> tuple[dict, dict]:
    """Shapes of the parameters that are trained, and of the others, in the dtype they are kept in.

    What adapters stand for is kept in bfloat16, as openpi's. Everything else is float32: whatever it was stored in, no
    bit of it is lost. Where there is nothing of what is to be trained or frozen, a ``ModelConfigError``.
    """
    chosen, kinds = trained_paths(model, trained, freeze), ({}, {})
    for path, leaf in parameter_shapes(model).items():
        small = trained == "adapters" and not is_trained(model, trained, path)
        dtype = jnp.bfloat16 if small else jnp.float32
        kinds[path not in chosen][path] = jax.ShapeDtypeStruct(leaf.shape, dtype)
    return kinds


def abstract_state(
    model: Pi05Config, mesh: Mesh, trained: Trained, optimizer: OptimizerConfig, freeze: tuple[str, ...] = ()
) -> TrainState:
    """Shapes, dtypes and shardings of the state; nothing is allocated."""

    def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=parameter_sharding(mesh, leaf))

    params, frozen = parameter_kinds(model, trained, freeze)
    opt_state = jax.eval_shape(make_optimizer(optimizer).init, params)
    averaged = None if optimizer.ema_decay is None else params
    step = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.tree.map(placed, TrainState(step, params, frozen, opt_state, averaged))


def start_state(
    model: Pi05Config,
    mesh: Mesh,
    trained: Trained,
    optimizer: OptimizerConfig,
    rng: Key[Array, ""],
    source: ParameterSource | None = None,
    freeze: tuple[str, ...] = (),
) -> Started:
    """A state before the first step; every leaf is made or read where it lies, and never as a whole anywhere.

    Args:
        rng: for parameters that do not come from ``source``; the same key gives the same numbers on any mesh.
        source: of a checkpoint; None starts all at random. Adapters it lacks start at random, and so do the progress
            head and the state token if it has none; a head that the model does not have is left out.
    """
    shapes = abstract_state(model, mesh, trained, optimizer, freeze)
    wanted = {**shapes.params, **shapes.frozen}
    missing, unused = list(wanted), []
    loaded: Parameters = {}
    if source is not None:
        missing, unused = compare_with_source(model, source)
        for leaves in (shapes.params, shapes.frozen):
            taken = {path: source.leaves[path] for path in leaves if path not in missing}
            for dtype in {leaf.dtype for leaf in leaves.values()}:
                loaded |= load_arrays(
                    ParameterSource(source.where, taken, source.read_piece),
                    dtype=dtype,
                    shardings=lambda path, leaf: wanted[path].sharding,
                )
        # Those of a head are read as they are stored.
        loaded = {path: value.astype(wanted[path].dtype) for path, value in loaded.items()}

    def fresh(key: Array) -> Parameters:
        made = parameter_paths(Pi05(model, nnx.Rngs(key)))
        return {path: made[path].astype(wanted[path].dtype) for path in missing}

    def rest(params: Parameters) -> tuple:
        averaged = None if optimizer.ema_decay is None else jax.tree.map(jnp.copy, params)
        return jnp.zeros((), jnp.int32), make_optimizer(optimizer).init(params), averaged

    places = {path: wanted[path].sharding for path in missing}
    made = jax.jit(fresh, in_shardings=replicated(mesh), out_shardings=places)(rng)
    parameters = {**loaded, **made}
    params = {path: parameters[path] for path in shapes.params}
    frozen = {path: parameters[path] for path in shapes.frozen}
    others = (shapes.step, shapes.opt_state, shapes.ema_params)
    step, opt_state, averaged = jax.jit(rest, out_shardings=state_shardings(mesh, others))(params)
    return Started(TrainState(step, params, frozen, opt_state, averaged), missing, unused)


def compare_with_source(model: Pi05Config, source: ParameterSource) -> tuple[list[str], list[str]]:
    """Paths that a checkpoint lacks, and those it has in vain, of adapters and added parts; nothing else may differ."""
    wanted = parameter_shapes(model)
    lacking = tuple(part for part in ADDED if not any(path.startswith(part) for path in source.leaves))
    missing = [path for path in wanted if path not in source.leaves and (is_adapter(path) or path.startswith(lacking))]
    unused = [path for path in source.leaves if path.startswith(HEAD) and model.progress.kind == "none"]
    try:
        check_parameters(
            {path: leaf for path, leaf in wanted.items() if path not in missing},
            {path: leaf for path, leaf in source.leaves.items() if path not in unused},
        )
    except ParameterMismatchError as error:
        raise CheckpointError(
            f"{source.where}: training cannot start from this checkpoint, it does not fit the model configuration "
            f"{model.name!r}: {error}"
        ) from error
    return missing, unused


@functools.lru_cache(maxsize=8)
def _skeleton(config: Pi05Config) -> tuple[nnx.GraphDef, list]:
    graph, state = nnx.split(abstract_model(config))
    return graph, list(nnx.to_flat_state(state))


def with_parameters(config: Pi05Config, parameters: Mapping[str, Array]) -> Pi05:
    """A model with these parameters, which may be traced."""
    graph, leaves = _skeleton(config)
    filled = [(path, leaf.replace(parameters["/".join(map(str, path))])) for path, leaf in leaves]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def parameters_in_use(state: TrainState) -> Parameters:
    """All parameters by path, as they are saved for use: averaged, if an average is kept."""
    return {**state.frozen, **(state.params if state.ema_params is None else state.ema_params)}
