"""Transforms against openpi's recorded numbers, and what holds beyond them."""

import jax
import jax.numpy as jnp
import numpy as np
import places
import pytest

from pi05_progress.models.flow import next_noise
from pi05_progress.models.images import resize_with_pad as resize_in_model
from pi05_progress.models.images import to_unit_range
from pi05_progress.robots.layout import LayoutError
from pi05_progress.units.transforms import pad_to, resize_with_pad, shifted

GOLDEN = dict(np.load(places.GOLDEN / "transforms/transforms.npz"))
CASES = sorted({name.split("/")[1] for name in GOLDEN if name.startswith("resize/")})


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_resized_before_the_model_to_the_very_levels(case):
    height, width = GOLDEN[f"resize/{case}/target"]
    for image, expected in zip(GOLDEN[f"resize/{case}/u8"], GOLDEN[f"resize/{case}/pil"], strict=True):
        np.testing.assert_array_equal(resize_with_pad(image, int(height), int(width)), expected)


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_resized_inside_the_model(case):
    height, width = (int(size) for size in GOLDEN[f"resize/{case}/target"])
    images = jnp.asarray(GOLDEN[f"resize/{case}/u8"])
    expected = GOLDEN[f"resize/{case}/jax_u8"].astype(int)
    levels = np.abs(np.asarray(resize_in_model(images, height, width), int) - expected)
    assert levels.max() <= 1
    assert (levels > 0).mean() < 0.01  # ties only
    ours = resize_in_model(to_unit_range(images), height, width)
    np.testing.assert_allclose(ours, GOLDEN[f"resize/{case}/jax_f32"], atol=1e-5)


def test_padding_is_black_and_centred_with_the_odd_row_below():
    white = np.full((4, 8, 3), 255, np.uint8)
    padded = resize_with_pad(white, 9, 8)
    assert [row.max() for row in padded] == [0, 0, 255, 255, 255, 255, 0, 0, 0]
    inside = resize_in_model(to_unit_range(jnp.asarray(white)), 9, 8)
    assert [float(row.max()) for row in inside] == [-1, -1, 1, 1, 1, 1, -1, -1, -1]
    np.testing.assert_array_equal(resize_with_pad(white, 4, 8), white)


@pytest.mark.parametrize("shape", [(8, 8192), (8192, 8)])
def test_of_a_very_thin_picture_one_row_or_column_remains(shape):
    white = np.full((*shape, 3), 255, np.uint8)
    line = np.zeros((28, 28), bool)
    line[(13, slice(None)) if shape[0] < shape[1] else (slice(None), 13)] = True
    np.testing.assert_array_equal(resize_with_pad(white, 28, 28).min(-1) == 255, line)
    np.testing.assert_array_equal(np.asarray(resize_in_model(jnp.asarray(white), 28, 28)).min(-1) == 255, line)


def test_uint8_goes_to_minus_one_to_one():
    np.testing.assert_array_equal(to_unit_range(jnp.array([0, 255], jnp.uint8)), [-1.0, 1.0])
    np.testing.assert_array_equal(to_unit_range(jnp.array([-1.0, 0.5])), [-1.0, 0.5])


def test_relative_actions_of_any_mask_and_back():
    actions, state, mask = (GOLDEN[f"delta/{name}"] for name in ("actions", "state", "mask"))
    offset, before = np.where(mask, state[..., : len(mask)], 0), actions.copy()
    delta = shifted(actions, offset, -1)
    np.testing.assert_allclose(delta, GOLDEN["delta/delta"], atol=1e-12)
    np.testing.assert_allclose(shifted(actions, offset, 1), GOLDEN["delta/abs"], atol=1e-12)
    np.testing.assert_allclose(shifted(delta, offset, 1), actions, atol=1e-12)
    np.testing.assert_array_equal(actions, before)  # openpi's transform writes into its input


def test_states_and_actions_are_padded_with_zeros():
    for name in ("state", "actions"):
        np.testing.assert_array_equal(pad_to(GOLDEN[f"delta/{name}"], 32), GOLDEN[f"pad/{name}"])
    with pytest.raises(LayoutError, match="9 values do not fit into the model's 8"):
        pad_to(GOLDEN["delta/actions"], 8)


def test_noise_of_one_call_after_another_is_that_of_openpis_policy():
    key = jax.random.key(0)
    for call in (0, 1):
        expected = GOLDEN[f"policy_noise/{call}"]
        key, noise = next_noise(key, expected.shape)
        np.testing.assert_array_equal(noise, expected)
