"""Augmentation beyond openpi's, and cameras dropped out: each does what it says, at the rate it says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import QUICK, SMALL, compiled, random_actions, random_model, random_observation

from pi05_progress.errors import UserError
from pi05_progress.models.augmentation import AugmentationConfig, augment, cameras_left, to_hsv

OFF = AugmentationConfig(crop=1.0, rotation_deg=0, brightness=0, contrast=0, hue=0)
BASE, LEFT, RIGHT = CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
COLOUR = np.array([0.6, 0.45, 0.3], np.float32)
PLAIN = np.broadcast_to(COLOUR * 2 - 1, (64, 16, 16, 3))
SPOT = np.full((64, 41, 41, 3), -1.0, np.float32)
SPOT[:, 19:22, 4:7] = 1.0  # 15 pixels left of the middle


def changed(picture, seed=0, **settings):
    program = jax.jit(augment, static_argnums=2, compiler_options=QUICK)
    pictures = dict.fromkeys(CAMERAS, jnp.asarray(picture))
    return jax.tree.map(np.asarray, program(jax.random.key(seed), pictures, dataclasses.replace(OFF, **settings)))


def test_nothing_is_changed_when_all_is_off():
    for picture in changed(SPOT).values():
        np.testing.assert_array_equal(picture, SPOT)


def test_wrist_pictures_are_shifted_and_turned_as_far_as_they_say_and_no_others_are():
    weight = lambda image: (image + 1)[..., 0] / (image + 1)[..., 0].sum(axis=(1, 2), keepdims=True)  # noqa: E731
    rows, columns = np.mgrid[0:41, 0:41]
    for settings, most in (({"wrist_shift": 0.1}, 4.1), ({"wrist_rotation_deg": 10}, 15 * np.deg2rad(10))):
        found = changed(SPOT, **settings)
        np.testing.assert_array_equal(found[BASE], SPOT)
        y = (weight(found[LEFT]) * rows).sum(axis=(1, 2)) - 20
        assert 0.8 * most < np.abs(y).max() < most + 0.05
        assert y.min() < 0 < y.max()
        assert np.abs(found[LEFT] - found[RIGHT]).max() > 0.5  # cameras are moved independently
        x = (weight(found[LEFT]) * columns).sum(axis=(1, 2)) - 5
        assert (np.abs(x).max() > 2) == ("wrist_shift" in settings)


def test_outside_a_shifted_wrist_picture_its_edge_is_repeated():
    white = np.ones((64, 16, 16, 3), np.float32)
    np.testing.assert_allclose(changed(white, wrist_shift=0.3)[LEFT], white, atol=1e-6)


@pytest.mark.parametrize("setting", ["exposure", "white_balance", "saturation"])
def test_colours_change_as_far_as_they_say(setting):
    for picture in changed(PLAIN, **{setting: 0.25}).values():
        pixel = picture[:, 8, 8] / 2 + 0.5
        ratios = pixel / COLOUR
        if setting == "saturation":
            before, after = (np.asarray(to_hsv(jnp.asarray(c))[1]) for c in (COLOUR[None], pixel))
            assert after.min() < 0.85 * before < 1.15 * before < after.max()
            continue
        assert 1 / 1.25 - 1e-3 < ratios.min() < 0.85
        assert 1.15 < ratios.max() < 1.25 + 1e-3
        if setting == "exposure":
            np.testing.assert_allclose(ratios, ratios[:, :1].repeat(3, axis=1), rtol=1e-4)
        else:
            np.testing.assert_allclose(ratios[:, 1], 1, rtol=1e-4)


def test_openpi_s_chain_is_the_same_whatever_comes_behind_it():
    key, pictures = jax.random.key(1), {BASE: jnp.asarray(SPOT[:2]), LEFT: jnp.asarray(PLAIN[:2])}
    program = jax.jit(augment, static_argnums=2, compiler_options=QUICK)
    own = program(key, pictures, AugmentationConfig())
    brighter = program(key, pictures, AugmentationConfig(exposure=1e-4))
    for camera in pictures:
        np.testing.assert_allclose(brighter[camera], own[camera], atol=1e-3)


@pytest.mark.parametrize("field", ["crop", "hue", "camera_dropout"])
def test_a_share_outside_its_range_is_refused(field):
    with pytest.raises(UserError, match=f"augmentation.{field} is 1.5; expected"):
        AugmentationConfig(**{field: 1.5})


def test_each_camera_is_dropped_at_its_rate_and_one_is_always_left():
    samples, share = 4000, 0.3
    there = dict.fromkeys(CAMERAS, jnp.ones(samples, bool))
    there[RIGHT] = there[RIGHT].at[:1000].set(False)  # absent from the start
    left = jax.tree.map(np.asarray, cameras_left(jax.random.key(0), there, share))
    assert np.stack(list(left.values())).any(axis=0).all()
    assert not left[RIGHT][:1000].any()
    for camera in CAMERAS:  # of all three; when all are to go, each is the one that stays in a third of the cases
        assert 1 - left[camera][1000:].mean() == pytest.approx(share - share**3 / 3, abs=0.025)
    certain = cameras_left(jax.random.key(1), there, 1.0)
    assert (np.stack(list(certain.values())).sum(axis=0) == 1).all()


def test_a_dropped_camera_is_a_missing_one_in_training_and_there_otherwise():
    config = dataclasses.replace(SMALL, progress=SMALL.with_progress("none").progress)
    model, observation, actions = random_model(config), random_observation(config), random_actions(config)
    augmentation = dataclasses.replace(OFF, camera_dropout=0.6)

    def drawn(model, observation):
        draws = (
            model.draw(jax.random.key(3), observation, actions, train=t, augmentation=augmentation) for t in (1, 0)
        )
        return tuple(draws)

    trained, validated = compiled(model, drawn)(observation)
    prepared = model.prepare_images(observation)
    dropped = 0
    for camera, mask in trained.observation.image_masks.items():
        there = np.asarray(mask)
        dropped += (~there).sum()
        np.testing.assert_array_equal(trained.observation.images[camera][~there], -1)
        np.testing.assert_allclose(trained.observation.images[camera][there], prepared[camera][there], atol=1e-6)
        np.testing.assert_array_equal(validated.observation.image_masks[camera], observation.image_masks[camera])
    assert dropped > 0
    np.testing.assert_array_equal(trained.noise, validated.noise)  # its draws are its own


@pytest.mark.parametrize("covered", [0.0, 1.0])
def test_tokens_instead_of_pictures_are_dropped_as_the_pictures_are(covered):
    config = dataclasses.replace(SMALL, progress=SMALL.with_progress("none").progress)
    model, observation, actions = random_model(config), random_observation(config, 8), random_actions(config, 8)
    settings = {"train": True, "augmentation": dataclasses.replace(OFF, camera_dropout=0.5, covered_share=covered)}

    def both(model, observation):
        tokens = dataclasses.replace(observation, images={}, image_tokens=model.image_tokens(observation))
        by_pictures, by_tokens = (model.draw(jax.random.key(3), o, actions, **settings) for o in (observation, tokens))
        return by_pictures.observation, by_tokens.observation, model.image_tokens(by_pictures.observation)

    pictures, tokens, expected = compiled(model, both)(observation)
    assert tokens.images == {}
    black = np.stack([(np.asarray(image) == -1).all(axis=(1, 2, 3)) for image in pictures.images.values()])
    assert 0 < black.sum() < black.size
    for number, key in enumerate(CAMERAS):
        np.testing.assert_allclose(tokens.image_tokens[key], expected[key], atol=1e-5)
        np.testing.assert_array_equal(tokens.image_masks[key], pictures.image_masks[key])
        np.testing.assert_array_equal(pictures.image_masks[key], ~black[number] if covered == 0 else True)
