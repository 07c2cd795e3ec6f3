"""What compiled programs cost, by the compiler's own count, loops counted as often as they run.

XLA's cost analysis counts the body of a loop once. Here every ``lax.scan`` is looked up in the traced function, its
body compiled alone, and its cost added for the remaining rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun


class Cost(NamedTuple):
    """Of one run: floating point operations, and bytes that instructions read and write (caches are not modelled)."""

    flops: float
    bytes: float


def program_cost(function: Callable, *arguments: Any) -> Cost:
    """Cost of a function compiled for these arguments (arrays, or their shapes), all its scans included.

    Raises:
        ValueError: the function has a loop whose number of rounds is not known.
    """
    return _counted(jax.make_jaxpr(function)(*arguments))[1]


def argument_bytes(function: Callable, *arguments: Any) -> int:
    """Bytes of those arguments that the compiled function reads at all."""
    return jax.jit(function).lower(*arguments).compile().memory_analysis().argument_size_in_bytes


def size_in_bytes(tree: Any) -> int:
    """Bytes of all arrays (or shapes) in a pytree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _counted(traced: ClosedJaxpr) -> tuple[Cost, Cost]:
    """With every loop's body counted once, as XLA does, and with each counted as often as it runs."""
    once = _counted_once(traced)
    flops, accessed = once
    for rounds, body in _scans(traced.jaxpr):
        body_once, body_full = _counted(body)
        flops += rounds * body_full.flops - body_once.flops
        accessed += rounds * body_full.bytes - body_once.bytes
    return once, Cost(flops, accessed)


def _counted_once(traced: ClosedJaxpr) -> Cost:
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in traced.in_avals]
    analysis = jax.jit(jaxpr_as_fun(traced)).lower(*shapes).compile().cost_analysis()
    return Cost(analysis["flops"], analysis["bytes accessed"])


def _scans(jaxpr: Jaxpr) -> Iterator[tuple[int, ClosedJaxpr]]:
    """Rounds and bodies of scans, also of those in functions that are called, but not of those in other scans."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            raise ValueError("a while loop: how often it runs is not known, use lax.scan or lax.fori_loop's unrolling")
        if equation.primitive.name == "scan":
            yield equation.params["length"], equation.params["jaxpr"]
            continue
        for value in equation.params.values():
            if isinstance(value, ClosedJaxpr | Jaxpr):
                yield from _scans(value.jaxpr if isinstance(value, ClosedJaxpr) else value)
