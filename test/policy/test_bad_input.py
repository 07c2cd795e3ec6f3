"""Input that cannot be used gets an error that names the field and the remedy, and nothing is compiled before it."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import ADAPTED, SMALL, random_actions, random_model, random_observation

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointError
from pi05_progress.checkpoints.description import CheckpointInfo, config_from_dict
from pi05_progress.make_policy import make_policy
from pi05_progress.models.config import ModelConfigError, config_to_dict, named_config
from pi05_progress.models.observation import check_observation
from pi05_progress.models.pi05 import Pi05
from pi05_progress.observation import IMAGE_KEYS, ObservationError, RobotFrame
from pi05_progress.policies.model_policy import Pi05Policy
from pi05_progress.policy import PolicyOptions
from pi05_progress.robots.layout import LayoutError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import NormStats
from pi05_progress.units.tokenizer import ByteEncoder, PromptError, PromptTokenizer

PROFILE = RobotProfile.load("teleavatar")
GOOD = random_observation(SMALL, labels=[0.0, 1.0])
BASE = "base_0_rgb"


@pytest.fixture
def nothing_compiles(caplog):
    """Fails the test if JAX compiles a program while it runs."""
    with caplog.at_level(logging.WARNING, logger="jax"), jax.log_compiles():
        yield
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()]
    assert not compiled


def with_image(image):
    return dataclasses.replace(GOOD, images=GOOD.images | {BASE: image})


def spoilt(array, where, value):
    array = np.array(array)
    array[where] = value
    return array


FLOAT = np.zeros((2, 28, 28, 3), np.float32)
BAD = {
    "image dtype": (with_image(FLOAT.astype(np.float64)), r"images\[base_0_rgb\] is float64\[2, 28, 28, 3\].*uint8"),
    "image shape": (
        with_image(np.zeros((2, 3, 28, 28), np.uint8)),
        r"uint8\[2, 3, 28, 28\]; expected .*\(2, h, w, 3\)",
    ),
    "image batch": (with_image(np.zeros((3, 28, 28, 3), np.uint8)), r"images\[base_0_rgb\] is uint8\[3, 28"),
    "no pixels": (with_image(np.zeros((2, 0, 28, 3), np.uint8)), r"uint8\[2, 0, 28, 3\]"),
    "image range": (
        with_image(FLOAT + 255),
        r"values from 255\.0 to 255\.0; .*\[-1, 1\]; pictures in \[0, 255\].*uint8",
    ),
    "image nan": (with_image(spoilt(FLOAT, (1, 3, 3, 0), np.nan)), r"images\[base_0_rgb\]: values from nan to nan"),
    "no camera": (dataclasses.replace(GOOD, images={}), r"images are of no camera; .*at least one"),
    "unknown camera": (
        dataclasses.replace(GOOD, images={"top": GOOD.images[BASE]}),
        r"images are of top; .*base_0_rgb",
    ),
    "no image mask": (dataclasses.replace(GOOD, image_masks={}), r"image_masks: base_0_rgb is missing"),
    "mask dtype": (
        dataclasses.replace(GOOD, image_masks={k: np.ones(2, np.int32) for k in IMAGE_KEYS}),
        r"image_masks\[base_0_rgb\] is int32\[2\]; expected bool\[2\]",
    ),
    "state size": (
        dataclasses.replace(GOOD, state=np.zeros((2, 14), np.float32)),
        r"state is float32\[2, 14\]; expected float\[2, 5\]; normalise it, then pad it with zeros",
    ),
    "state nan": (dataclasses.replace(GOOD, state=spoilt(GOOD.state, (1, 3), np.nan)), r"state\[1, 3\] is nan"),
    "state infinite": (dataclasses.replace(GOOD, state=spoilt(GOOD.state, (0, 0), np.inf)), r"state\[0, 0\] is inf"),
    "empty prompt": (
        dataclasses.replace(GOOD, tokenized_prompt_mask=spoilt(GOOD.tokenized_prompt_mask, 1, False)),
        r"no valid token in sample 1; the prompt is empty",
    ),
    "long prompt": (random_observation(SMALL, length=41), r"tokenized_prompt has 41 tokens; the model takes 1 to 40"),
    "no tokens": (random_observation(SMALL, length=0), r"tokenized_prompt has 0 tokens"),
    "prompt dtype": (
        dataclasses.replace(GOOD, tokenized_prompt=GOOD.tokenized_prompt.astype(np.float32)),
        r"tokenized_prompt is float32\[2, 8\]; expected int32",
    ),
    "other tokenizer": (
        dataclasses.replace(GOOD, tokenized_prompt=GOOD.tokenized_prompt + 1000),
        r"tokenized_prompt: ids from \d+ to \d+; the vocabulary has 259",
    ),
    "prompt mask": (
        dataclasses.replace(GOOD, tokenized_prompt_mask=np.ones((2, 7), bool)),
        r"tokenized_prompt_mask is bool\[2, 7\]; expected bool\[2, 8\]",
    ),
    "label range": (dataclasses.replace(GOOD, progress=np.float32([0.5, 1.5])), r"progress: labels from 0\.5 to 1\.5"),
    "label nan": (dataclasses.replace(GOOD, progress=np.float32([0.5, np.nan])), r"progress: labels from nan"),
    "label shape": (
        dataclasses.replace(GOOD, progress=np.zeros((2, 1), np.float32)),
        r"progress is float32\[2, 1\]; expected float\[2\]",
    ),
    "no label mask": (dataclasses.replace(GOOD, progress_mask=None), r"progress_mask is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_model_refuses(name, nothing_compiles):
    observation, message = BAD[name]
    model = nnx.eval_shape(lambda: Pi05(SMALL, nnx.Rngs(0)))  # a shape is enough: nothing is computed
    noise = random_actions(SMALL)
    with pytest.raises(ObservationError, match=message):
        model.sample(observation, noise=noise)
    with pytest.raises(ObservationError, match=message):
        model.estimate_progress(observation)
    with pytest.raises(ObservationError, match=message):
        model.compute_loss_with_progress(None, observation, noise)


def test_what_is_good_is_not_refused():
    check_observation(SMALL, GOOD)
    check_observation(SMALL, with_image(np.clip(FLOAT + 2, -1, 1)))
    fewer = {BASE: GOOD.images[BASE]}
    check_observation(SMALL, dataclasses.replace(GOOD, images=fewer, progress=None, progress_mask=None))
    unlabelled = dataclasses.replace(GOOD, progress=np.float32([np.nan, 1]), progress_mask=np.array([False, True]))
    check_observation(SMALL, unlabelled)
    check_observation(SMALL, jax.tree.map(jnp.asarray, GOOD))


@pytest.mark.parametrize("name", ["image shape", "state size", "long prompt", "label shape"])
def test_a_compiled_program_refuses_shapes_and_dtypes_while_it_is_traced(name):
    observation, message = BAD[name]
    model = random_model(SMALL)
    with pytest.raises(ObservationError, match=message):
        jax.jit(lambda o: model.estimate_progress(o).mean).lower(observation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"actions": np.zeros((2, 9, 5), np.float32)},
            r"actions is float32\[2, 9, 5\]; expected float\[2, 3, 5\]; the hor",
        ),
        ({"actions": np.zeros((2, 3, 4), np.float32)}, r"actions is float32\[2, 3, 4\].*padded with zeros"),
        ({"actions": np.full((2, 3, 5), np.nan, np.float32)}, r"actions\[0, 0, 0\] is nan"),
        ({"noise": np.zeros((2, 4, 5), np.float32)}, r"noise is float32\[2, 4, 5\]"),
        ({"time": np.zeros(3, np.float32)}, r"time is float32\[3\]; expected float\[2\]"),
        ({"time": np.float32([0.0, 0.5])}, r"time: values from 0\.0 to 0\.5; expected \(0, 1\]"),
    ],
)
def test_another_horizon_or_width_is_refused(change, message):
    model = nnx.eval_shape(lambda: Pi05(SMALL, nnx.Rngs(0)))
    given = {"actions": random_actions(SMALL), "noise": random_actions(SMALL), "time": np.float32([0.5, 0.5])} | change
    with pytest.raises(ObservationError, match=message):
        model.compute_loss_with_progress(jax.random.key(0), GOOD, **given)


def test_noise_of_another_horizon_is_refused_by_sampling():
    model = nnx.eval_shape(lambda: Pi05(SMALL, nnx.Rngs(0)))
    with pytest.raises(ObservationError, match=r"noise is float32\[2, 4, 5\]; expected float\[2, 3, 5\]; the horizon"):
        model.sample(GOOD, noise=np.zeros((2, 4, 5), np.float32))
    with pytest.raises(ValueError, match="needs a key"):
        model.sample(GOOD)


# --- configurations ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compute_dtype": "float16"}, "compute_dtype 'float16' is unknown; known: float32, bfloat16"),
        ({"action_horizon": 0}, "action_horizon is 0; expected at least 1"),
        ({"image_size": (30, 28)}, r"image_size \(30, 28\) is not a multiple of the patch, 14"),
        ({"expert": dataclasses.replace(SMALL.expert, depth=3)}, "depth differs between the experts: 2 and 3"),
    ],
)
def test_configurations_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ModelConfigError, match=message):
        dataclasses.replace(SMALL, **change)


def test_unknown_configurations_and_heads_are_refused_with_those_there_are():
    with pytest.raises(ModelConfigError, match="unknown model configuration 'pi06'; known: pi05, pi05_lora, tiny, mid"):
        named_config("pi06")
    with pytest.raises(ModelConfigError, match="unknown model configuration 'huge'"):
        make_policy(PROFILE, PolicyOptions(model="huge"))
    with pytest.raises(ModelConfigError, match=r"progress\.kind 'linear' is unknown; known: none, scalar, categorical"):
        SMALL.with_progress("linear")
    with pytest.raises(ModelConfigError, match="at least 2"):
        dataclasses.replace(SMALL.progress, bins=1)


def test_a_configuration_survives_its_dictionary_and_unknown_fields_are_refused():
    assert config_from_dict(config_to_dict(ADAPTED)) == ADAPTED
    with pytest.raises(ModelConfigError, match="layers: unknown key"):
        config_from_dict(config_to_dict(SMALL) | {"layers": 3})
    with pytest.raises(ModelConfigError, match=r"siglip\.depth: .*valid integer.*found 'many'"):
        config_from_dict(config_to_dict(SMALL) | {"siglip": config_to_dict(SMALL)["siglip"] | {"depth": "many"}})
    with pytest.raises(ModelConfigError, match="paligemma"):
        config_from_dict({k: v for k, v in config_to_dict(SMALL).items() if k != "paligemma"})


@pytest.mark.parametrize(("written", "means"), [(True, "layers"), (False, "none")])
def test_older_files_say_of_remat_only_whether(written, means):
    assert config_from_dict(config_to_dict(SMALL) | {"remat": written}).remat == means


# --- the policy ---

WIDE = dataclasses.replace(SMALL, action_dim=16, max_token_len=120)


def make(config=WIDE, stats=None):
    return Pi05Policy(Checkpoint(CheckpointInfo(config), random_model(config), stats or {}), PROFILE)


def frame(state=None, **images):
    pictures = {key: np.zeros((12, 16, 3), np.uint8) for key in PROFILE.cameras} | images
    return RobotFrame(pictures, np.zeros(48, np.float32) if state is None else state)


@pytest.fixture(scope="module")
def policy():
    return make()


@pytest.mark.parametrize(
    ("given", "prompt", "message"),
    [
        (frame(), "", "the prompt is empty: no task is set"),
        (frame(), " _\n", "the prompt is empty"),
        (
            frame(),
            "stack " * 20,
            r"the prompt with the state has \d+ tokens, the model takes 120: shorten 'stack stack",
        ),
        (frame(head_camera=np.zeros((12, 16, 3), np.float32)), "stack", r"picture head_camera is float32\[12, 16, 3\]"),
        (
            frame(head_camera=np.zeros((12, 16), np.uint8)),
            "stack",
            r"picture head_camera is uint8\[12, 16\]; .*\(h, w, 3\)",
        ),
        (frame(spoilt(np.zeros(48, np.float32), 2, np.nan)), "stack", r"state\[0, 2\] is nan"),
        (RobotFrame({}, np.zeros(48, np.float32)), "stack", "images are of no camera"),
    ],
)
def test_the_policy_refuses(policy, nothing_compiles, given, prompt, message):
    with pytest.raises(ObservationError, match=message):
        policy.infer(given, prompt)


def test_the_policy_refuses_a_state_of_another_size(policy, nothing_compiles):
    with pytest.raises(LayoutError, match="state has 14 numbers on its last axis, the robot's layouts have 48 or 62"):
        policy.infer(frame(np.zeros(14, np.float32)), "stack")


def statistics(state=14, actions=16):
    sized = {"state": state, "actions": actions}
    return {key: NormStats(np.zeros(n), np.ones(n), -np.ones(n), np.ones(n)) for key, n in sized.items() if n}


@pytest.mark.parametrize(
    ("config", "stats", "message"),
    [
        (SMALL, {}, "the model has 5 action dimensions, the robot needs 16"),
        (WIDE, statistics(state=7), "the statistics of state have 7 numbers, the robot has 14"),
        (WIDE, statistics(actions=0), "the statistics lack actions; they have state"),
        (WIDE, statistics(actions=40), "the statistics do not fit: 40 statistics where there are 16"),
        (WIDE, statistics() | {"state": NormStats(np.zeros(14), np.ones(14))}, "no quantiles"),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_robot_is_refused_when_it_is_loaded(config, stats, message):
    with pytest.raises(CheckpointError, match=message):
        make(config, stats)


def test_openpi_cuts_long_prompts_and_so_does_the_tokenizer_unless_told_otherwise(caplog):
    tokens, mask = PromptTokenizer(ByteEncoder(), 40)("stack " * 10)
    assert (len(tokens), mask.sum()) == (40, 40)
    assert "61 tokens and is cut to 40" in caplog.text
    with pytest.raises(PromptError, match="the prompt has 61 tokens, the model takes 40: shorten 'stack"):
        PromptTokenizer(ByteEncoder(), 40, cut=False)("stack " * 10)
