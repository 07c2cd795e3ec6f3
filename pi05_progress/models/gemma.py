"""The language model with two experts: PaliGemma's trunk and the action expert, sharing attention in every layer.

Expert 0 is the trunk (images and text), expert 1 the action expert, whose norms are modulated by the time of the flow
(adaRMS). Parameter names are openpi's: those of expert 1 end in ``_1``. All layers are stacked on a leading axis ``l``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from .config import GemmaConfig, LoraConfig, Remat
from .layers import Linear, constrain, normal_init, recomputed, repeated

EPSILON = 1e-6
MASKED = -2.3819763e38  # finite: a row without any valid key attends evenly instead of giving NaN
ROPE_BASE = 10_000
LORA_STD = 0.01


class KVCache(NamedTuple):
    """Keys (after rotation) and values of all layers, in the compute dtype."""

    k: Float[Array, "l b s kv h"]
    v: Float[Array, "l b s kv h"]


class Modulation(NamedTuple):
    """What the time of the flow does to the action expert's norms: scale, shift and gate in ``3 e`` numbers each."""

    attention: Float[Array, "l b 3e"]
    feed_forward: Float[Array, "l b 3e"]
    final: Float[Array, "b 3e"]


def suffixed(name: str, expert: int) -> str:
    """openpi's name of a parameter of an expert."""
    return name if expert == 0 else f"{name}_{expert}"


class RMSNorm(nnx.Module):
    """Root mean square norm with ``1 + scale``; arithmetic in float32, ``1 + scale`` in the parameter's dtype."""

    def __init__(self, width: int, stack: tuple[int, ...] = ()) -> None:
        self.scale = nnx.Param(jnp.zeros((*stack, width)))

    def __call__(self, x: Float[Array, "b t w"], _: None = None) -> tuple[Float[Array, "b t w"], None]:
        """The normalised input, and no gate."""
        return (_unit(x) * (1 + self.scale[...])).astype(x.dtype), None


class AdaRMSNorm(nnx.Module):
    """Root mean square norm with scale, shift and a gate for the residual, all three given per sample."""

    def __init__(self, width: int, dtype: jnp.dtype, rngs: nnx.Rngs, stack: tuple[int, ...] = ()) -> None:
        self.Dense_0 = Linear(width, 3 * width, stack=stack, dtype=dtype, zero=True, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t w"], modulation: Float[Array, "b 3w"]
    ) -> tuple[Float[Array, "b t w"], Float[Array, "b 1 w"]]:
        """The normalised input and the gate."""
        scale, shift, gate = jnp.split(modulation[:, None, :], 3, axis=-1)
        return (_unit(x) * (1 + scale) + shift).astype(x.dtype), gate


