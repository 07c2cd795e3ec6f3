"""What a training step needs in the memory of each device, from shapes alone: nothing is allocated or compiled.

Parameters, gradients, optimiser and average are exact: their shapes, cut as ``sharding`` cuts them. Activations are
counted in the traced program: what the forward pass keeps for the backward pass, and what one layer of the backward
pass computes again. What the compiler makes of that is within a quarter of it; docs/training_numerics.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from pi05_progress.checkpoints.parameter_source import size_in_bytes
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.layers import BATCH_AXES
from pi05_progress.models.lora import Trained
from pi05_progress.models.observation import Observation
from pi05_progress.models.pi05 import Drawn
from pi05_progress.observation import IMAGE_KEYS
from pi05_progress.policies.device_memory import VARIABLES, is_set

from .loss import LossConfig, Part, Shares, total_loss
from .optimizer import OptimizerConfig
from .sharding import check_batch_size, check_devices
from .state import abstract_state, parameter_kinds, with_parameters

GIB = 2**30
H100 = 80 * GIB
USABLE = 0.92  # of a device's memory; the rest is the driver's, the compiler's and lost between arrays
# Layers whose intermediate numbers are there at once in the backward pass, measured on XLA's own figures for tiny and
# mid: a layer that is computed again stands beside the gradients of its own numbers.
LAYERS_AT_ONCE = {"layers": 1.5, "dots": 1.5, "none": 1.0}
STACKED = "/layers/", "/encoderblock/"


def claim_memory(environment: MutableMapping[str, str]) -> None:
    """Let JAX use as much of a GPU as the plan counts on; by itself it takes 75 %. Before JAX looks for devices.

    What the user has set stays.
    """
    if not is_set(environment):
        environment[VARIABLES[0]] = str(USABLE)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes per device."""

    parameters: int  # those that are trained
    frozen: int  # those that are not
    gradients: int  # of a batch, twice if it is cut into pieces: of the pieces so far, and of the one at hand
    optimizer: int  # its state
    average: int  # of the parameters
    batch: int  # pictures and the rest, as they are loaded and as the model reads them
    kept: int  # by the forward pass for the backward pass
    working: int  # numbers of the layer that the backward pass is at
    gathered: int  # weights of two layers, fetched from the other devices; 0 where they are not cut

    @property
    def total(self) -> int:
        """Everything."""
        return sum(dataclasses.asdict(self).values())

    def fits(self, device_bytes: int) -> bool:
        """Whether a device with so much memory is enough."""
        return self.total <= USABLE * device_bytes


