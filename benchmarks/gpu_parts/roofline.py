"""How fast the work could be done at all: by the products it needs and the bytes that must come from memory.

FLOPs are counted in the traced program: two for every multiplication and addition of a matrix product or a
convolution, loops as often as they run; everything else is left out. Bytes of an inference are those that cannot be
saved: weights of vision tower and trunk once, those of the action expert and the modulations in every step, keys and
values written once and read in every step. Numbers of a layer are taken to stay on the chip. Prefix and steps come one
after the other, so the floor is the sum of both: each takes as long as the slower of its products and its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from common.costs import Cost, size_in_bytes
from common.subjects import step_weights
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

from pi05_progress.models.parameters import parameter_paths
from pi05_progress.models.pi05 import Pi05

from .cards import Peak

TABLE = "embedder/input_embedding"  # of which a prompt reads a few rows


class Work(NamedTuple):
    """What an inference needs: the prefix once, a step so many times."""

    prefix: Cost
    step: Cost
    steps: int

    @property
    def total(self) -> Cost:
        """All of it."""
        return Cost(self.prefix.flops + self.steps * self.step.flops, self.prefix.bytes + self.steps * self.step.bytes)

    def floor_s(self, peak: Peak) -> float:
        """The shortest time that a device with these peaks can take, s."""
        return least_s(self.prefix, peak) + self.steps * least_s(self.step, peak)


def least_s(cost: Cost, peak: Peak) -> float:
    """The longer of what the products and the bytes take, s."""
    return max(cost.flops / peak.flops, cost.bytes / peak.bandwidth)


def product_flops(function: Callable, *arguments: Any) -> float:
    """Of all matrix products and convolutions in a function of these arrays, or their shapes."""
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(program: Jaxpr) -> float:
    total = 0.0
    for equation in program.eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            left, out = (v.aval.shape for v in (equation.invars[0], equation.outvars[0]))
            total += 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            out, kernel = equation.outvars[0].aval.shape, equation.invars[1].aval.shape
            outputs = kernel[given["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(out) * math.prod(kernel) / outputs / given["batch_group_count"]
        elif name == "while":
            raise ValueError("a while loop: how often it runs is not known")
        else:
            rounds = given["length"] if name == "scan" else 1
            for value in given.values():
                if isinstance(value, ClosedJaxpr | Jaxpr):
                    total += rounds * _flops(value.jaxpr if isinstance(value, ClosedJaxpr) else value)
    return total


def inference_work(model: Pi05, observation: Any, noise: Any, modulations: Any, steps: int) -> Work:
    """What an inference needs.

    Args:
        model: with parameters, or their shapes.
        observation: of so many cameras, tokens and rows.
        noise: of as many rows.
        modulations: of all steps, if they are there already; None computes them in every step.
        steps: of denoising.
    """
    graph, parameters = nnx.split(model)

    def prefix(p: nnx.State, seen: Any) -> Any:
        own = nnx.merge(graph, p)
        made = own.prefix_pass(seen)
        return made, own.belief(made)

    def step(p: nnx.State, made: Any, at: Any, x_t: Any) -> Any:
        return nnx.merge(graph, p).denoise_step(made, x_t, at, steps)

    made = jax.eval_shape(prefix, parameters, observation)[0]
    if modulations is None:
        at = jax.ShapeDtypeStruct((), "float32")
    else:
        at = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), modulations)
    expert, without_time = step_weights(model)
    table = sum(size_in_bytes(x) for path, x in parameter_paths(model).items() if path.endswith(TABLE))
    others = size_in_bytes(parameters) - expert - table
    cache = size_in_bytes(made.cache)
    per_step = expert if modulations is None else without_time + size_in_bytes(at)
    return Work(
        Cost(product_flops(prefix, parameters, observation), others + cache),
        Cost(product_flops(step, parameters, made, at, noise), per_step + cache),
        steps,
    )
