"""What a CPU can tell about the program that a GPU gets: its text before XLA compiles it for that GPU."""

import dataclasses
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from flax import nnx

from pi05_progress.models.config import tiny
from pi05_progress.models.observation import Observation
from pi05_progress.models.parameters import parameter_paths
from pi05_progress.models.pi05 import Pi05
from pi05_progress.observation import IMAGE_KEYS
from pi05_progress.policies.sampler import Sampler, for_inference

STEPS = 10
STACKED = "/layers/", "/encoderblock/"
# How a layer's weight may reach the product that uses it: its place in the stack is looked up, its axes are split.
LOOKED_UP = {"dynamic_slice", "slice", "reshape", "dot_general", "while", "return", "call"}


def inputs(config):
    images = {key: np.zeros((1, *config.image_size, 3), np.uint8) for key in IMAGE_KEYS}
    return Observation(
        images=images,
        image_masks={key: np.ones(1, bool) for key in images},
        state=np.zeros((1, config.action_dim), np.float32),
        tokenized_prompt=np.zeros((1, 32), np.int32),
        tokenized_prompt_mask=np.ones((1, 32), bool),
    ), np.zeros((1, config.action_horizon, config.action_dim), np.float32)


def config():
    return dataclasses.replace(tiny(), compute_dtype="bfloat16", max_token_len=32)


@pytest.fixture(scope="module")
def program():
    """The sampler's program for a GPU with CUDA, and the shapes of its weights."""
    model = nnx.eval_shape(lambda: for_inference(Pi05(config(), nnx.Rngs(0))))
    graph, parameters = nnx.split(model)
    modulations = jax.eval_shape(lambda p: nnx.merge(graph, p).step_modulations(STEPS), parameters)

    def sample(p, modulations, observation, noise):
        return nnx.merge(graph, p).sample(observation, noise=noise, num_steps=STEPS, modulations=modulations)

    traced = jax.jit(sample, donate_argnums=3).trace(parameters, modulations, *inputs(config()))
    lowered = traced.lower(lowering_platforms=("cuda",)).compiler_ir("stablehlo")
    return lowered.operation, weight_shapes(parameter_paths(model))


def weight_shapes(paths):
    """Shapes of matrices, whole stacks of layers and single layers of them, and the path of each."""
    shapes = {}
    for path, leaf in paths.items():
        shape = tuple(leaf.shape)
        layers = [shape[1:], (1, *shape[1:])] if any(part in path for part in STACKED) else []
        if len(layers[0] if layers else shape) >= 2:
            shapes |= dict.fromkeys([shape, *layers], path)
    return shapes


def operations(operation, in_loop=False):
    """All operations in an operation, and whether each is in a loop."""
    for region in operation.regions:
        for block in region:
            for inner in block:
                yield inner.operation, in_loop
                yield from operations(inner.operation, in_loop or inner.operation.name == "stablehlo.while")


def shape_of(value):
    found = re.fullmatch(r"tensor<((?:\d+x)+)\w+>", str(value.type))
    return tuple(map(int, found[1].rstrip("x").split("x"))) if found else ()


def test_an_inference_is_one_program():
    sampler = Sampler(for_inference(Pi05(config(), nnx.Rngs(0))), STEPS)
    with compilations() as compiled:
        jax.block_until_ready(sampler(*inputs(config())))
    assert len(compiled) == 1


def test_its_loops_are_those_over_layers_and_steps(program):
    loops = [in_loop for operation, in_loop in operations(program[0]) if operation.name == "stablehlo.while"]
    assert Counter(loops) == {False: 3, True: 1}, "vision tower, trunk, steps; and in the steps the expert's layers"


def copies_in_loops(module, shapes):
    """(operation, weight) wherever a loop does something else with a weight than looking it up and multiplying."""
    return {
        (operation.name.rpartition(".")[2], shapes[shape_of(operand)])
        for operation, in_loop in operations(module)
        if in_loop and operation.name.rpartition(".")[2] not in LOOKED_UP
        for operand in operation.operands
        if shape_of(operand) in shapes
    }


def test_no_weight_is_copied_in_a_loop(program):
    """A weight may be looked up and multiplied with; converting, transposing or joining it would be a copy per step."""
    # The projections of actions compute in float32, as openpi's do; at full size they are 64 KB each.
    allowed = {("convert", f"action_{way}_proj/kernel") for way in ("in", "out")}
    copies = {copy for copy in copies_in_loops(*program) if not copy[1].endswith("/bias")}
    assert copies - allowed == set()


def test_a_copy_would_be_found():
    def run(weight, x):
        return jax.lax.scan(lambda x, _: (x @ weight.T, None), x, None, length=3)[0]

    traced = jax.jit(run).trace(jnp.ones((16, 16)), jnp.ones((2, 16)))
    module = traced.lower(lowering_platforms=("cuda",)).compiler_ir("stablehlo").operation
    assert copies_in_loops(module, {(16, 16): "a weight"}) == {("transpose", "a weight")}
