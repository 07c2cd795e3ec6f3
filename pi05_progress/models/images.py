"""Pictures as the model reads them: values in [-1, 1] at the model's size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_unit_range(image: UInt8[Array, "*b h w 3"] | Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """float32 in [-1, 1]; uint8 is scaled, float32 is taken as it is."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255.0 * 2.0 - 1.0
    return image.astype(jnp.float32)


def resize_with_pad(image: Array, height: int, width: int) -> Array:
    """Resize (..., h, w, 3) keeping the aspect and pad to (height, width): antialiased, linear, centred.

    uint8 is rounded and padded with 0, float32 in [-1, 1] clipped and padded with -1, as openpi does inside the model.
    """
    h, w = image.shape[-3:-1]
    if (h, w) == (height, width):
        return image
    ratio = max(w / width, h / height)
    new_h, new_w = max(1, int(h / ratio)), max(1, int(w / ratio))  # 1: of a very long and thin picture
    shape = (*image.shape[:-3], new_h, new_w, image.shape[-1])
    resized = jax.image.resize(image.astype(jnp.float32), shape, "linear")
    if image.dtype == jnp.uint8:
        resized, filler = jnp.round(resized).clip(0, 255).astype(jnp.uint8), 0
    else:
        resized, filler = resized.clip(-1.0, 1.0), -1.0
    top, left = (height - new_h) // 2, (width - new_w) // 2
    padding = [(0, 0)] * (image.ndim - 3) + [(top, height - new_h - top), (left, width - new_w - left), (0, 0)]
    return jnp.pad(resized, padding, constant_values=filler)