def _unit(x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
    y = x.astype(jnp.float32)
    return y * jnp.reciprocal(jnp.sqrt(jnp.square(y).mean(axis=-1, keepdims=True) + EPSILON))


def residual(x: Array, y: Array, gate: Array | None) -> Array:
    """``x + y``, the second term gated where there is a gate."""
    return x + y if gate is None else x + y * gate


class Einsum(nnx.Module):
    """A weight (..., inputs, outputs) with an optional low-rank adapter; ``fan_in`` sets its initial spread."""

    def __init__(
        self, shape: tuple[int, ...], fan_in: int, lora: LoraConfig | None, rngs: nnx.Rngs, stack: tuple[int, ...]
    ) -> None:
        self.w = nnx.Param(normal_init(rngs, (*stack, *shape), fan_in))
        self._scaling = lora.scaling if lora else None
        if lora:
            a, b = (*stack, *shape[:-1], lora.rank), (*stack, *shape[:-2], lora.rank, shape[-1])
            self.lora_a = nnx.Param(LORA_STD * jax.random.normal(rngs.params(), a))
            self.lora_b = nnx.Param(LORA_STD * jax.random.normal(rngs.params(), b))

    def __call__(self, equation: str, x: Array, *, down: str = "", up: str = "") -> Array:
        """Contract; ``down`` and ``up`` are the adapter's two equations, in which the rank is called L."""
        y = jnp.einsum(equation, x, self.w[...].astype(x.dtype))
        if self._scaling is None:
            return y
        low = jnp.einsum(down, x, self.lora_a[...].astype(x.dtype))
        return y + jnp.einsum(up, low, self.lora_b[...].astype(x.dtype)) * self._scaling


class Attention(nnx.Module):
    """Attention over the concatenated tokens of both experts, each with projections of its own."""

    def __init__(self, configs: tuple[GemmaConfig, GemmaConfig], rngs: nnx.Rngs, stack: tuple[int, ...]) -> None:
        for expert, c in enumerate(configs):
            n, k, d, h = c.num_heads, c.num_kv_heads, c.width, c.head_dim
            setattr(self, suffixed("q_einsum", expert), Einsum((n, d, h), d, c.lora, rngs, stack))
            setattr(self, suffixed("kv_einsum", expert), Einsum((2, k, d, h), d, c.lora, rngs, stack))
            setattr(self, suffixed("attn_vec_einsum", expert), Einsum((n, h, d), n * h, c.lora, rngs, stack))

    def __call__(
        self,
        xs: list[Float[Array, "b t w"] | None],
        positions: Int[Array, "b t"],
        mask: Bool[Array, "b t s"],
        cache: tuple[Array, Array] | None,
    ) -> tuple[list[Array | None], tuple[Array, Array]]:
        """Attended values per expert, and this layer's keys and values, those of the cache first."""
        qs, ks, vs = [], [], []
        for expert, x in enumerate(xs):
            if x is None:
                continue
            project_q, project_kv = (getattr(self, suffixed(n, expert)) for n in ("q_einsum", "kv_einsum"))
            qs.append(project_q("btd,ndh->btnh", x, down="btd,ndL->btnL", up="btnL,nLh->btnh"))
            k, v = project_kv("bsd,ckdh->cbskh", x, down="bsd,ckdL->cbskL", up="cbskL,ckLh->cbskh")
            ks.append(k)
            vs.append(v)
        q, k, v = (jnp.concatenate(parts, axis=1) for parts in (qs, ks, vs))
        # Without this the compiler may keep more digits than the compute dtype has where nothing is concatenated, and
        # the prefix alone would give other numbers than the prefix beside actions.
        q, k, v = jax.lax.optimization_barrier((q, k, v))
        q = rotate(q, positions) * q.shape[-1] ** -0.5
        k = rotate(k, positions)
        if cache is not None:
            k, v = (jnp.concatenate([repeated(of, len(q)), own], axis=1) for of, own in zip(cache, (k, v), strict=True))
        b, t, n, h = q.shape
        grouped = q.reshape(b, t, k.shape[2], n // k.shape[2], h)
        logits = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, MASKED)).astype(q.dtype)
        attended = jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(b, t, n, h)
        outputs: list[Array | None] = []
        start = 0
        for expert, x in enumerate(xs):
            if x is None:
                outputs.append(None)
                continue
            part = attended[:, start : start + x.shape[1]]
            project = getattr(self, suffixed("attn_vec_einsum", expert))
            # The adapter sums over heads in both of its factors, as openpi's does.
            outputs.append(project("btnh,nhd->btd", part, down="btnh,nhL->btL", up="btL,nLd->btd"))
            start += x.shape[1]
        return outputs, (k, v)


def rotate(x: Float[Array, "b t n h"], positions: Int[Array, "b t"]) -> Float[Array, "b t n h"]:
    """Rotary position embedding of the two halves of the last axis, in float32."""
    half = x.shape[-1] // 2
    timescale = ROPE_BASE ** (jnp.arange(half, dtype=jnp.float32) / half)
    radians = positions[..., None, None].astype(jnp.float32) / timescale
    sin, cos = jnp.sin(radians), jnp.cos(radians)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


