"""Golden sets of LeRobot's PyTorch model: an ``.npz`` with state dict, inputs and outputs, and sizes in ``meta/json``.

The state dict is imported by the very table that imports LeRobot's checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ..checkpoints.foreign.torch_parameters import is_unused, leaf_source, names_by_key, torch_parts
from ..models.config import GemmaConfig, Pi05Config
from ..models.flow import PERIODS, time_embedding
from ..models.observation import Observation
from ..models.parameters import differences
from ..models.pi05 import Pi05, attention_mask
from ..observation import IMAGE_KEYS
from .checks import EXACT, FORWARD, Check, Tolerance, compare, npz_names, read_npz
from .outputs import GEMMA_SIZES, golden_config, make_model, outputs

META, STATE, INPUT, OUTPUT = "meta/json", "sd/", "in/", "out/"
SAME = {  # recorded name -> name of the same quantity among openpi's
    "image_tokens_cam0": f"vision/{IMAGE_KEYS[0]}",
    "prefix_embs": "prefix_tokens",
    "prefix_pad_mask": "prefix_mask",
    "suffix_embs": "suffix_tokens",
    "adarms_cond": "adarms_cond",
    "joint_prefix_out": "prefix_out_joint",
    "joint_suffix_out": "suffix_out_joint",
    "v_t_joint": "v_t_joint",
    "cached_prefix_out": "prefix_out",
    "v_t_cached": "v_t_cached",
}
# PyTorch's time embedding has float64 angles; this model's, as openpi's, float32. Up to 2 pi / 0.004 = 1571 rad, where
# these are 1.2e-4 apart, they are up to 2.2e-4 off after the products (largest of 20,000 times); it spreads from there.
TIME, AFTER_TIME = Tolerance(atol=3e-4), Tolerance(atol=2e-4, rtol=2e-4)
TIMED = ("adarms_cond", "joint_suffix_out", "v_t_joint", "v_t_cached", "sampled_actions", "loss_elementwise")
AT_VALID = ("prefix_embs", "joint_prefix_out", "cached_prefix_out")


def _is_of_torch(file: Path) -> bool:
    names = npz_names(file)
    return META in names and any(name.startswith(STATE) for name in names)


def config_of(meta: Mapping) -> Pi05Config:
    """The model configuration of a set's ``meta/json``; prompts may be as long as the model's default."""
    sizes, vision = meta["tiny"], meta["vision"]
    trunk, expert = (GemmaConfig(**{f: sizes[v][f] for f in GEMMA_SIZES}) for v in ("gemma_2b", "gemma_300m"))
    periods = (meta["min_period"], meta["max_period"])
    if periods != PERIODS:
        raise ValueError(f"time embedding periods {periods}; this model has {PERIODS}")
    return golden_config(
        vision, vision["patch"], paligemma=trunk, expert=expert, image_size=(vision["image"], vision["image"]),
        vocabulary=meta["vocab"], action_dim=meta["action_dim"], action_horizon=meta["chunk"],
    )  # fmt: skip


def model_of(config: Pi05Config, tensors: Mapping[str, np.ndarray], where: str) -> Pi05:
    """A model with a state dict's tensors, by PyTorch's names; a ValueError if some are missing or unknown."""
    parts, names = torch_parts(config), names_by_key(tensors)
    keys = [part.key for of in parts.values() for part in of]
    if problems := differences(keys, (key for key in names if not is_unused(key))):
        raise ValueError(f"{where}: the state dict's names differ from this model's: {problems}")
    found = {key: tensors[names[key]] for key in keys}
    source = leaf_source(where, parts, {key: t.dtype for key, t in found.items()}, found.__getitem__)
    return make_model(config, {path: source.read(path) for path in source.leaves})


def observation_of(inputs: Mapping[str, np.ndarray], action_dim: int) -> Observation:
    """The observation of a set's inputs: cameras in the model's order, pictures from channels first to last."""
    tokens = inputs["tokens"]
    cameras = dict(enumerate(IMAGE_KEYS))
    return Observation(
        images={key: np.moveaxis(inputs[f"image_{i}"], 1, -1) for i, key in cameras.items()},
        image_masks={key: inputs[f"image_mask_{i}"] for i, key in cameras.items()},
        state=np.zeros((len(tokens), action_dim), np.float32),
        tokenized_prompt=tokens.astype(np.int32),
        tokenized_prompt_mask=inputs["token_mask"],
    )


def check(file: Path) -> Iterator[Check]:
    """All quantities of a set."""
    data = read_npz(file)

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): value for name, value in data.items() if name.startswith(prefix)}

    meta = json.loads(str(data[META]))
    config, inputs, recorded = config_of(meta), part(INPUT), part(OUTPUT)
    model = model_of(config, part(STATE), file.name)
    ours = _outputs(model, observation_of(inputs, config.action_dim), inputs, meta["num_steps"])
    mask = recorded["prefix_pad_mask"].astype(bool)
    for name, theirs in recorded.items():
        found = {key: value for key, value in ours.items() if key.partition(" ")[0] == name}
        if not found:
            yield Check(f"torch {name}", np.inf, np.inf, EXACT, False, "not produced by this model")
        for key, value in found.items():
            exact = EXACT if theirs.dtype.kind in "bi" else FORWARD
            tolerance = TIME if name == "time_emb" else AFTER_TIME if name in TIMED else exact
            a, b = (value[mask], theirs[mask]) if name in AT_VALID else (value, theirs)
            yield compare(f"torch {key}", a, b, tolerance)
    if "loss_elementwise" in recorded:
        yield compare("torch loss", ours["loss"], recorded["loss_elementwise"].mean(axis=-1), AFTER_TIME)


def _outputs(
    model: Pi05, observation: Observation, inputs: Mapping[str, np.ndarray], num_steps: int
) -> dict[str, np.ndarray]:
    """Our numbers by the names the set has for them; those in two variants have a word after a blank."""
    t, noise, actions = inputs["t"], inputs["noise"], inputs["actions"]
    samples = f"sample_actions_{num_steps}"
    given = {"x_t": inputs["x_t"], "t": t, "sample_noise": noise, "actions": actions}
    given |= {"loss_noise": noise, "loss_time": t}
    found = outputs(model, observation, given, {samples: noise}, None)
    share = t[:, None, None]
    x_t = share * noise + (1 - share) * actions
    velocity = jax.jit(lambda x: model.action_out_proj(model.joint_pass(observation, x, jnp.asarray(t))[2]))(x_t)
    valid = np.concatenate([found["prefix_mask"], found["suffix_mask"]], axis=1)
    starts = np.concatenate([found["prefix_ar_mask"], found["suffix_ar_mask"]])
    return {
        **{name: found[key] for name, key in SAME.items()},
        "sampled_actions": found[samples],
        "sampled_actions plain": found[f"{samples} plain"],
        "prefix_att_mask": np.broadcast_to(found["prefix_ar_mask"], found["prefix_mask"].shape),
        "att_2d_mask": np.asarray(attention_mask(jnp.asarray(valid), jnp.asarray(starts))),
        "position_ids": np.concatenate([found["prefix_positions"], found["suffix_positions"]], axis=1),
        "time_emb": np.asarray(time_embedding(jnp.asarray(t), model.config.expert.width)),
        "lang_embs": np.asarray(model.PaliGemma.llm.embedder(observation.tokenized_prompt)),
        "loss_elementwise": np.square(noise - actions - np.asarray(velocity)),
        "loss": found["loss"],
    }


KINDS = [("torch", _is_of_torch, check)]
