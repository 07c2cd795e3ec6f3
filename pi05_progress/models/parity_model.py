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

from ..observation import IMAGE_KEYS
from .config import GemmaConfig, LoraConfig, Pi05Config, ProgressConfig, SiglipConfig
from .input_checks import check_actions, check_observation
from .observation import Observation
from .parameters import load_parameters
from .parity import Check, Tolerance, compare, read_json, read_npz, skip
from .pi05 import Pi05, attention_mask

FORWARD = Tolerance(atol=5e-5, rtol=1e-4)
EXACT = Tolerance()
# bfloat16 results depend on how the compiler fuses, so only their spread is comparable; the trunk's is larger
BF16, BF16_TRUNK = Tolerance(rms=0.01), Tolerance(rms=0.02)
GRADIENT_RTOL, GRADIENT_ATOL = 1e-3, 1e-5  # the second relative to the leaf's largest gradient
# Softmax does not change when all keys are shifted, so this gradient is zero but for noise.
NO_GRADIENT = "MultiHeadDotProductAttention_0/key/bias"
# Each program runs once, and nearly all the time is compiling. Machine code that is not optimised takes half of it; in
# float32 that is not done, since a multiplication and an addition that are not fused move the last digit of the time.
QUICK = {"xla_backend_optimization_level": 0}
OUTPUTS = ("f32", "bf16_train", "bf16_infer")
EAGER = "_eager"  # a few quantities of the same, recorded without compiling
PARTS = ("inputs", "params", "grads_f32", *(f"out_{o}{e}" for o in OUTPUTS for e in ("", EAGER)))


def _config_file(file: Path) -> Path | None:
    """The configuration of the set that a file belongs to."""
    match = re.fullmatch(rf"(.+?)_(config\.json|schema\.json|(?:{'|'.join(PARTS)})\.npz)", file.name)
    config = file.with_name(f"{match[1]}_config.json") if match else None
    return (
        config if config and config.is_file() and {"vision", "paligemma", "expert"} <= set(read_json(config)) else None
    )


