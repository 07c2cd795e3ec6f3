"""The vision tower that finds points, named positions, and tokens of pictures that are given instead of these."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import SMALL, compiled, random_actions, random_model, random_observation

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint
from pi05_progress.checkpoints.checkpoint_error import CheckpointError
from pi05_progress.checkpoints.foreign.conversion import export_checkpoint
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.models.config import ModelConfigError, PointsConfig
from pi05_progress.models.parameters import parameter_paths
from pi05_progress.observation import IMAGE_KEYS, ObservationError

POINTS = PointsConfig(width=8, points=6, tokens=2)
LOCATING = dataclasses.replace(
    SMALL, vision="points", siglip=None, image_size=(30, 41), points=POINTS, positions=("red_cube", "basket")
)


def losses_of(model, observation):
    """All losses of a model, at fixed draws."""
    noise = random_actions(model.config)

    def run(model, observation):
        return model.losses(observation, 0.5 * noise, noise, jnp.full(2, 0.5))

    return compiled(model, run)(observation)


def located(observation, positions=0.1, counts=True):
    """The observation with labels of two positions."""
    shape = (*observation.state.shape[:1], 2)
    labels = np.full((*shape, 3), positions, np.float32)
    return dataclasses.replace(observation, positions=labels, positions_mask=np.broadcast_to(np.bool_(counts), shape))


def given_tokens(model, observation):
    """The observation with the tower's output instead of pictures."""
    tokens = compiled(model, lambda model, seen: model.image_tokens(seen))(observation)
    return dataclasses.replace(observation, images={}, image_tokens=jax.tree.map(np.asarray, tokens))


@pytest.mark.parametrize("config", [SMALL, LOCATING], ids=lambda config: config.vision)
def test_tokens_that_are_given_are_as_good_as_the_pictures(config):
    model = random_model(config)
    seen = random_observation(config, cameras=IMAGE_KEYS[::-1][:2], labels=(0.2, 0.7))
    found, wanted = (jax.tree.leaves(losses_of(model, of)) for of in (given_tokens(model, seen), seen))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6)


def test_a_camera_that_is_left_out_is_one_that_is_masked():
    model, seen = random_model(LOCATING), random_observation(LOCATING)
    masks = seen.image_masks | {IMAGE_KEYS[1]: np.zeros(2, bool)}
    there = {key: seen.images[key] for key in IMAGE_KEYS if key != IMAGE_KEYS[1]}
    masked, without = (dataclasses.replace(seen, image_masks=masks, images=of) for of in (seen.images, there))
    for one, other in zip(*(jax.tree.leaves(losses_of(model, of)) for of in (masked, without)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_positions_need_no_labels_and_labels_that_do_not_count_may_be_anything():
    model, seen = random_model(LOCATING), random_observation(LOCATING)
    plain, labelled = losses_of(model, seen), losses_of(model, located(seen))
    assert plain.position is None and plain.positions.shape == (2, 2, 3)
    np.testing.assert_allclose(labelled.position, np.abs(labelled.positions - 0.1).mean(-1) / 0.1, rtol=1e-5)
    partly = located(seen, counts=[[True, False], [False, True]])
    partly.positions[0, 1] = np.nan
    np.testing.assert_allclose(losses_of(model, partly).position, labelled.position * np.eye(2), rtol=1e-5)


def test_the_actions_read_the_predicted_positions_and_teach_them():
    model, seen = random_model(LOCATING), random_observation(LOCATING)
    noise = random_actions(LOCATING)

    def action_loss(parameters):
        own = nnx.merge(graph, parameters)
        return own.losses(seen, 0.5 * noise, noise, jnp.full(2, 0.5)).action.sum()

    graph, parameters = nnx.split(model)
    gradient = jax.jit(jax.grad(action_loss))(parameters)
    for part in (gradient.position_head, gradient.PaliGemma.img):
        assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(part))


def test_its_checkpoint_is_read_back_and_not_exported(tmp_path):
    model = random_model(LOCATING)
    save_checkpoint(tmp_path / "own", Checkpoint(CheckpointInfo(LOCATING), model, {}))
    loaded = load_checkpoint(tmp_path / "own")
    assert loaded.info.model == LOCATING
    for path, value in parameter_paths(model).items():
        np.testing.assert_array_equal(parameter_paths(loaded.model)[path], value)
    for layout in ("openpi", "lerobot"):
        with pytest.raises(CheckpointError, match=r"finds points \(vision\) and named positions \(red_cube, basket\)"):
            export_checkpoint(tmp_path / "own", tmp_path / layout, layout)
        assert not (tmp_path / layout).exists()


def test_what_does_not_fit_together_is_refused_by_name():
    for fields, message in (
        ({"vision": "points", "image_size": (3, 9)}, "less than the patch, 4"),
        ({"siglip": None}, "siglip is missing"),
        ({"positions": ("a",)}, "positions are predicted with vision 'points' alone"),
        ({"vision": "points", "positions": ("a", "a")}, "a name is there twice"),
        ({"vision": "pionts"}, "known: siglip, points"),
    ):
        with pytest.raises(ModelConfigError, match=message):
            dataclasses.replace(SMALL, **fields)
    with pytest.raises(ModelConfigError, match=r"points\.depth is 0"):
        PointsConfig(depth=0)
    model, seen = random_model(LOCATING), random_observation(LOCATING)
    tokens = {IMAGE_KEYS[0]: np.zeros((2, 2, 12), np.float32)}
    for fields, message in (
        ({"image_tokens": tokens}, "images and image_tokens are given"),
        (
            {"images": {}, "image_tokens": {IMAGE_KEYS[0]: np.zeros((2, 3, 12), np.float32)}},
            r"image_tokens\[base_0_rgb\]",
        ),
        ({"images": {}}, "images are of no camera"),
        ({"positions": np.zeros((2, 2, 3), np.float32)}, "positions_mask is missing"),
    ):
        with pytest.raises(ObservationError, match=message):
            model.estimate_progress(dataclasses.replace(seen, **fields))
    with pytest.raises(ObservationError, match="names none"):
        random_model(SMALL).estimate_progress(located(random_observation(SMALL)))
