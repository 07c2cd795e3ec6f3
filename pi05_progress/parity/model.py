"""Golden sets of the model itself: ``<name>_config.json`` with parameters, inputs, outputs and gradients beside it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..models.observation import Observation, check_actions, check_observation
from ..models.pi05 import Pi05
from .checks import EXACT, FORWARD, Check, Tolerance, compare, read_json, read_npz, skip
from .outputs import action_loss, config_of, make_model, observation_of, outputs

# bfloat16 results depend on how the compiler fuses, so only their spread is comparable; the trunk's is larger
BF16, BF16_TRUNK = Tolerance(rms=0.01), Tolerance(rms=0.02)
GRADIENT_RTOL, GRADIENT_ATOL = 1e-3, 1e-5  # the second relative to the leaf's largest gradient
# Softmax does not change when all keys are shifted, so this gradient is zero but for noise.
NO_GRADIENT = "MultiHeadDotProductAttention_0/key/bias"
OUTPUTS = ("f32", "bf16_train", "bf16_infer")
EAGER = "_eager"  # a few quantities of the same, recorded without compiling
PARTS = ("inputs", "params", "grads_f32", *(f"out_{o}{e}" for o in OUTPUTS for e in ("", EAGER)))


def _config_file(file: Path) -> Path | None:
    """The configuration of the set that a file belongs to."""
    match = re.fullmatch(rf"(.+?)_(config\.json|schema\.json|(?:{'|'.join(PARTS)})\.npz)", file.name)
    config = file.with_name(f"{match[1]}_config.json") if match else None
    known = config and config.is_file() and {"vision", "paligemma", "expert"} <= set(read_json(config))
    return config if known else None


def check(config_path: Path) -> Iterator[Check]:
    """All quantities of a set."""
    data = read_json(config_path)
    name = config_path.name.removesuffix("_config.json")

    def read(part: str) -> dict[str, np.ndarray]:
        return read_npz(config_path.with_name(f"{name}_{part}.npz"))

    def there(part: str) -> bool:
        return config_path.with_name(f"{name}_{part}.npz").is_file()

    config, inputs, parameters = config_of(data), read("inputs"), read("params")
    observation = observation_of(inputs)
    check_observation(config, observation)
    for key in {"x_t", "sample_noise", "actions", "loss_noise"} & set(inputs):
        check_actions(config, key, inputs[key], len(inputs["t"]))
    plain = read("out_f32") if there("out_f32") else {}
    for kind in OUTPUTS:
        if not there(f"out_{kind}"):
            continue
        golden, stored = read(f"out_{kind}"), parameters
        dtype = "float32" if kind == "f32" else "bfloat16"
        if kind == "bf16_infer":
            stored = {k: jnp.asarray(v, jnp.bfloat16) for k, v in parameters.items()}
        model = make_model(dataclasses.replace(config, compute_dtype=dtype), stored)
        ours = outputs(model, observation, inputs, golden, data.get("loss_key"))
        yield from _compare_outputs(kind, ours, golden, plain)
        if there(f"out_{kind}{EAGER}"):
            yield skip(f"{name} {kind}{EAGER}", "the compiled run of the same numbers is what is compared")
    if there("grads_f32"):
        model = make_model(config, parameters)
        yield from _check_gradients(model, observation, inputs, data.get("loss_key"), read("grads_f32"))


def _compare_outputs(
    kind: str, ours: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray], plain: Mapping[str, np.ndarray]
) -> Iterator[Check]:
    mask = golden["prefix_mask"].astype(bool)
    if mask.shape != ours["prefix_mask"].shape:
        yield compare(f"{kind} prefix_mask", ours["prefix_mask"], mask, EXACT)
        return

    def valid(key: str, value: np.ndarray) -> np.ndarray:
        if key.startswith(("prefix_tokens", "prefix_out")):
            return value[mask]
        return value[:, mask] if key.startswith("kv_cache") else value

    for key, theirs in golden.items():
        if key not in ours:
            yield Check(f"{kind} {key}", np.inf, np.inf, EXACT, False, "not produced by this model")
            continue
        if theirs.dtype.kind in "bi" or theirs.shape != ours[key].shape:
            yield compare(f"{kind} {key}", ours[key], theirs, EXACT)
            continue
        names = [key, f"{key} plain"] if f"{key} plain" in ours else [key]
        for name in names:
            if kind == "f32":
                yield compare(f"{kind} {name}", valid(key, ours[name]), valid(key, theirs), FORWARD)
                continue
            trunk = key.startswith(("prefix", "kv_cache", "vision", "suffix_out"))
            tolerance, reference, note = BF16_TRUNK if trunk else BF16, valid(key, theirs), ""
            if key in plain:  # or as far from float32 as openpi's own numbers are
                exact = valid(key, plain[key])
                spread = compare(name, reference, exact, tolerance).relative
                own = compare(f"{kind} {name}", valid(key, ours[name]), exact, Tolerance(rms=1.25 * spread))
                if own.ok:
                    yield dataclasses.replace(own, note="against float32")
                    continue
            yield compare(f"{kind} {name}", valid(key, ours[name]), reference, tolerance, note)


def _check_gradients(
    model: Pi05,
    observation: Observation,
    inputs: Mapping[str, np.ndarray],
    loss_key: int | None,
    golden: Mapping[str, np.ndarray],
) -> Iterator[Check]:
    graph, parameters = nnx.split(model)

    def mean_loss(parameters: nnx.State, observation: Observation, inputs: dict) -> jax.Array:
        return action_loss(nnx.merge(graph, parameters), observation, inputs, loss_key).mean()

    loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(parameters, observation, dict(inputs))
    if "__loss__" in golden:
        yield compare("gradients: loss", loss, golden["__loss__"], FORWARD)
    ours = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(gradients)}
    for path, theirs in golden.items():
        if path == "__loss__" or path.endswith(NO_GRADIENT):
            continue
        if path not in ours:
            yield Check(f"gradient {path}", np.inf, np.inf, EXACT, False, "no such parameter")
            continue
        tolerance = Tolerance(atol=GRADIENT_ATOL * float(np.abs(theirs).max()), rtol=GRADIENT_RTOL)
        yield compare(f"gradient {path}", ours[path], theirs, tolerance)


KINDS = [("model", _config_file, check)]
