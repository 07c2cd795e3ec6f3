"""A model configuration from what the shapes of parameters tell, and from what a person adds.

Fields are named with dots, as ``paligemma.num_heads``. Shapes do not tell how many rows an action chunk has, how long
a prompt may be, and a few more: these come from a named configuration or one by one, never from a guess.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, get_args, get_type_hints

from flax.traverse_util import flatten_dict, unflatten_dict
from pydantic import TypeAdapter, ValidationError

from ...files.validation import problems
from ...models.config import CONFIGS, ModelConfigError, Pi05Config, config_to_dict, pi05_lora
from ...models.parameters import HEAD
from ..description import config_from_dict
from . import torch_parameters as torch

Fields = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
TORCH_HEADS = 8  # both PyTorch programs have this number of attention heads in their code
SO400M = (1152, 16)  # width and heads of the vision tower that all released models have


def _kinds(config: type, prefix: str = "") -> Iterator[tuple[str, TypeAdapter]]:
    """Every field of a configuration by its name with dots, and what reads its value."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        parts = [part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)]
        if parts:
            yield from _kinds(parts[0], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", TypeAdapter(hint)


def _flat(config: Pi05Config) -> Fields:
    values = flatten_dict(config_to_dict(config), sep=".")
    return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items() if v is not None}


# one by one: they have options of their own, belong to training, or are off for all models that are imported
NOT_GIVEN = ("name", "remat", "progress.kind", "state_token", "vision", "points.", "positions", "base_", "hands")
FIELDS = {name: kind for name, kind in _kinds(Pi05Config) if not name.startswith(NOT_GIVEN)}
EXAMPLES = _flat(pi05_lora())
MEANING = {
    "action_horizon": "rows of an action chunk",
    "max_token_len": "longest prompt in tokens",
    "discrete_state": "whether the state is part of the prompt",
    "compute_dtype": "float32 or bfloat16",
    "siglip.num_heads": "heads of the vision tower",
    "image_size": "of the pictures the tower reads, as 224x224",
}
OPTIONAL = {"progress.kind", "progress.hidden", "progress.bins", "progress.sigma_bins"}
# Not seen in shapes, or only guessed from them, so that a person or a configuration file may say otherwise
SHAPELESS = OPTIONAL | {"action_horizon", "max_token_len", "discrete_state", "compute_dtype", "image_size"}


def parse_fields(texts: list[str]) -> Fields:
    """Fields from ``name=value`` of a command line; a ``ModelConfigError`` if there is no such field or value."""
    fields = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in FIELDS:
            raise ModelConfigError(f"--set {text}: expected FIELD=VALUE with one of the fields {', '.join(FIELDS)}")
        sides = re.split("[x,]", value.replace(" ", "")) if name == "image_size" else ()
        try:
            fields[name] = FIELDS[name].validate_python(sides * 2 if len(sides) == 1 else sides or value)
        except ValidationError as error:
            raise ModelConfigError(f"--set {text}: {problems(error)}") from error
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _read(shapes: Shapes, fields: Fields, path: str, **axes: int) -> None:
    """Take fields from axes of an array, where it has those axes; what is wrong is found when shapes are compared."""
    shape = shapes.get(path, ())
    for name, axis in axes.items():
        if len(shape) > axis:
            fields[name.replace("__", ".")] = shape[axis]


def fields_of_leaves(shapes: Shapes) -> Fields:
    """What openpi's leaves tell: everything that decides shapes."""
    fields: Fields = {}
    read = partial(_read, shapes, fields)
    block, llm = "PaliGemma/img/Transformer/encoderblock/", "PaliGemma/llm/layers/"
    read("PaliGemma/img/embedding/kernel", siglip__patch=0, siglip__width=3)
    query = f"{block}MultiHeadDotProductAttention_0/query/kernel"
    read(query, siglip__depth=0, siglip__num_heads=2)
    read(f"{block}MlpBlock_0/Dense_0/kernel", siglip__mlp_dim=2)
    for expert, mark in (("paligemma", ""), ("expert", "_1")):
        query, key, mlp = f"attn/q_einsum{mark}/w", f"attn/kv_einsum{mark}/w", f"mlp{mark}/linear"
        read(f"{llm}{query}", **{f"{expert}__{n}": axis for axis, n in enumerate(("depth", "num_heads", "width"))})
        read(f"{llm}{query}", **{f"{expert}__head_dim": 3})
        read(f"{llm}{key}", **{f"{expert}__num_kv_heads": 2})
        read(f"{llm}{mlp}", **{f"{expert}__mlp_dim": 1})
        read(f"{llm}attn/q_einsum{mark}/lora_a", **{f"{expert}__lora__rank": 3})
        read(f"{llm}mlp{mark}/linear_lora_a", **{f"{expert}__feed_forward_lora__rank": 2})
    read("PaliGemma/llm/embedder/input_embedding", vocabulary=0)
    read("action_in_proj/kernel", action_dim=0)
    fields |= _image(shapes.get("PaliGemma/img/pos_embedding", ())[1:2], fields)
    return fields | _progress(shapes.get(f"{HEAD}output/kernel"), shapes.get(f"{HEAD}hidden/kernel"))


