"""Names and layouts of the parameters in PyTorch (openpi's port of Pi0.5 and LeRobot's) beside those of openpi's JAX.

PyTorch keeps each layer's tensors under a name of their own, weights as (outputs, inputs) with all heads in one axis;
JAX stacks the layers of a tower on a leading axis and has one axis per head. Every tensor is a part of one leaf, and
its layout differs by taking axes apart and permuting them, so both directions follow from one table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ...models.config import GemmaConfig, Pi05Config
from ...models.parameters import HEAD
from ..parameter_source import Index, ParameterSource, aligned_empty, shape_of

PREFIX = "model."  # before all names in LeRobot's files
VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
PROJECTOR = "paligemma_with_expert.paligemma.model.multi_modal_projector.linear."
TRUNK = "paligemma_with_expert.paligemma.model.language_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
EMBEDDING = f"{TRUNK}embed_tokens.weight"
# Copies of the embedding table by name, or not used at all, depending on who wrote the file
TRUNK_LM_HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
EXPERT_LM_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
UNUSED = (TRUNK_LM_HEAD, EXPERT_LM_HEAD)
UNUSED_ENDINGS = (".rotary_emb.inv_freq", ".embeddings.position_ids", ".embed_scale")  # buffers of some versions
TORCH_HEAD = "progress_head."


@dataclass(frozen=True)
class Part:
    """A PyTorch tensor and where it lies in a leaf."""

    key: str  # the tensor's name, without prefix
    shape: tuple[int, ...]  # the tensor's
    index: tuple[int, ...]  # positions on the leaf's leading axes
    split: tuple[int, ...]  # the tensor's shape with axes taken apart
    order: tuple[int, ...]  # which of the split axes the leaf's remaining axes are

    def to_leaf(self, tensor: np.ndarray) -> np.ndarray:
        """The tensor in the leaf's layout; a view where possible."""
        return tensor.reshape(self.split).transpose(self.order)

    def to_tensor(self, leaf: np.ndarray) -> np.ndarray:
        """The tensor out of the whole leaf, contiguous."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return np.ascontiguousarray(leaf[self.index].transpose(inverse)).reshape(self.shape)


def _part(key: str, split: tuple[int, ...], order: tuple[int, ...], groups: tuple[int, ...], *index: int) -> Part:
    """A part whose tensor has one axis per group, of that many consecutive axes of ``split``."""
    shape, start = [], 0
    for count in groups:
        shape.append(math.prod(split[start : start + count]))
        start += count
    return Part(key, tuple(shape), index, split, order)


def _copied(key: str, size: int, *index: int) -> Part:
    return _part(key, (size,), (0,), (1,), *index)


def _dense(key: str, inputs: int, outputs: int, *index: int) -> Part:
    return _part(key, (outputs, inputs), (1, 0), (1, 1), *index)


def torch_parts(config: Pi05Config) -> dict[str, tuple[Part, ...]]:
    """The tensors each leaf of a model consists of, without the progress head and without adapters."""
    leaves: dict[str, list[Part]] = {}
    for path, part in [*_siglip(config), *_gemma(config.paligemma, 0), *_gemma(config.expert, 1), *_rest(config)]:
        leaves.setdefault(path, []).append(part)
    return {path: tuple(parts) for path, parts in leaves.items()}


def _siglip(config: Pi05Config) -> Iterator[tuple[str, Part]]:
    c = config.siglip
    width, heads, head_dim, mlp = c.width, c.num_heads, c.width // c.num_heads, c.mlp_dim
    img, layers = "PaliGemma/img/", "PaliGemma/img/Transformer/encoderblock/"
    patch = f"{VISION}embeddings.patch_embedding."
    yield f"{img}embedding/kernel", _part(f"{patch}weight", (width, 3, c.patch, c.patch), (2, 3, 1, 0), (1, 1, 1, 1))
    yield f"{img}embedding/bias", _copied(f"{patch}bias", width)
    position = f"{VISION}embeddings.position_embedding.weight"
    yield f"{img}pos_embedding", _part(position, (config.tokens_per_image, width), (0, 1), (1, 1), 0)
    for i in range(c.depth):
        at = f"{VISION}encoder.layers.{i}."
        for norm in (1, 2):
            for ours, theirs in (("scale", "weight"), ("bias", "bias")):
                yield f"{layers}LayerNorm_{norm - 1}/{ours}", _copied(f"{at}layer_norm{norm}.{theirs}", width, i)
        attention = f"{layers}MultiHeadDotProductAttention_0/"
        for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            key = f"{at}self_attn.{theirs}."
            yield f"{attention}{ours}/kernel", _part(f"{key}weight", (heads, head_dim, width), (2, 0, 1), (2, 1), i)
            yield f"{attention}{ours}/bias", _part(f"{key}bias", (heads, head_dim), (0, 1), (2,), i)
        key = f"{at}self_attn.out_proj."
        yield f"{attention}out/kernel", _part(f"{key}weight", (width, heads, head_dim), (1, 2, 0), (1, 2), i)
        yield f"{attention}out/bias", _copied(f"{key}bias", width, i)
        for number, (inputs, outputs) in enumerate(((width, mlp), (mlp, width))):
            key, path = f"{at}mlp.fc{number + 1}.", f"{layers}MlpBlock_0/Dense_{number}/"
            yield f"{path}kernel", _dense(f"{key}weight", inputs, outputs, i)
            yield f"{path}bias", _copied(f"{key}bias", outputs, i)
    for ours, theirs in (("scale", "weight"), ("bias", "bias")):
        yield f"{img}Transformer/encoder_norm/{ours}", _copied(f"{VISION}post_layernorm.{theirs}", width)
    yield f"{img}head/kernel", _dense(f"{PROJECTOR}weight", width, config.paligemma.width)
    yield f"{img}head/bias", _copied(f"{PROJECTOR}bias", config.paligemma.width)


def _gemma(c: GemmaConfig, expert: int) -> Iterator[tuple[str, Part]]:
    base, mark = (TRUNK, "") if expert == 0 else (EXPERT, "_1")
    layers = "PaliGemma/llm/layers/"
    n, k, h, d = c.num_heads, c.num_kv_heads, c.head_dim, c.width

    def norm(path: str, key: str, *index: int) -> Iterator[tuple[str, Part]]:
        if expert == 0:  # both sides store w and apply 1 + w
            yield f"{path}/scale", _copied(f"{key}.weight", d, *index)
        else:
            yield f"{path}/Dense_0/kernel", _dense(f"{key}.dense.weight", d, 3 * d, *index)
            yield f"{path}/Dense_0/bias", _copied(f"{key}.dense.bias", 3 * d, *index)

    for i in range(c.depth):
        at = f"{base}layers.{i}."
        query = _part(f"{at}self_attn.q_proj.weight", (n, h, d), (0, 2, 1), (2, 1), i)
        yield f"{layers}attn/q_einsum{mark}/w", query
        for number, name in enumerate(("k_proj", "v_proj")):
            part = _part(f"{at}self_attn.{name}.weight", (k, h, d), (0, 2, 1), (2, 1), i, number)
            yield f"{layers}attn/kv_einsum{mark}/w", part
        out = _part(f"{at}self_attn.o_proj.weight", (d, n, h), (1, 2, 0), (1, 2), i)
        yield f"{layers}attn/attn_vec_einsum{mark}/w", out
        for number, name in enumerate(("gate_proj", "up_proj")):
            part = _dense(f"{at}mlp.{name}.weight", d, c.mlp_dim, i, number)
            yield f"{layers}mlp{mark}/gating_einsum", part
        yield f"{layers}mlp{mark}/linear", _dense(f"{at}mlp.down_proj.weight", c.mlp_dim, d, i)
        yield from norm(f"{layers}pre_attention_norm{mark}", f"{at}input_layernorm", i)
        # misnamed by PyTorch's side: it is the norm before the feed-forward layer
        yield from norm(f"{layers}pre_ffw_norm{mark}", f"{at}post_attention_layernorm", i)
    yield from norm(f"PaliGemma/llm/final_norm{mark}", f"{base}norm")


def _rest(config: Pi05Config) -> Iterator[tuple[str, Part]]:
    table = _part(EMBEDDING, (config.vocabulary, config.paligemma.width), (0, 1), (1, 1))
    yield "PaliGemma/llm/embedder/input_embedding", table
    width, actions = config.expert.width, config.action_dim
    sizes = {
        "action_in_proj": (actions, width),
        "action_out_proj": (width, actions),
        "time_mlp_in": (width, width),
        "time_mlp_out": (width, width),
    }
    for name, (inputs, outputs) in sizes.items():
        yield f"{name}/kernel", _dense(f"{name}.weight", inputs, outputs)
        yield f"{name}/bias", _copied(f"{name}.bias", outputs)


def head_parts(config: Pi05Config) -> dict[str, tuple[Part, ...]]:
    """The tensors of the progress head under the names this package gives them in PyTorch files."""
    if config.progress.kind == "none":
        return {}
    outputs = 1 if config.progress.kind == "scalar" else config.progress.bins
    sizes = {"hidden": (config.paligemma.width, config.progress.hidden), "output": (config.progress.hidden, outputs)}
    leaves = {}
    for name, (inputs, width) in sizes.items():
        leaves[f"{HEAD}{name}/kernel"] = (_dense(f"{TORCH_HEAD}{name}.weight", inputs, width),)
        leaves[f"{HEAD}{name}/bias"] = (_copied(f"{TORCH_HEAD}{name}.bias", width),)
    return leaves


def names_by_key(names: Iterable[str]) -> dict[str, str]:
    """A file's names by the tensors' keys; files with tied weights keep the embeddings under the name of lm_head."""
    keys = {name.removeprefix(PREFIX): name for name in names}
    if TRUNK_LM_HEAD in keys:
        keys.setdefault(EMBEDDING, keys[TRUNK_LM_HEAD])
    return keys


def is_unused(key: str) -> bool:
    """Whether a tensor is left out of a forward pass, or is computed and not learnt."""
    return key in UNUSED or key.endswith(UNUSED_ENDINGS)


def leaf_source(
    where: str,
    parts: Mapping[str, tuple[Part, ...]],
    dtypes: Mapping[str, np.dtype],
    read: Callable[[str], np.ndarray],
) -> ParameterSource:
    """Leaves put together from tensors as they are read; a leaf of several dtypes has the one all fit into."""

    def read_piece(path: str, dtype: np.dtype, index: Index) -> np.ndarray:
        out = aligned_empty(shape_of(index), dtype)
        for part in parts[path]:
            leading, rest = index[: len(part.index)], index[len(part.index) :]
            if all(axis.start <= i < axis.stop for i, axis in zip(part.index, leading, strict=True)):
                place = tuple(i - axis.start for i, axis in zip(part.index, leading, strict=True))
                out[place] = part.to_leaf(read(part.key))[rest]
        return out

    leaves = {}
    for path, of in parts.items():
        sizes = zip(*(part.index for part in of), strict=True)
        shape = tuple(max(axis) + 1 for axis in sizes) + tuple(of[0].split[axis] for axis in of[0].order)
        dtype = jnp.result_type(*(dtypes[part.key] for part in of))
        leaves[path] = jax.ShapeDtypeStruct(shape, dtype)
    return ParameterSource(where, leaves, read_piece)
