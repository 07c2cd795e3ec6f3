"""This model's numbers under the names that golden sets have for them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..models.config import GemmaConfig, LoraConfig, Pi05Config, ProgressConfig, SiglipConfig
from ..models.observation import Observation
from ..models.parameters import abstract_model, load_parameters
from ..models.pi05 import Pi05
from ..observation import IMAGE_KEYS

GEMMA_SIZES = ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
# Each program runs once, and nearly all the time is compiling. Machine code that is not optimised takes half of it; in
# float32 that is not done, since a multiplication and an addition that are not fused move the last digit of the time.
QUICK = {"xla_backend_optimization_level": 0}


def quick() -> dict[str, int] | None:
    """Compiler options for a program that runs once: ``QUICK`` on a CPU, a GPU's own defaults on a GPU."""
    return QUICK if jax.default_backend() == "cpu" else None


def golden_config(vision: Mapping, patch: int, **sizes: Any) -> Pi05Config:
    """The configuration of a recorded model, which computes in float32 and has no progress head."""
    siglip = SiglipConfig(vision["width"], vision["depth"], vision["mlp_dim"], vision["num_heads"], patch)
    progress = ProgressConfig(kind="none")
    return Pi05Config(name="golden", siglip=siglip, compute_dtype="float32", progress=progress, **sizes)


def config_of(data: Mapping) -> Pi05Config:
    """The model configuration of a golden set's ``config.json``."""
    vision = data["vision"]
    patch = vision["patch_size"]
    if patch[0] != patch[1]:
        raise ValueError(f"patch size {patch}: only square patches are known")

    def expert(values: Mapping) -> GemmaConfig:
        sizes = {name: values[name] for name in GEMMA_SIZES}
        given = values.get("lora") or {}
        stabilised = bool(given.get("rslora", False))
        adapters = {k: LoraConfig(int(v[0]), float(v[1]), stabilised) for k, v in given.items() if k != "rslora"}
        return GemmaConfig(**sizes, lora=adapters.get("attn"), feed_forward_lora=adapters.get("ffn"))

    return golden_config(
        vision, patch[0], paligemma=expert(data["paligemma"]), expert=expert(data["expert"]),
        image_size=tuple(data["res"]), vocabulary=data["vocab"], action_dim=data["action_dim"],
        action_horizon=data["horizon"], max_token_len=data["max_token_len"],
    )  # fmt: skip


def observation_of(inputs: Mapping[str, np.ndarray]) -> Observation:
    """The observation of a golden set's inputs."""
    return Observation(
        images={key: inputs[f"image/{key}"] for key in IMAGE_KEYS},
        image_masks={key: inputs[f"image_mask/{key}"] for key in IMAGE_KEYS},
        **{key: inputs[key] for key in ("state", "tokenized_prompt", "tokenized_prompt_mask")},
    )


def make_model(config: Pi05Config, parameters: Mapping[str, np.ndarray]) -> Pi05:
    """A model with exactly these parameters."""
    model = abstract_model(config)
    load_parameters(model, parameters)
    return model


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
    result = _compiled(model.config.compute_dtype != "float32")(
        graph, parameters, observation, dict(inputs), steps, loss_key
    )
    return {
        key: np.asarray(value, np.float32 if value.dtype == jnp.bfloat16 else value.dtype)
        for key, value in result.items()
    }


@functools.cache
def _compiled(quickly: bool) -> Callable[..., dict[str, jax.Array]]:
    return jax.jit(_outputs, static_argnums=(0, 4, 5), compiler_options=quick() if quickly else None)


def _outputs(
    graph: nnx.GraphDef,
    parameters: nnx.State,
    observation: Observation,
    inputs: Mapping[str, jax.Array],
    steps: tuple[int, ...],
    loss_key: int | None,
) -> dict[str, jax.Array]:
    model = nnx.merge(graph, parameters)
    # Compiling is nearly all the time this takes: what several passes begin with is given to them.
    x_t, t, n = inputs["x_t"], inputs["t"], model.config.tokens_per_image
    b, a, _ = x_t.shape
    embedded = model.embed_prefix(observation)
    prefix_tokens, mask, _ = embedded
    prefix = model.prefix_pass(observation, embedded)
    joint_prefix, _, joint_suffix = model.joint_pass(observation, x_t, t, embedded)
    cached_suffix = model.cached_pass(x_t, model.modulation(t), prefix)
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
        "suffix_tokens": model.action_in_proj(x_t),
        "suffix_mask": jnp.ones((b, a), bool),
        "suffix_ar_mask": model.suffix_block(),
        "suffix_positions": mask.sum(axis=1)[:, None] + jnp.arange(a)[None],
        "adarms_cond": model.condition(t),
        "suffix_out_cached": cached_suffix,
        "v_t_cached": model.action_out_proj(cached_suffix),
        "prefix_out_joint": joint_prefix,
        "suffix_out_joint": joint_suffix,
        "v_t_joint": model.action_out_proj(joint_suffix),
        "loss": action_loss(model, observation, inputs, loss_key),
        **samples,
        **plain,
    }


def action_loss(
    model: Pi05, observation: Observation, inputs: Mapping[str, jax.Array], loss_key: int | None
) -> jax.Array:
    """The action loss per step, with noise and times drawn from the set's key where it names one.

    Recorded times are rounded to float32, those drawn inside the compiled loss need not be, and a time's last digit
    moves the time embedding's fastest angle by 1e-4 rad: only the key gives exactly what was recorded.
    """
    draws = {} if loss_key is not None else {"noise": inputs["loss_noise"], "time": inputs["loss_time"]}
    key = jax.random.key(loss_key or 0)
    return model.compute_loss_with_progress(key, observation, inputs["actions"], **draws).action