def fields_of_tensors(shapes: Shapes) -> Fields:
    """What PyTorch's tensors tell; names without prefix. Heads are those both PyTorch programs have in their code."""
    fields: Fields = {}
    read = partial(_read, shapes, fields)
    read(f"{torch.VISION}embeddings.patch_embedding.weight", siglip__width=0, siglip__patch=2)
    fields |= _layers(shapes, f"{torch.VISION}encoder.layers.", "siglip.depth")
    read(f"{torch.VISION}encoder.layers.0.mlp.fc1.weight", siglip__mlp_dim=0)
    if fields.get("siglip.width") == SO400M[0]:
        fields["siglip.num_heads"] = SO400M[1]
    for expert, base in (("paligemma", torch.TRUNK), ("expert", torch.EXPERT)):
        fields |= _layers(shapes, f"{base}layers.", f"{expert}.depth")
        query, key = (shapes.get(f"{base}layers.0.self_attn.{name}_proj.weight") for name in "qk")
        if query and key and query[0] % TORCH_HEADS == 0 and key[0] % (query[0] // TORCH_HEADS) == 0:
            head_dim = query[0] // TORCH_HEADS
            fields |= {f"{expert}.num_heads": TORCH_HEADS, f"{expert}.head_dim": head_dim}
            fields |= {f"{expert}.num_kv_heads": key[0] // head_dim, f"{expert}.width": query[1]}
        read(f"{base}layers.0.mlp.up_proj.weight", **{f"{expert}__mlp_dim": 0})
    for name in (torch.TRUNK_LM_HEAD, torch.EMBEDDING):  # the latter counts where both are there
        read(name, vocabulary=0)
    read("action_in_proj.weight", action_dim=1)
    fields |= _image(shapes.get(f"{torch.VISION}embeddings.position_embedding.weight", ())[:1], fields)
    output, hidden = (shapes.get(f"{torch.TORCH_HEAD}{name}.weight") for name in ("output", "hidden"))
    return fields | _progress(output and output[::-1], hidden and hidden[::-1])


def _layers(shapes: Shapes, start: str, field: str) -> Fields:
    numbers = {int(m[1]) for key in shapes if (m := re.match(re.escape(start) + r"(\d+)\.", key))}
    return {field: max(numbers) + 1} if numbers else {}


def _image(tokens: tuple[int, ...], fields: Fields) -> Fields:
    """The size of pictures, if their patches can form a square, as in all that openpi and LeRobot make."""
    side = math.isqrt(tokens[0]) if tokens else 0
    known = side and side * side == tokens[0] and "siglip.patch" in fields
    return {"image_size": [side * fields["siglip.patch"]] * 2} if known else {}


def _progress(output: tuple[int, ...] | None, hidden: tuple[int, ...] | None) -> Fields:
    if output is None or hidden is None or len(output) != 2 or len(hidden) != 2:
        return {}
    fields: Fields = {"progress.kind": "scalar" if output[1] == 1 else "categorical", "progress.hidden": hidden[1]}
    return fields if output[1] == 1 else fields | {"progress.bins": output[1]}


def make_config(told: Fields, *, base: Pi05Config | None, given: Fields, where: str) -> Pi05Config:
    """A configuration: what the checkpoint tells, what a base supplies beyond that, and what a person gives; a
    ``ModelConfigError`` lists fields that are not known from anywhere, or contradict each other."""
    basis = _flat(base) if base else {}
    ours, theirs = _adapters(basis), _adapters(told)
    problems = []
    for origin, fields in ((f"configuration {base.name}" if base else "", basis), ("--set", given)):
        others = {name: value for name, value in fields.items() if name in told and name not in SHAPELESS}
        others = {name: value for name, value in others.items() if fields is given or name not in given}
        if wrong := [f"{name} {told[name]}, not {value}" for name, value in others.items() if told[name] != value]:
            problems.append(f"{where} does not fit {origin}: it has {', '.join(wrong)}")
    if base and ours != theirs:
        problems.append(
            f"{where} has {_named(theirs)} and configuration {base.name} has {_named(ours)}; "
            "pi05_lora is pi05 with adapters on both experts"
        )
    if problems:
        raise ModelConfigError("; ".join(problems))
    guess = {"image_size": told["image_size"]} if "image_size" in told else {}
    merged = {**guess, **basis, **{name: value for name, value in told.items() if name not in guess}, **given}
    if unknown := unknown_fields(merged):
        raise ModelConfigError(_unknown(unknown, where))
    return _build(merged, base)


def unknown_fields(fields: Fields) -> list[str]:
    """What is still needed for a configuration; for adapters only where there are some."""
    adapters, needed = _adapters(fields), [name for name in FIELDS if name not in OPTIONAL and name not in fields]
    return [name for name in needed if "lora." not in name or name.rpartition(".")[0] in adapters]


def _adapters(fields: Fields) -> set[str]:
    return {name.rpartition(".")[0] for name in fields if name.endswith("lora.rank")}


def _named(adapters: set[str]) -> str:
    return f"adapters ({', '.join(sorted(adapters))})" if adapters else "no adapters"


def _unknown(names: list[str], where: str) -> str:
    described = ", ".join(f"{n} ({MEANING[n]})" if n in MEANING else n for n in names)
    written = {n: "x".join(map(str, v)) if isinstance(v, list) else str(v).lower() for n, v in EXAMPLES.items()}
    options = " ".join(f"--set {name}={written[name]}" for name in names)
    return (
        f"{where}: these fields of the configuration cannot be told from the parameters: {described}. "
        f"Take them from a named configuration (--config {' or '.join(CONFIGS)}), or give them, as: {options}"
    )


def _build(fields: Fields, base: Pi05Config | None) -> Pi05Config:
    config = config_from_dict(unflatten_dict(fields | {"name": base.name if base else "imported"}, sep="."))
    if base is None:
        for make in CONFIGS.values():  # the architecture may be one that has a name
            known = make()
            if dataclasses.replace(known, name="imported", progress=config.progress, remat=config.remat) == config:
                return dataclasses.replace(known, progress=config.progress)
    return config