def plan_memory(
    model: Pi05Config,
    *,
    devices: int,
    fsdp_devices: int,
    batch_size: int,
    optimizer: OptimizerConfig,
    trained: Trained = "everything",
    freeze: tuple[str, ...] = (),
    flow_samples: int = 1,
) -> MemoryPlan:
    """What a run with progress labels needs per device, of so many over all processes, which share a batch."""
    check_devices(devices, fsdp_devices)
    check_batch_size(batch_size, devices, optimizer.accumulation_steps)
    sizes = (devices // fsdp_devices, fsdp_devices)
    mesh = AbstractMesh(sizes, BATCH_AXES, axis_types=(AxisType.Auto,) * 2)
    state = abstract_state(model, mesh, trained, optimizer, freeze)
    rows = batch_size // devices
    piece = rows // optimizer.accumulation_steps
    whole = _part(model, rows, flow_samples)
    loaded = sum(math.prod(image.shape) for image in whole.drawn.observation.images.values())
    if trained == "head":  # no layer is computed backwards; forwards it needs less than it would keep
        kept, working = 0, float(_working(model, "everything", (), piece, flow_samples))
    else:
        kept = _kept(model, trained, freeze, piece, flow_samples)
        working = LAYERS_AT_ONCE[model.remat] * _working(model, trained, freeze, piece, flow_samples)
    return MemoryPlan(
        parameters=_held(state.params),
        frozen=_held(state.frozen),
        gradients=_held(state.params) * (1 if optimizer.accumulation_steps == 1 else 2),
        optimizer=_held(state.opt_state),
        average=_held(state.ema_params),
        batch=loaded + sum(map(size_in_bytes, jax.tree.leaves(whole))),
        kept=kept,
        working=round(working),
        gathered=_gathered({**state.params, **state.frozen}),
    )


def _held(tree: Any) -> int:
    """Bytes of a pytree of placed shapes that lie on each device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _gathered(parameters: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Bytes of two layers' weights, where each device has only pieces of them: one in use, one on its way."""
    cut = {path: x for path, x in parameters.items() if x.sharding.shard_shape(x.shape) != x.shape}
    towers: dict[str, int] = {}
    for path, leaf in cut.items():
        for marker in STACKED:
            if marker in path:
                size = math.prod(leaf.shape) * leaf.dtype.itemsize // leaf.shape[0]
                towers[marker] = towers.get(marker, 0) + size
    return 2 * max(towers.values(), default=0)


def _part(model: Pi05Config, rows: int, flow_samples: int) -> Part:
    """Shapes of what the loss reads."""
    shape = jax.ShapeDtypeStruct
    actions = shape((rows, model.action_horizon, model.action_dim), jnp.float32)
    numbers, flags = shape((rows,), jnp.float32), shape((rows,), bool)
    state = shape((rows, model.action_dim), jnp.float32)
    observation = Observation(
        images={key: shape((rows, *model.view(key).size, 3), jnp.float32) for key in IMAGE_KEYS},
        image_masks=dict.fromkeys(IMAGE_KEYS, flags),
        state=state,
        tokenized_prompt=shape((rows, model.max_token_len), jnp.int32),
        tokenized_prompt_mask=shape((rows, model.max_token_len), bool),
        progress=numbers,
        progress_mask=flags,
        positions=shape((rows, len(model.positions), 3), jnp.float32) if model.positions else None,
        positions_mask=shape((rows, len(model.positions)), bool) if model.positions else None,
        proprioception=shape((rows, model.proprioception_size), jnp.float32) if model.state_token else None,
    )
    several = () if flow_samples == 1 else (flow_samples,)
    noise = shape((rows, *several, *actions.shape[1:]), jnp.float32)
    drawn = Drawn(observation, noise, shape((rows, *several), jnp.float32))
    per_step = shape((rows, model.action_horizon), jnp.float32)
    located = shape((rows, len(model.positions)), jnp.float32) if model.positions else None
    return Part(drawn, actions, Shares(per_step, numbers, located))


def _working(model: Pi05Config, trained: Trained, freeze: tuple[str, ...], rows: int, flow_samples: int) -> int:
    """Bytes of all intermediate numbers of one layer, the larger tower's: what one layer more would keep."""
    plain = dataclasses.replace(model, remat="none")
    depths = ((1, 1), (2, 1), (1, 2))
    base, vision, language = (_kept(with_depths(plain, *of), trained, freeze, rows, flow_samples) for of in depths)
    return max(vision, language) - base


@functools.lru_cache(maxsize=64)
def _kept(model: Pi05Config, trained: Trained, freeze: tuple[str, ...], rows: int, flow_samples: int) -> int:
    """Bytes kept for the backward pass of so many samples."""

    def loss(params: Mapping[str, Any], frozen: Mapping[str, Any], part: Part) -> jax.Array:
        return total_loss(with_parameters(model, {**frozen, **params}), part, LossConfig())[0]

    return residual_bytes(loss, *parameter_kinds(model, trained, freeze), _part(model, rows, flow_samples))


def with_depths(model: Pi05Config, vision: int, language: int) -> Pi05Config:
    """The same model with other numbers of layers."""
    return dataclasses.replace(
        model,
        siglip=None if model.siglip is None else dataclasses.replace(model.siglip, depth=vision),
        points=dataclasses.replace(model.points, depth=vision),
        paligemma=dataclasses.replace(model.paligemma, depth=language),
        expert=dataclasses.replace(model.expert, depth=language),
    )


def residual_bytes(function: Callable, first: Any, *others: Any) -> int:
    """Bytes that a function keeps for the gradient with respect to its first argument, besides its arguments."""

    def residuals(first: Any, *others: Any) -> list[jax.Array]:
        return jax.tree.leaves(jax.vjp(lambda x: function(x, *others), first)[1])

    program = jax.make_jaxpr(residuals)(first, *others).jaxpr
    given = set(program.invars)
    kept = {v: v.aval for v in program.outvars if not hasattr(v, "val") and v not in given}  # literals have a val
    return sum(aval.size * aval.dtype.itemsize for aval in kept.values())


def table(plans: Mapping[str, MemoryPlan], device_bytes: int | None = None) -> str:
    """Plans side by side, GiB per device."""
    width, names = max(map(len, plans)) + 2, [field.name for field in dataclasses.fields(MemoryPlan)]
    rows = [f"{'GiB per device':<{width}}" + "".join(f"{name:>12}" for name in (*names, "total"))]
    for title, plan in plans.items():
        values = [*dataclasses.asdict(plan).values(), plan.total]
        row = f"{title:<{width}}" + "".join(f"{value / GIB:>12.2f}" for value in values)
        if device_bytes is not None:
            verdict = "fits" if plan.fits(device_bytes) else "does not fit"
            row += f"  {verdict} {device_bytes / GIB:.0f} GiB"
        rows.append(row)
    return "\n".join(rows)
