"""Training augmentation of pictures, as openpi's: the same random numbers from the same key, the same arithmetic.

Cameras that do not sit on a wrist are cropped to 95 %, scaled back and turned by up to 5 degrees, in one bilinear
resampling with black outside; the colours of every camera are changed with probability one half. openpi asks augmax
0.4.1 for brightness 0.3, contrast 0.4 and saturation 0.5. What it gets, and what its models were trained with, is
brightness, contrast and augmax's default of 0.1 for the hue; the saturation is drawn but its result is thrown away
(Physical-Intelligence/augmax#2). So it is here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

CROP = 0.95  # share of each side that is kept
ROTATION = math.radians(5.0)  # largest angle, rad
BRIGHTNESS, CONTRAST, HUE = 0.3, 0.4, 0.1  # largest change; of the hue in turns
JITTER_PROBABILITY = 0.5
JITTER_KEYS = 5  # brightness, contrast, hue, the saturation that has no effect, and one that nothing uses


def augment(rng: Key[Array, ""], images: Mapping[str, Float[Array, "b h w 3"]]) -> dict[str, Float[Array, "b h w 3"]]:
    """Change pictures at random, each sample in its own way.

    Args:
        rng: key; split once per sample. All cameras of a sample share a key, as openpi's do, but chains of different
            length split it differently: what a wrist camera gets is independent of what the others get.
        images: by camera, float32 in [-1, 1], at the model's size.

    Returns:
        The same cameras and shapes, float32; black, -1, where a picture was turned away from its corner.
    """
    return {name: _augment_batch(rng, image, geometric="wrist" not in name) for name, image in images.items()}


def _augment_batch(rng: Array, images: Array, *, geometric: bool) -> Array:
    def one(key: Array, image: Array) -> Array:
        # A chain of chains: the outer one splits its key per part (geometry, colour), each part per operation.
        parts = jax.random.split(key, 2 if geometric else 1)
        if geometric:
            image = crop_and_turn(parts[0], image)
        return jitter(jax.random.split(parts[-1], 1)[0], image)

    keys = jax.random.split(rng, images.shape[0])
    return jax.vmap(one)(keys, images / 2.0 + 0.5) * 2.0 - 1.0


def crop_and_turn(rng: Key[Array, ""], image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """A random crop of 95 %, scaled back to the picture's size and turned by up to 5 degrees; 0 outside the picture."""
    height, width, _ = image.shape
    crop_key, _, turn_key = jax.random.split(rng, 3)  # the second belongs to the scaling, which draws nothing
    cropped = jnp.array([int(CROP * height), int(CROP * width)], jnp.float32)
    size = jnp.array([height, width], jnp.float32)
    limit = (size - cropped) / 2
    shift = jax.random.uniform(crop_key, (2,), minval=-limit, maxval=limit)
    angle = jax.random.uniform(turn_key, minval=-ROTATION, maxval=ROTATION)
    # From the result back to the picture, around the middles: turn, scale, move. Factors first, as augmax does: at
    # a sharp edge the last digit of a coordinate is seen.
    middle = (size - 1) / 2
    rows, columns = jnp.mgrid[0:height, 0:width]
    y, x = rows - middle[0], columns - middle[1]
    scale = cropped / size
    along, across = scale * jnp.cos(angle), scale * jnp.sin(angle)
    at = [along[0] * y + across[0] * x + shift[0] + middle[0], along[1] * x - across[1] * y + shift[1] + middle[1]]
    sample = lambda channel: jax.scipy.ndimage.map_coordinates(channel, at, order=1, mode="constant")  # noqa: E731
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


def jitter(rng: Key[Array, ""], image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Brightness, contrast and hue changed at random with probability one half; values in [0, 1]."""
    brightness_key, contrast_key, hue_key, *_ = jax.random.split(rng, JITTER_KEYS)

    def amount(key: Array, largest: float) -> Array:
        return jax.random.uniform(key, minval=-largest, maxval=largest)

    hue, saturation, value = to_hsv(image)
    value = brighten(value, amount(brightness_key, BRIGHTNESS))
    value = add_contrast(value, amount(contrast_key, CONTRAST))
    changed = from_hsv(hue + amount(hue_key, HUE), saturation, value)
    return jnp.where(jax.random.bernoulli(rng, JITTER_PROBABILITY), changed, image)


def brighten(value: Float[Array, "h w"], amount: Float[Array, ""]) -> Float[Array, "h w"]:
    """Towards 1 by a share ``amount``, or towards 0 where it is negative."""
    return jnp.where(amount < 0, value * (1 + amount), value * (1 - amount) + amount)


def add_contrast(value: Float[Array, "h w"], amount: Float[Array, ""]) -> Float[Array, "h w"]:
    """A curve through 0, 1/2 and 1 with another slope in the middle, and its inverse near both ends."""
    slope = jnp.tan((amount + 1.0) * (jnp.pi / 4))
    knee = slope / (2 * (1 + slope))
    middle = slope * (value - 0.5) + 0.5
    return jnp.where(value < knee, value / slope, jnp.where(value > 1 - knee, value / slope + 1 - 1 / slope, middle))


def to_hsv(image: Float[Array, "h w 3"]) -> tuple[Float[Array, "h w"], Float[Array, "h w"], Float[Array, "h w"]]:
    """Hue in turns (may lie outside [0, 1]), saturation and value of RGB in [0, 1]."""
    value = image.max(axis=-1)
    chroma = value - image.min(axis=-1)
    largest = image.argmax(axis=-1)
    following, last = (jnp.take_along_axis(image, ((largest + i) % 3)[..., None], axis=-1)[..., 0] for i in (1, 2))
    grey = chroma == 0.0
    hue = jnp.where(grey, 0.0, (2 * largest + (following - last) / jnp.where(grey, 1.0, chroma)) / 6)
    black = value == 0.0
    return hue, jnp.where(black, 0.0, chroma / jnp.where(black, 1.0, value)), value


def from_hsv(
    hue: Float[Array, "h w"], saturation: Float[Array, "h w"], value: Float[Array, "h w"]
) -> Float[Array, "h w 3"]:
    """The inverse of ``to_hsv`` for any hue."""
    place = (jnp.array([5.0, 3.0, 1.0]) + hue[..., None] * 6) % 6
    weight = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    return value[..., None] - (value * saturation)[..., None] * weight
