"""Training augmentation: openpi's recorded pictures, and what may not change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import places
import pytest
from small_models import QUICK, SMALL, compiled, random_actions, random_model, random_observation

from pi05_progress.models.augmentation import OPENPI, add_contrast, augment, brighten, crop_and_turn, from_hsv, to_hsv

GOLDEN = dict(np.load(places.GOLDEN / "transforms/transforms.npz"))
CAMERAS = [name.split("/")[1] for name in GOLDEN if name.startswith("aug/") and name.endswith("/u8")]
PICTURES = {c: jnp.asarray(GOLDEN[f"aug/{c}/u8"]).astype(jnp.float32) / 255 * 2 - 1 for c in CAMERAS}
program = jax.jit(augment, compiler_options=QUICK)


@pytest.fixture(scope="module")
def recorded():
    return program(jax.random.key(int(GOLDEN["aug/key_seed"])), PICTURES)


@pytest.mark.parametrize("camera", CAMERAS)
def test_pictures_are_changed_as_openpi_changes_them_with_the_same_key(recorded, camera):
    np.testing.assert_allclose(recorded[camera], GOLDEN[f"aug/{camera}/out"], atol=5e-5)
    assert np.abs(recorded[camera] - PICTURES[camera]).max() > 0.1


def test_the_same_key_gives_the_same_pictures_and_another_one_others(recorded):
    again = program(jax.random.key(int(GOLDEN["aug/key_seed"])), PICTURES)
    other = program(jax.random.key(99), PICTURES)
    for camera in CAMERAS:
        np.testing.assert_array_equal(again[camera], recorded[camera])
        assert np.abs(other[camera] - recorded[camera]).max() > 0.1


def test_both_wrists_of_a_sample_are_changed_alike_and_samples_differently():
    same = jnp.broadcast_to(PICTURES[CAMERAS[0]][:1], (2, 64, 64, 3))
    differing = 0
    for seed in range(6):
        changed = program(jax.random.key(seed), dict.fromkeys(CAMERAS, same))
        left, right = changed["left_wrist_0_rgb"], changed["right_wrist_0_rgb"]
        np.testing.assert_array_equal(left, right)
        differing += bool(np.abs(left[0] - left[1]).max() > 1e-3)
    assert differing > 0


def test_wrist_cameras_keep_their_geometry_and_others_do_not():
    """Grey pictures with a bright spot: colours may change, the spot moves only where cameras look from outside."""
    spot = np.full((1, 64, 64, 3), -0.8, np.float32)
    spot[:, 50:53, 8:11] = 0.8
    places = {camera: set() for camera in CAMERAS}
    for seed in range(8):
        for camera, image in program(jax.random.key(seed), {c: jnp.repeat(spot, 2, axis=0) for c in CAMERAS}).items():
            brightness = np.asarray(image.sum(axis=-1))
            places[camera] |= {tuple(np.round(np.argwhere(b > b.max() - 0.3).mean(axis=0))) for b in brightness}
    assert places["left_wrist_0_rgb"] == {(51.0, 9.0)}
    assert len(places["base_0_rgb"]) > 3


def test_what_lies_outside_the_picture_is_black():
    turn = jax.jit(jax.vmap(crop_and_turn, in_axes=(0, None)))
    turned = turn(jax.random.split(jax.random.key(3), 32), jnp.ones((64, 64, 3)))
    corners = np.asarray(turned[:, [0, 0, -1, -1], [0, -1, 0, -1], 0])
    assert corners.min() < 0.5
    np.testing.assert_allclose(turned[:, 32, 32], 1, atol=1e-5)


def test_hue_saturation_and_value_go_there_and_back():
    image = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (8, 8, 3)).astype(np.float32))
    image = image.at[0, 0].set(0.0).at[0, 1].set(0.5)  # black and grey have no hue
    hue, saturation, value = to_hsv(image)
    np.testing.assert_allclose(from_hsv(hue, saturation, value), image, atol=1e-5)
    np.testing.assert_allclose(from_hsv(hue + 1, saturation, value), image, atol=1e-5)  # a whole turn
    assert np.abs(from_hsv(hue + OPENPI.hue, saturation, value) - image).max() > 0.1


def test_brightness_and_contrast_keep_values_within_0_and_1():
    values = jnp.linspace(0, 1, 33)
    for amount in (-0.4, -0.1, 0.0, 0.1, 0.4):
        for change in (brighten, add_contrast):
            changed = np.asarray(change(values, jnp.float32(amount)))
            assert changed.min() >= -1e-6
            assert changed.max() <= 1 + 1e-6
            assert (np.diff(changed) >= 0).all()
    np.testing.assert_allclose(brighten(values, jnp.float32(0)), values, atol=1e-6)
    np.testing.assert_allclose(add_contrast(values, jnp.float32(0)), values, atol=1e-6)
    np.testing.assert_allclose(brighten(jnp.array([0.5]), jnp.float32(0.2)), [0.6])
    np.testing.assert_allclose(brighten(jnp.array([0.5]), jnp.float32(-0.2)), [0.4])


def test_the_saturation_is_never_changed():
    """openpi asks for it and throws the result away: ratios of a colour's saturation stay, hue and value do not."""
    image = jnp.broadcast_to(jnp.array([0.6, 0.3, 0.2]) * 2 - 1, (2, 64, 64, 3))
    for seed in range(8):
        changed = program(jax.random.key(seed), dict.fromkeys(CAMERAS, image))["left_wrist_0_rgb"]
        _, saturation, _ = to_hsv(changed[0] / 2 + 0.5)
        np.testing.assert_allclose(saturation, 1 - 0.2 / 0.6, atol=1e-4)


def test_the_training_loss_augments_with_the_first_split_of_its_key():
    config = dataclasses.replace(SMALL, progress=SMALL.with_progress("none").progress)
    model, observation, actions = random_model(config), random_observation(config), random_actions(config)
    key = jax.random.key(5)

    def losses(model, observation, changed):
        by_hand = dataclasses.replace(observation, images=changed)
        ours = model.compute_loss_with_progress(key, observation, actions, train=True)
        return ours.action, model.compute_loss_with_progress(key, by_hand, actions).action

    prepared = model.prepare_images(observation)
    changed = program(jax.random.split(key, 3)[0], prepared)
    assert np.abs(changed["base_0_rgb"] - prepared["base_0_rgb"]).max() > 0.1
    np.testing.assert_allclose(*compiled(model, losses)(observation, changed), rtol=1e-4)
