"""A vision tower for small models that locates: convolutions whose maps become points in the picture.

It takes the place of SigLIP where there are neither data nor time for that: a few tokens per picture say where each
point is and how strongly it is seen.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..observation import IMAGE_KEYS
from .config import PointsConfig
from .layers import Linear, constrain, normal_init

STRENGTH_SCALE = 0.3  # brings strengths to about the size of coordinates
SMALLEST_VARIANCE = 1e-3  # of a map, so that noise in an even one does not become points


class PointFinder(nnx.Module):
    """Patches, 3x3 convolutions of which the last makes a map per point, and a soft-argmax of every map.

    Maps are brought to the same spread before it: points are sharp from the first step on, and small things are found
    as soon as large ones.
    """

    def __init__(self, config: PointsConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        side, width = (config.patch, config.patch), config.width
        self.patches = nnx.Conv(3, width, side, strides=side, dtype=dtype, rngs=rngs)
        outputs = [width] * (config.depth - 1) + [config.points]
        for index, output in enumerate(outputs):
            setattr(self, f"conv_{index}", nnx.Conv(width, output, (3, 3), dtype=dtype, rngs=rngs))
        self.temperature = nnx.Param(jnp.ones(config.points))  # logarithm of what the maps are multiplied by
        self._depth = config.depth

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b k 3"]:
        """Each point's x and y, -1 to 1 from left to right and from top to bottom, and its strength; float32."""
        maps = constrain(self.patches(images))
        for index in range(self._depth):
            maps = constrain(getattr(self, f"conv_{index}")(jax.nn.relu(maps)))
        b, h, w, k = maps.shape
        maps = maps.astype(jnp.float32).reshape(b, h * w, k)
        even = (maps - maps.mean(axis=1, keepdims=True)) * jax.lax.rsqrt(
            maps.var(axis=1, keepdims=True) + SMALLEST_VARIANCE
        )
        even = even * jnp.exp(self.temperature[...].astype(jnp.float32))
        weights = jnp.exp(even - jax.lax.stop_gradient(even.max(axis=1, keepdims=True)))
        y, x = jnp.meshgrid(_middles(h), _middles(w), indexing="ij")
        places = jnp.stack([x.ravel(), y.ravel(), jnp.ones(h * w)], axis=-1)
        sums = jnp.einsum("bpk,pc->bkc", weights, places)  # one product gives the places and what they are divided by
        strength = STRENGTH_SCALE * (weights * maps).sum(axis=1)
        return jnp.concatenate([sums[..., :2], strength[..., None]], axis=-1) / sums[..., 2:]


def _middles(count: int) -> Float[Array, " n"]:
    """Middles of equal parts of [-1, 1]."""
    return (2 * jnp.arange(count, dtype=jnp.float32) + 1) / count - 1


class PointTower(nnx.Module):
    """Pictures of any size to a few tokens per camera; both wrist cameras share all weights but their embedding.

    Arms mirror each other, so the right wrist's picture is mirrored before it is looked at.
    """

    def __init__(self, config: PointsConfig, width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        for kind in ("base", "wrist"):
            setattr(self, f"{kind}_points", PointFinder(config, dtype, rngs))
            setattr(self, f"{kind}_tokens", Linear(3 * config.points, (config.tokens, width), rngs=rngs))
        self.camera_embedding = nnx.Param(normal_init(rngs, (len(IMAGE_KEYS), config.tokens, width), width))
        self._dtype = dtype

    def __call__(self, images: Mapping[str, Float[Array, "b h w 3"]]) -> dict[str, Float[Array, "b n w"]]:
        """Tokens by camera, of pictures in [-1, 1]."""
        found: dict[str, Array] = {}
        for kind in ("base", "wrist"):
            keys = [key for key in images if ("wrist" in key) == (kind == "wrist")]
            if not keys:
                continue
            pictures = [images[key][:, :, ::-1] if key.startswith("right") else images[key] for key in keys]
            stacked = jnp.stack(pictures, axis=1)  # next to the batch axis, which may be sharded
            points = getattr(self, f"{kind}_points")(stacked.reshape(-1, *stacked.shape[2:]))
            tokens = getattr(self, f"{kind}_tokens")(points.reshape(*stacked.shape[:2], -1))
            found |= {key: tokens[:, i] for i, key in enumerate(keys)}
        embedding = dict(zip(IMAGE_KEYS, self.camera_embedding[...], strict=True))
        return {key: (found[key] + embedding[key]).astype(self._dtype) for key in images}
