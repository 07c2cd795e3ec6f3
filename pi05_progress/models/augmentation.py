"""Training augmentation of pictures, as openpi's: the same random numbers from the same key, the same arithmetic.

Cameras that do not sit on a wrist are cropped to 95 %, scaled back and turned by up to 5 degrees, in one bilinear
resampling with black outside; the colours of every camera are changed with probability one half. openpi asks augmax
0.4.1 for brightness 0.3, contrast 0.4 and saturation 0.5. What it gets, and what its models were trained with, is
brightness, contrast and augmax's default of 0.1 for the hue; the saturation is drawn but its result is thrown away
(Physical-Intelligence/augmax#2). So it is here, unless ``AugmentationConfig`` says otherwise: its further operations
draw from keys of their own, and those that are off are not in the program at all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ..errors import UserError

JITTER_KEYS = 5  # brightness, contrast, hue, the saturation that has no effect, and one that nothing uses
LUMA = (0.299, 0.587, 0.114)  # what red, green and blue contribute to brightness


@dataclass(frozen=True)
class AugmentationConfig:
    """How pictures are changed in training. The defaults are openpi's; 0 (for crop: 1) leaves an operation out."""

    crop: float = 0.95
    """Share of each side that is kept of cameras that do not sit on a wrist."""
    rotation_deg: float = 5.0
    """Largest turn of these cameras' pictures, degrees."""
    brightness: float = 0.3
    """Largest change of brightness, of every camera."""
    contrast: float = 0.4
    """Largest change of contrast."""
    hue: float = 0.1
    """Largest change of the hue, in turns; small where instructions name colours."""
    colour_probability: float = 0.5
    """Share of pictures whose brightness, contrast and hue are changed."""
    wrist_shift: float = 0.0
    """Largest shift of wrist cameras' pictures, as a share of their sides; edges are repeated."""
    wrist_rotation_deg: float = 0.0
    """Largest turn of wrist cameras' pictures, degrees."""
    white_balance: float = 0.0
    """Largest change of red and blue against green: 0.2 multiplies or divides them by up to 1.2."""
    saturation: float = 0.0
    """Largest change of saturation: 0.3 scales it by 0.7 to 1.3."""
    exposure: float = 0.0
    """Largest change of exposure: 0.3 multiplies or divides all values by up to 1.3."""
    camera_dropout: float = 0.0
    """Probability of each camera to be dropped from a sample, black and masked, so that each is used; one is left."""
    covered_share: float = 0.0
    """Share of dropped cameras that are there but black, as under a cap, instead of masked."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            most = {"rotation_deg": 180, "wrist_rotation_deg": 180}.get(field.name, 1)
            low = 0.1 if field.name == "crop" else 0
            if not low <= (value := getattr(self, field.name)) <= most:
                raise UserError(f"augmentation.{field.name} is {value}; expected {low} to {most}")


OPENPI = AugmentationConfig()


def augment(
    rng: Key[Array, ""], images: Mapping[str, Float[Array, "b h w 3"]], config: AugmentationConfig = OPENPI
) -> dict[str, Float[Array, "b h w 3"]]:
    """Pictures by camera, float32 in [-1, 1], at the model's size, changed at random, each sample in its own way;
    black, -1, where a picture was turned away from its corner.

    The key is split once per sample. All cameras of a sample share a key, as openpi's do, but chains of different
    length split it differently: what a wrist camera gets is independent of what the others get.
    """
    return {key: _augment_batch(rng, image, config, key, n) for n, (key, image) in enumerate(images.items())}


def _augment_batch(rng: Array, images: Array, config: AugmentationConfig, name: str, number: int) -> Array:
    wrist = "wrist" in name
    shift, turn = (config.wrist_shift, config.wrist_rotation_deg) if wrist else (0.0, 0.0)

    def one(key: Array, image: Array) -> Array:
        # A chain of chains: the outer one splits its key per part (geometry, colour), each part per operation.
        parts = jax.random.split(key, 1 if wrist else 2)
        # Beyond those parts, and of each camera: what openpi does not do.
        move_key, colour_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 2), number))
        if not wrist and (config.crop < 1 or config.rotation_deg):
            image = crop_and_turn(parts[0], image, config)
        if shift or turn:
            image = shift_and_turn(move_key, image, shift, turn)
        if config.colour_probability and (config.brightness or config.contrast or config.hue):
            image = jitter(jax.random.split(parts[-1], 1)[0], image, config)
        return recolour(colour_key, image, config)

    keys = jax.random.split(rng, images.shape[0])
    return jax.vmap(one)(keys, images / 2.0 + 0.5) * 2.0 - 1.0


def crop_and_turn(
    rng: Key[Array, ""], image: Float[Array, "h w 3"], config: AugmentationConfig = OPENPI
) -> Float[Array, "h w 3"]:
    """A random crop, scaled back to the picture's size and turned by some degrees; 0 outside the picture."""
    height, width, _ = image.shape
    crop_key, _, turn_key = jax.random.split(rng, 3)  # the second belongs to the scaling, which draws nothing
    cropped = jnp.array([int(config.crop * height), int(config.crop * width)], jnp.float32)
    size = jnp.array([height, width], jnp.float32)
    limit = (size - cropped) / 2
    shift = jax.random.uniform(crop_key, (2,), minval=-limit, maxval=limit)
    largest = math.radians(config.rotation_deg)
    angle = jax.random.uniform(turn_key, minval=-largest, maxval=largest)
    return _resampled(image, cropped / size, angle, shift, outside="constant")


