"""Costs of compiled programs: loops count as often as they run, and only what is read counts as read."""

import sys

import jax
import jax.numpy as jnp
import pytest
from places import ROOT

sys.path.append(str(ROOT / "benchmarks"))

from common.costs import argument_bytes, program_cost, size_in_bytes

X, W = jnp.ones((16, 64)), jnp.ones((5, 64, 64))
PRODUCT = 2 * 16 * 64 * 64  # floating point operations of x @ w


def layers(x, w):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]


def test_a_scan_counts_as_often_as_it_runs():
    assert program_cost(layers, X, W).flops == pytest.approx(5 * PRODUCT, rel=1e-3)


def test_a_scan_in_a_scan_in_a_function_that_is_compiled_counts_too():
    def steps(x, w):
        return jax.lax.scan(lambda x, _: (jax.jit(layers)(x, w), None), x, length=7)[0] @ w[0]

    assert program_cost(steps, X, W).flops == pytest.approx((7 * 5 + 1) * PRODUCT, rel=1e-3)


def test_a_scan_costs_what_the_same_rounds_written_out_cost():
    def written_out(x, w):
        for i in range(5):
            x = x @ w[i]
        return x

    ours, plain = program_cost(layers, X, W), program_cost(written_out, X, W)
    assert ours.flops == pytest.approx(plain.flops, rel=1e-3)
    weights = size_in_bytes(W)
    assert weights < ours.bytes < 5 * weights
    assert weights < plain.bytes < 5 * weights


def test_shapes_are_enough():
    given = jax.ShapeDtypeStruct(X.shape, X.dtype), jax.ShapeDtypeStruct(W.shape, W.dtype)
    assert program_cost(layers, *given) == program_cost(layers, X, W)


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="how often it runs is not known"):
        program_cost(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x * 2, x), X)


def test_only_arguments_that_are_read_count():
    assert argument_bytes(lambda a, b: a["used"] + 1, {"used": X, "unused": W}, W) == size_in_bytes(X) == 16 * 64 * 4
