"""What a model may have beside openpi's: a state token, and several noises and times per prefix in its loss."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from small_models import SMALL, compiled, random_actions, random_model, random_observation

from pi05_progress.models.config import ModelConfigError
from pi05_progress.models.parameters import parameter_paths, parameter_shapes
from pi05_progress.models.pi05 import Pi05
from pi05_progress.observation import ObservationError

TOKEN = dataclasses.replace(SMALL, name="small_state", state_token=True)
DRAWS, TIMES = 3, np.float32([[0.2, 0.9, 0.5], [0.4, 0.1, 1.0]])
NOISE = np.random.default_rng(3).standard_normal((2, DRAWS, SMALL.action_horizon, SMALL.action_dim), np.float32)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def found():
    """Per state what a model with a token says, and its losses from the joint pass and from the prefix's cache."""

    def everything(model, observation, actions):
        sample = model.sample(observation, noise=NOISE[:, 0], num_steps=2)
        one = model.losses(observation, actions, NOISE[:, 0], TIMES[:, 0])
        same = model.losses(observation, actions, NOISE[:, :1], TIMES[:, :1])
        return sample, one, same

    ask = compiled(random_model(TOKEN), everything)
    observation = random_observation(TOKEN, labels=[0.2, 0.9])
    other = dataclasses.replace(observation, proprioception=observation.proprioception + np.float32([[0], [0.1]]))
    return [ask(of, random_actions(TOKEN)) for of in (observation, other)]


def test_the_state_token_reaches_actions_and_progress_of_its_own_sample_alone(found):
    (sample, loss, _), (moved, changed, _) = found
    for ours, theirs in (
        (sample.actions, moved.actions),
        (loss.action, changed.action),
        (loss.progress, changed.progress),
    ):
        np.testing.assert_allclose(ours[0], theirs[0], **CLOSE)
        assert np.abs(ours[1] - theirs[1]).max() > 1e-4


def test_where_a_thing_is_from_a_hand_reaches_the_actions():
    config = dataclasses.replace(TOKEN, vision="points", positions=("cube",), hands=2)
    ask = compiled(random_model(config), lambda model, of: model.sample(of, noise=NOISE[:, 0], num_steps=2).actions)
    observation = random_observation(config)
    moved = observation.proprioception + np.eye(config.proprioception_size, dtype=np.float32)[-1] * [[0], [0.01]]
    one, other = ask(observation), ask(dataclasses.replace(observation, proprioception=np.float32(moved)))
    np.testing.assert_allclose(one[0], other[0], **CLOSE)
    assert np.abs(one[1] - other[1]).max() > 1e-4


def test_what_goes_with_a_tower_that_locates_alone_is_refused_with_siglip():
    for fields, message in (
        ({"base_size": (28, 56)}, "base_size and base_crop go with vision 'points' alone"),
        ({"hands": 2}, "hands is 2, but there is no state token"),
        ({"vision": "points", "base_crop": (0.5, 0, 0.5, 1)}, "expected top < bottom, left < right"),
    ):
        with pytest.raises(ModelConfigError, match=message):
            dataclasses.replace(SMALL, **fields)


def test_the_prefix_computed_once_gives_the_losses_of_one_pass_over_prefix_and_actions(found):
    for _, joint, cached in found:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), joint, cached)


def test_a_model_with_the_token_begins_with_the_numbers_of_one_without_it():
    plain, more = (parameter_shapes(config) for config in (SMALL, TOKEN))
    assert set(more) - set(plain) == {"state_proj/kernel", "state_proj/bias"}
    assert more["state_proj/kernel"].shape == (TOKEN.action_dim, TOKEN.paligemma.width)

    def last(config):
        made = parameter_paths(Pi05(config, nnx.Rngs(0)))
        return [made[path] for path in ("action_out_proj/kernel", "progress_head/output/kernel")]

    jax.tree.map(np.testing.assert_array_equal, *(jax.jit(lambda c=c: last(c))() for c in (SMALL, TOKEN)))


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (TOKEN, None, "proprioception is missing; the model has a state token"),
        (TOKEN, np.zeros((2, 4), np.float32), r"proprioception is float32\[2, 4\]; expected float\[2, 5\]"),
        (TOKEN, np.full((2, 5), np.nan, np.float32), r"proprioception\[0, 0\] is nan"),
        (SMALL, np.zeros((2, 5), np.float32), "the model has no state token"),
    ],
)
def test_positions_that_are_missing_or_wrong_or_not_read_are_refused(config, given, message):
    observation = dataclasses.replace(random_observation(config), proprioception=given)
    with pytest.raises(ObservationError, match=message):
        random_model(config).draw(jax.random.key(0), observation, random_actions(config))


def test_several_draws_per_prefix_are_the_mean_of_as_many_losses_and_so_are_their_gradients():
    graph, parameters = nnx.split(random_model(SMALL))
    observation, actions = random_observation(SMALL, valid=[5, 8], labels=[0.2, 0.9]), random_actions(SMALL)

    def mean(parameters, several):
        model = nnx.merge(graph, parameters)
        if several:
            found = model.losses(observation, actions, NOISE, TIMES, 3).action
        else:
            drawn = NOISE.swapaxes(0, 1), TIMES.swapaxes(0, 1)
            found = jax.lax.map(lambda one: model.losses(observation, actions, *one, 3).action, drawn).mean(axis=0)
        return found.sum(), found

    programs = [jax.jit(jax.grad(lambda p, several=s: mean(p, several), has_aux=True)) for s in (True, False)]
    (ours, one_pass), (theirs, many) = (program(parameters) for program in programs)
    assert one_pass.shape == (2, SMALL.action_horizon)
    np.testing.assert_allclose(one_pass, many, **CLOSE)
    ours, theirs = parameter_leaves(ours), parameter_leaves(theirs)
    for path, gradient in ours.items():
        np.testing.assert_allclose(gradient, theirs[path], rtol=1e-3, atol=1e-4, err_msg=path)
    assert np.abs(ours["PaliGemma/img/embedding/kernel"]).max() > 1e-4  # the prefix learns, too


def parameter_leaves(state):
    return {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def test_the_first_of_several_draws_is_what_one_alone_would_be():
    model, observation, actions = random_model(SMALL), random_observation(SMALL), random_actions(SMALL)
    one, several = (model.draw(jax.random.key(5), observation, actions, flow_samples=n) for n in (1, 3))
    assert several.noise.shape == (2, 3, *actions.shape[1:]) and several.time.shape == (2, 3)
    np.testing.assert_array_equal(one.noise, several.noise[:, 0])
    np.testing.assert_array_equal(one.time, several.time[:, 0])
    assert len(np.unique(several.time)) == 6 and ((several.time > 0) & (several.time <= 1)).all()
    assert (np.std(several.noise, axis=1) > 0).all()
