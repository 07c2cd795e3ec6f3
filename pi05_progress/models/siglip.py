"""The SigLIP vision tower, as openpi uses it: pictures to tokens, without pooling or a class token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .config import Remat, SiglipConfig
from .layers import Linear, constrain, normal_init, recomputed

EPSILON = 1e-6


class LayerNorm(nnx.Module):
    """Layer normalisation with scale and bias; statistics and arithmetic in float32."""

    def __init__(self, width: int, stack: tuple[int, ...] = ()) -> None:
        self.scale = nnx.Param(jnp.ones((*stack, width)))
        self.bias = nnx.Param(jnp.zeros((*stack, width)))

    def __call__(self, x: Float[Array, "*b w"]) -> Float[Array, "*b w"]:
        """Normalise the last axis; the result has the input's dtype."""
        y = x.astype(jnp.float32)
        mean = y.mean(axis=-1, keepdims=True)
        variance = jnp.square(y - mean).mean(axis=-1, keepdims=True)
        return ((y - mean) * (jax.lax.rsqrt(variance + EPSILON) * self.scale[...]) + self.bias[...]).astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head attention of every token to every token; softmax in the compute dtype."""

    def __init__(self, config: SiglipConfig, stack: tuple[int, ...], dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        heads = (config.num_heads, config.width // config.num_heads)
        for name in ("query", "key", "value"):
            setattr(self, name, Linear(config.width, heads, stack=stack, dtype=dtype, rngs=rngs))
        self.out = Linear(heads, config.width, stack=stack, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        """Attend."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        q = q / jnp.sqrt(q.shape[-1]).astype(q.dtype)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", weights, v))


class Mlp(nnx.Module):
    """Two dense layers with tanh-approximated GELU between."""

    def __init__(self, config: SiglipConfig, stack: tuple[int, ...], dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.Dense_0 = Linear(config.width, config.mlp_dim, stack=stack, dtype=dtype, rngs=rngs)
        self.Dense_1 = Linear(config.mlp_dim, config.width, stack=stack, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        """Apply."""
        return self.Dense_1(jax.nn.gelu(self.Dense_0(x), approximate=True))


class EncoderBlock(nnx.Module):
    """A pre-norm transformer block. Names are openpi's."""

    def __init__(self, config: SiglipConfig, stack: tuple[int, ...], dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.LayerNorm_0 = LayerNorm(config.width, stack)
        self.LayerNorm_1 = LayerNorm(config.width, stack)
        self.MultiHeadDotProductAttention_0 = Attention(config, stack, dtype, rngs)
        self.MlpBlock_0 = Mlp(config, stack, dtype, rngs)

    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        """Apply."""
        x = constrain(x)
        x = constrain(x + self.MultiHeadDotProductAttention_0(self.LayerNorm_0(x)))
        return constrain(x + self.MlpBlock_0(self.LayerNorm_1(x)))


class Encoder(nnx.Module):
    """Blocks stacked on a leading axis and scanned, and the final norm."""

    def __init__(self, config: SiglipConfig, dtype: jnp.dtype, remat: Remat, rngs: nnx.Rngs) -> None:
        self.encoderblock = EncoderBlock(config, (config.depth,), dtype, rngs)
        self.encoder_norm = LayerNorm(config.width)
        self._remat = remat

    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        """Apply all blocks."""
        graph, stacked = nnx.split(self.encoderblock)

        def block(x: Array, layer: nnx.State) -> tuple[Array, None]:
            return nnx.merge(graph, layer)(x), None

        x, _ = jax.lax.scan(recomputed(block, self._remat), x, stacked)
        return self.encoder_norm(x)


class Siglip(nnx.Module):
    """Pictures to tokens of the language model's width; the patch embedding is float32 whatever the compute dtype."""

    def __init__(
        self, config: SiglipConfig, tokens: int, output: int, dtype: jnp.dtype, remat: Remat, rngs: nnx.Rngs
    ) -> None:
        self.embedding = PatchEmbedding(config.patch, config.width, rngs)
        self.pos_embedding = nnx.Param(normal_init(rngs, (1, tokens, config.width), config.width))
        self.Transformer = Encoder(config, dtype, remat, rngs)
        self.head = Linear(config.width, output, dtype=dtype, zero=True, rngs=rngs)
        self._dtype = dtype

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n o"]:
        """Tokens, row by row, of pictures in [-1, 1]."""
        x = self.embedding(images) + self.pos_embedding[...].astype(jnp.float32)
        return self.head(self.Transformer(x.astype(self._dtype)))


class PatchEmbedding(nnx.Module):
    """A convolution whose stride is its size, as one product; float32 whatever the parameters are stored in."""

    def __init__(self, patch: int, width: int, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(normal_init(rngs, (patch, patch, 3, width), patch * patch * 3))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n width"]:
        """Patches row by row."""
        kernel, bias = self.kernel[...].astype(jnp.float32), self.bias[...].astype(jnp.float32)
        p, width = kernel.shape[0], kernel.shape[-1]
        b, h, w, _ = images.shape
        patches = images.astype(jnp.float32).reshape(b, h // p, p, w // p, p, 3)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // p) * (w // p), p * p * 3)
        return patches @ kernel.reshape(p * p * 3, width) + bias