class FeedForward(nnx.Module):
    """Gated feed-forward layer with tanh-approximated GELU; its adapters are not scaled by alpha, as in openpi."""

    def __init__(self, config: GemmaConfig, rngs: nnx.Rngs, stack: tuple[int, ...]) -> None:
        width, hidden, lora = config.width, config.mlp_dim, config.feed_forward_lora
        self.gating_einsum = nnx.Param(normal_init(rngs, (*stack, 2, width, hidden), width))
        self.linear = nnx.Param(normal_init(rngs, (*stack, hidden, width), hidden))
        self._lora = lora is not None
        if lora:
            shapes = {
                "gating_einsum_lora_a": (2, width, lora.rank),
                "gating_einsum_lora_b": (2, lora.rank, hidden),
                "linear_lora_a": (hidden, lora.rank),
                "linear_lora_b": (lora.rank, width),
            }
            for name, shape in shapes.items():
                setattr(self, name, nnx.Param(LORA_STD * jax.random.normal(rngs.params(), (*stack, *shape))))

    def __call__(self, x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        """Apply."""
        gate, up = (self._dot(x, "gating_einsum", i) for i in (0, 1))
        return self._dot(jax.nn.gelu(gate, approximate=True) * up, "linear", None)

    def _dot(self, x: Array, name: str, index: int | None) -> Array:
        def weight(key: str) -> Array:
            value = getattr(self, key)[...]
            return (value if index is None else value[index]).astype(x.dtype)

        y = x @ weight(name)
        if self._lora:
            y = y + (x @ weight(f"{name}_lora_a")) @ weight(f"{name}_lora_b")
        return y


class Block(nnx.Module):
    """One layer of both experts."""

    def __init__(
        self, configs: tuple[GemmaConfig, GemmaConfig], dtype: jnp.dtype, rngs: nnx.Rngs, stack: tuple[int, ...]
    ) -> None:
        self.attn = Attention(configs, rngs, stack)
        for expert, config in enumerate(configs):
            for name in ("pre_attention_norm", "pre_ffw_norm"):
                setattr(self, suffixed(name, expert), _norm(expert, config.width, dtype, rngs, stack))
            setattr(self, suffixed("mlp", expert), FeedForward(config, rngs, stack))

    def __call__(
        self,
        xs: list[Array | None],
        modulation: tuple[Array, Array] | None,
        positions: Array,
        mask: Array,
        cache: tuple[Array, Array] | None,
    ) -> tuple[list[Array | None], tuple[Array, Array]]:
        """The experts' tokens after this layer, and its keys and values."""
        xs = constrain(xs)
        for_attention, for_feed_forward = modulation if modulation is not None else (None, None)
        normed, gates = self._normed("pre_attention_norm", xs, for_attention)
        attended, kv = self.attn(normed, positions, mask, cache)
        xs = constrain([x if x is None else residual(x, y, g) for x, y, g in zip(xs, attended, gates, strict=True)])
        normed, gates = self._normed("pre_ffw_norm", xs, for_feed_forward)
        for expert, x in enumerate(xs):
            if x is not None:
                y = getattr(self, suffixed("mlp", expert))(normed[expert])
                xs[expert] = residual(x, y, gates[expert])
        return constrain(xs), kv

    def _normed(
        self, name: str, xs: list[Array | None], modulation: Array | None
    ) -> tuple[list[Array | None], list[Array | None]]:
        pairs = [
            (None, None) if x is None else getattr(self, suffixed(name, expert))(x, modulation)
            for expert, x in enumerate(xs)
        ]
        return [x for x, _ in pairs], [gate for _, gate in pairs]


def _norm(
    expert: int, width: int, dtype: jnp.dtype, rngs: nnx.Rngs, stack: tuple[int, ...] = ()
) -> RMSNorm | AdaRMSNorm:
    return RMSNorm(width, stack) if expert == 0 else AdaRMSNorm(width, dtype, rngs, stack)


class Embedder(nnx.Module):
    """The table of token embeddings."""

    def __init__(self, vocabulary: int, width: int, rngs: nnx.Rngs) -> None:
        self.input_embedding = nnx.Param(normal_init(rngs, (vocabulary, width), width))

    def __call__(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l w"]:
        """Rows of the table times the root of the width, in the table's dtype."""
        table = self.input_embedding[...]
        return table[tokens] * jnp.sqrt(table.shape[-1]).astype(table.dtype)


class Gemma(nnx.Module):
    """Both experts: the trunk and the action expert."""

    def __init__(
        self,
        configs: tuple[GemmaConfig, GemmaConfig],
        vocabulary: int,
        dtype: jnp.dtype,
        remat: Remat,
        rngs: nnx.Rngs,
    ) -> None:
        trunk, expert = configs
        self.embedder = Embedder(vocabulary, trunk.width, rngs)
        self.layers = Block(configs, dtype, rngs, (trunk.depth,))
        self.final_norm = _norm(0, trunk.width, dtype, rngs)
        self.final_norm_1 = _norm(1, expert.width, dtype, rngs)
        self._dtype, self._remat = dtype, remat

    def modulation(self, cond: Float[Array, "b e"]) -> Modulation:
        """The modulations of all norms of all layers, from the time condition.

        They depend on nothing else, so a sampler with constant time steps needs them only once.
        """

        def of(dense: Linear) -> Array:
            x, kernel, bias = (a.astype(self._dtype) for a in (cond, dense.kernel[...], dense.bias[...]))
            if kernel.ndim == 2:
                return x @ kernel + bias
            # Layer by layer: one product for all of them makes the compiler transpose the whole stack of weights.
            return jax.lax.map(lambda layer: x @ layer[0] + layer[1], (kernel, bias))

        layers = self.layers
        attention, feed_forward = layers.pre_attention_norm_1.Dense_0, layers.pre_ffw_norm_1.Dense_0
        return Modulation(of(attention), of(feed_forward), of(self.final_norm_1.Dense_0))

    def __call__(
        self,
        trunk: Float[Array, "b p w"] | None,
        expert: Float[Array, "b a e"] | None,
        positions: Int[Array, "b t"],
        mask: Bool[Array, "b t s"],
        modulation: Modulation | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "b p w"] | None, Float[Array, "b a e"] | None, KVCache]:
        """Both experts' tokens after their final norm, and the keys and values of all layers, the cache's included.

        Args:
            trunk: tokens of the trunk, or None to leave it out.
            expert: tokens of the action expert, or None; with them a modulation is needed.
            positions: of the tokens given, trunk first.
            mask: which key (of the cache, then of these tokens) each of these tokens may attend to.
            modulation: of the action expert's norms.
            cache: keys and values of tokens that come before; of a row per several of these, if those share it.
        """
        graph, stacked = nnx.split(self.layers)
        per_layer = None if modulation is None else (modulation.attention, modulation.feed_forward)

        def block(xs: tuple, layer: tuple) -> tuple[tuple, tuple]:
            state, modulations, kv = layer
            new, kv = nnx.merge(graph, state)(list(xs), modulations, positions, mask, kv)
            return tuple(new), kv

        block = recomputed(block, self._remat)
        xs = tuple(None if x is None else x.astype(self._dtype) for x in (trunk, expert))
        xs, (k, v) = jax.lax.scan(block, xs, (stacked, per_layer, None if cache is None else tuple(cache)))
        trunk_out = None if xs[0] is None else self.final_norm(xs[0])[0]
        expert_out = None if xs[1] is None else self.final_norm_1(xs[1], modulation.final)[0]
        return trunk_out, expert_out, KVCache(k, v)