def config_of(data: Mapping) -> Pi05Config:
    """The model configuration of a golden set's ``config.json``."""
    vision = data["vision"]
    patch = vision["patch_size"]
    if patch[0] != patch[1]:
        raise ValueError(f"patch size {patch}: only square patches are known")

    def expert(values: Mapping) -> GemmaConfig:
        sizes = {k: values[k] for k in ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")}
        given = values.get("lora") or {}
        stabilised = bool(given.get("rslora", False))
        adapters = {k: LoraConfig(int(v[0]), float(v[1]), stabilised) for k, v in given.items() if k != "rslora"}
        return GemmaConfig(**sizes, lora=adapters.get("attn"), feed_forward_lora=adapters.get("ffn"))

    return Pi05Config(
        name="golden",
        siglip=SiglipConfig(vision["width"], vision["depth"], vision["mlp_dim"], vision["num_heads"], patch[0]),
        paligemma=expert(data["paligemma"]),
        expert=expert(data["expert"]),
        image_size=tuple(data["res"]),
        vocabulary=data["vocab"],
        action_dim=data["action_dim"],
        action_horizon=data["horizon"],
        max_token_len=data["max_token_len"],
        compute_dtype="float32",
        progress=ProgressConfig(kind="none"),
    )


def observation_of(inputs: Mapping[str, np.ndarray]) -> Observation:
    """The observation of a golden set's inputs."""
    return Observation.from_dict(
        {
            "image": {key: inputs[f"image/{key}"] for key in IMAGE_KEYS},
            "image_mask": {key: inputs[f"image_mask/{key}"] for key in IMAGE_KEYS},
            **{key: inputs[key] for key in ("state", "tokenized_prompt", "tokenized_prompt_mask")},
        }
    )


def make_model(config: Pi05Config, parameters: Mapping[str, np.ndarray]) -> Pi05:
    """A model with exactly these parameters."""
    model = nnx.eval_shape(lambda: Pi05(config, nnx.Rngs(0)))
    load_parameters(model, parameters)
    return model


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
        golden = read(f"out_{kind}")
        dtype = "float32" if kind == "f32" else "bfloat16"
        stored = (
            {k: jnp.asarray(v, jnp.bfloat16) for k, v in parameters.items()} if kind == "bf16_infer" else parameters
        )
        model = make_model(dataclasses.replace(config, compute_dtype=dtype), stored)
        ours = outputs(model, observation, inputs, golden, data.get("loss_key"))
        yield from _compare_outputs(kind, ours, golden, plain)
        if there(f"out_{kind}{EAGER}"):
            yield skip(f"{name} {kind}{EAGER}", "the compiled run of the same numbers is what is compared")
    if there("grads_f32"):
        model = make_model(config, parameters)
        yield from _check_gradients(model, observation, inputs, data.get("loss_key"), read("grads_f32"))


def outputs(
    model: Pi05,
    observation: Observation,
    inputs: Mapping[str, np.ndarray],
    wanted: Mapping[str, np.ndarray],
    loss_key: int | None,
) -> dict[str, np.ndarray]:
    """Our numbers for every quantity of a set's outputs."""
    steps = tuple(sorted(int(k.rpartition("_")[2]) for k in wanted if re.fullmatch(r"sample_actions_\d+", k)))
    graph, parameters = nnx.split(model)
    compiled = _compiled if model.config.compute_dtype == "float32" else _compiled_quickly
    result = compiled(graph, parameters, observation, dict(inputs), steps, loss_key)
    return {
        key: np.asarray(value, np.float32 if value.dtype == jnp.bfloat16 else value.dtype)
        for key, value in result.items()
    }


def _outputs_of(
    graph: nnx.GraphDef,
    parameters: nnx.State,
    observation: Observation,
    inputs: Mapping[str, jax.Array],
    steps: tuple[int, ...],
    loss_key: int | None,
) -> dict[str, jax.Array]:
    return _outputs(nnx.merge(graph, parameters), observation, inputs, steps=steps, loss_key=loss_key)


_compiled = jax.jit(_outputs_of, static_argnums=(0, 4, 5))
_compiled_quickly = jax.jit(_outputs_of, static_argnums=(0, 4, 5), compiler_options=QUICK)


def _outputs(
    model: Pi05,
    observation: Observation,
    inputs: Mapping[str, jax.Array],
    *,
    steps: tuple[int, ...],
    loss_key: int | None,
) -> dict[str, jax.Array]:
    # Every pass appears once: compiling is nearly all the time this takes. Sampling and the loss go through the model's
    # own `velocity` and `joint_pass`.
    x_t, t, n = inputs["x_t"], inputs["t"], model.config.tokens_per_image
    embedded = model.embed_prefix(observation)
    prefix_tokens, mask = embedded
    prefix = model.prefix_pass(observation, embedded)
    modulation = model.modulation(t)
    suffix = model.action_in_proj(x_t)
    b, a, _ = x_t.shape
    valid = jnp.concatenate([mask, jnp.ones((b, a), bool)], axis=1)
    starts = jnp.concatenate([jnp.zeros(mask.shape[1], bool), model.suffix_block()])
    positions = jnp.cumsum(valid, axis=1) - 1
    joint_prefix, joint_suffix, _ = model.PaliGemma.llm(
        prefix_tokens, suffix, positions, attention_mask(valid, starts), modulation
    )
    own = attention_mask(jnp.ones((b, a), bool), model.suffix_block())
    attend = jnp.concatenate([jnp.broadcast_to(mask[:, None], (b, a, mask.shape[1])), own], axis=2)
    _, cached_suffix, _ = model.PaliGemma.llm(None, suffix, positions[:, -a:], attend, modulation, prefix.cache)
    samples = {
        f"sample_actions_{count}": model.denoise(prefix, inputs["sample_noise"], count, model.step_modulations(count))
        for count in steps
    }
    plain = {f"sample_actions_{count} plain": model.denoise(prefix, inputs["sample_noise"], count) for count in steps}
    return {
        **{f"vision/{key}": prefix_tokens[:, i * n : (i + 1) * n] for i, key in enumerate(IMAGE_KEYS)},
        "prefix_tokens": prefix_tokens,
        "prefix_mask": mask,
        "prefix_ar_mask": jnp.zeros(mask.shape[1], bool),
        "prefix_positions": jnp.cumsum(mask, axis=1) - 1,
        "prefix_out": prefix.out,
        "kv_cache_k": prefix.cache.k,
        "kv_cache_v": prefix.cache.v,
        "suffix_tokens": suffix,
        "suffix_mask": jnp.ones((b, a), bool),
        "suffix_ar_mask": model.suffix_block(),
        "suffix_positions": positions[:, -a:],
        "adarms_cond": model.condition(t),
        "suffix_out_cached": cached_suffix,
        "v_t_cached": model.action_out_proj(cached_suffix),
        "prefix_out_joint": joint_prefix,
        "suffix_out_joint": joint_suffix,
        "v_t_joint": model.action_out_proj(joint_suffix),
        "loss": _loss(model, observation, inputs, loss_key),
        **samples,
        **plain,
    }


def _compare_outputs(
    kind: str, ours: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray], plain: Mapping[str, np.ndarray]
) -> Iterator[Check]:
    mask = golden["prefix_mask"].astype(bool)
    if mask.shape != ours["prefix_mask"].shape:
        yield compare(f"{kind} prefix_mask", ours["prefix_mask"], mask, EXACT)
        return

    def valid(key: str, value: np.ndarray) -> np.ndarray:
        if key.startswith("prefix_tokens") or key.startswith("prefix_out"):
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


def _loss(model: Pi05, observation: Observation, inputs: Mapping[str, jax.Array], loss_key: int | None) -> jax.Array:
    """The action loss per step, with noise and times drawn from the set's key where it names one.

    Recorded times are rounded to float32, those drawn inside the compiled loss need not be, and a time's last digit
    moves the time embedding's fastest angle by 1e-4 rad: only the key gives exactly what was recorded.
    """
    if loss_key is not None:
        return model.compute_loss(jax.random.key(loss_key), observation, inputs["actions"])
    draws = {"noise": inputs["loss_noise"], "time": inputs["loss_time"]}
    return model.compute_loss(jax.random.key(0), observation, inputs["actions"], **draws)


def _check_gradients(
    model: Pi05,
    observation: Observation,
    inputs: Mapping[str, np.ndarray],
    loss_key: int | None,
    golden: Mapping[str, np.ndarray],
) -> Iterator[Check]:
    graph, parameters = nnx.split(model)

    def mean_loss(parameters: nnx.State, observation: Observation, inputs: dict) -> jax.Array:
        return _loss(nnx.merge(graph, parameters), observation, inputs, loss_key).mean()

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