def shift_and_turn(
    rng: Key[Array, ""], image: Float[Array, "h w 3"], shift: float, turn_deg: float
) -> Float[Array, "h w 3"]:
    """Shifted by up to a share of its sides and turned by up to some degrees; the edges are repeated outside."""
    shift_key, turn_key = jax.random.split(rng)
    size, largest = jnp.array(image.shape[:2], jnp.float32), math.radians(turn_deg)
    moved = size * jax.random.uniform(shift_key, (2,), minval=-shift, maxval=shift)
    angle = jax.random.uniform(turn_key, minval=-largest, maxval=largest)
    return _resampled(image, jnp.ones(2), angle, moved, outside="nearest")


def _resampled(image: Array, scale: Array, angle: Array, shift: Array, outside: str) -> Array:
    """The picture, bilinear, at places found from the result back to it, around the middles: turn, scale, move."""
    height, width, _ = image.shape
    # Factors first, as augmax does: at a sharp edge the last digit of a coordinate is seen.
    middle = (jnp.array([height, width], jnp.float32) - 1) / 2
    rows, columns = jnp.mgrid[0:height, 0:width]
    y, x = rows - middle[0], columns - middle[1]
    along, across = scale * jnp.cos(angle), scale * jnp.sin(angle)
    at = [along[0] * y + across[0] * x + shift[0] + middle[0], along[1] * x - across[1] * y + shift[1] + middle[1]]
    sample = lambda channel: jax.scipy.ndimage.map_coordinates(channel, at, order=1, mode=outside)  # noqa: E731
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


def _amount(key: Array, largest: float, shape: tuple[int, ...] = ()) -> Array:
    return jax.random.uniform(key, shape, minval=-largest, maxval=largest)


def jitter(
    rng: Key[Array, ""], image: Float[Array, "h w 3"], config: AugmentationConfig = OPENPI
) -> Float[Array, "h w 3"]:
    """Brightness, contrast and hue changed at random, of a share of pictures; values in [0, 1]."""
    brightness_key, contrast_key, hue_key, *_ = jax.random.split(rng, JITTER_KEYS)
    hue, saturation, value = to_hsv(image)
    value = brighten(value, _amount(brightness_key, config.brightness))
    value = add_contrast(value, _amount(contrast_key, config.contrast))
    changed = from_hsv(hue + _amount(hue_key, config.hue), saturation, value)
    return jnp.where(jax.random.bernoulli(rng, config.colour_probability), changed, image)


def recolour(rng: Key[Array, ""], image: Float[Array, "h w 3"], config: AugmentationConfig) -> Float[Array, "h w 3"]:
    """Saturation, white balance and exposure as another camera or lamp has them; values in [0, 1]."""
    saturation_key, balance_key, exposure_key = jax.random.split(rng, 3)
    if config.saturation:
        grey = (image @ jnp.array(LUMA))[..., None]
        image = grey + (1 + _amount(saturation_key, config.saturation)) * (image - grey)
    if config.white_balance:
        red, blue = _amount(balance_key, math.log1p(config.white_balance), (2,))
        image = image * jnp.exp(jnp.stack([red, jnp.zeros(()), blue]))
    if config.exposure:
        image = image * jnp.exp(_amount(exposure_key, math.log1p(config.exposure)))
    return jnp.clip(image, 0.0, 1.0) if config.saturation or config.white_balance or config.exposure else image


def cameras_left(
    rng: Key[Array, ""], there: Mapping[str, Bool[Array, " b"]], probability: float
) -> dict[str, Bool[Array, " b"]]:
    """Which cameras are left when each of those that are there is dropped with a probability; one always is."""
    masks = jnp.stack(list(there.values()))
    draws = jax.random.uniform(rng, masks.shape)
    kept = masks & (draws >= probability)
    last = masks & (jnp.arange(len(masks))[:, None] == jnp.argmax(jnp.where(masks, draws, -1.0), axis=0))
    return dict(zip(there, jnp.where(kept.any(axis=0), kept, last), strict=True))


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
