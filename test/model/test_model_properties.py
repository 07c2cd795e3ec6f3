"""What must hold for any parameters and inputs of the model, whatever its sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import (
    QUICK,
    SMALL,
    compiled,
    random_actions,
    random_model,
    random_observation,
    with_random_parameters,
)

from pi05_progress.models.config import ModelConfigError, ProgressConfig
from pi05_progress.models.flow import time_steps
from pi05_progress.models.gemma import Attention, Embedder, RMSNorm
from pi05_progress.models.images import resize_with_pad, to_unit_range
from pi05_progress.models.parameters import parameter_paths
from pi05_progress.models.progress import ProgressHead, bin_centres, hl_gauss, pool, quantile
from pi05_progress.observation import IMAGE_KEYS
from pi05_progress.units.tokenizer import ByteEncoder, PromptTokenizer

CATEGORICAL = SMALL.with_progress("categorical")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
NOISE, TIME = random_actions(SMALL, seed=3), np.array([0.3, 0.8], np.float32)


def everything(model, observation, actions, noise, time):
    """All a caller can ask of a model: actions, belief, losses."""
    losses = model.compute_loss_with_progress(jax.random.key(0), observation, actions, noise=noise, time=time)
    return model.sample(observation, noise=noise, num_steps=3), losses.action


@pytest.fixture(scope="module")
def ask():
    """``everything`` of one model, compiled once per shape of the observation."""
    program = compiled(random_model(CATEGORICAL), everything)
    actions = random_actions(CATEGORICAL)

    def of(observation, rows=slice(None)):
        return program(observation, actions[rows], NOISE[rows], TIME[rows])

    return of


@pytest.fixture(scope="module")
def plain(ask):
    """An observation with one camera masked for the second sample, and what the model says to it."""
    observation = random_observation(CATEGORICAL, length=32, valid=[9, 5])
    observation.image_masks["right_wrist_0_rgb"][1] = False
    return observation, ask(observation)


def same(ours, theirs, rows=slice(None)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[rows], **CLOSE), ours, theirs)


def test_more_padding_of_the_text_changes_nothing(ask, plain):
    observation, answer = plain
    more = {
        "tokenized_prompt": np.pad(observation.tokenized_prompt, ((0, 0), (0, 8)), constant_values=9),
        "tokenized_prompt_mask": np.pad(observation.tokenized_prompt_mask, ((0, 0), (0, 8))),
    }
    same(ask(dataclasses.replace(observation, **more)), answer)


def test_a_masked_camera_may_show_anything(ask, plain):
    observation, answer = plain
    shown = dict(observation.images)
    shown["right_wrist_0_rgb"] = shown["right_wrist_0_rgb"].copy()
    shown["right_wrist_0_rgb"][1] = 255 - shown["right_wrist_0_rgb"][1]
    same(ask(dataclasses.replace(observation, images=shown)), answer)
    shown["right_wrist_0_rgb"][0] = 0  # and one that is there may not
    changed = ask(dataclasses.replace(observation, images=shown))
    assert np.abs(changed[0].actions - answer[0].actions)[0].max() > 1e-3


def test_a_camera_that_is_left_out_is_a_camera_that_is_masked(ask):
    masked = random_observation(CATEGORICAL, length=32, valid=20)
    masked.image_masks["left_wrist_0_rgb"][:] = False
    kept = [key for key in IMAGE_KEYS if key != "left_wrist_0_rgb"]
    left_out = dataclasses.replace(
        masked, images={k: masked.images[k] for k in kept}, image_masks={k: masked.image_masks[k] for k in kept}
    )
    same(ask(left_out), ask(masked))


def test_a_sample_alone_gets_what_it_gets_among_others(ask, plain):
    observation, answer = plain
    for row in range(2):
        rows = slice(row, row + 1)
        same(ask(jax.tree.map(lambda x, r=rows: x[r], observation), rows), answer, rows)


def test_a_bucketed_prompt_gives_what_the_longest_padding_gives(ask, plain):
    observation, _ = plain
    lengths, answers = [], []
    for bucketed in (True, False):
        tokenize = PromptTokenizer(ByteEncoder(), CATEGORICAL.max_token_len, bucketed)
        pairs = [tokenize(prompt) for prompt in ("stack the red cube", "unstack")]
        tokens, masks = (np.stack(parts) for parts in zip(*pairs, strict=True))
        lengths.append(tokens.shape[1])
        answers.append(ask(dataclasses.replace(observation, tokenized_prompt=tokens, tokenized_prompt_mask=masks)))
    assert lengths == [32, 40]
    same(*answers)


def test_modulations_computed_once_and_progress_alone_give_the_same(plain):
    """One program for both: compiling is what takes the time."""
    observation, answer = plain

    def other_ways(model, observation, noise):
        modulations = model.step_modulations(3)
        return model.sample(observation, noise=noise, num_steps=3, modulations=modulations), model.estimate_progress(
            observation
        )

    sample, belief = compiled(random_model(CATEGORICAL), other_ways)(observation, NOISE)
    same(sample, answer[0])
    same(belief, answer[0].progress)


def test_steps_of_the_sampler_add_up_in_float32():
    """The recorded samples tell these from rounded multiples of a tenth: an angle of the embedding is 1570 times."""
    np.testing.assert_array_equal(time_steps(10)[:4], np.float32([1.0, 0.9, 0.79999995, 0.6999999]))
    for count in (1, 3, 7, 10, 50):
        times = time_steps(count)
        assert (len(times), times.dtype, times[0]) == (count, np.float32, 1.0)
        assert times[-1] == pytest.approx(1 / count, rel=1e-4)


# --- progress ---


@functools.cache
def gradient_program():
    graph, parameters = nnx.split(random_model(SMALL))

    def loss(parameters, observation):
        model, actions = nnx.merge(graph, parameters), random_actions(SMALL)
        losses = model.compute_loss_with_progress(jax.random.key(0), observation, actions, noise=NOISE, time=TIME)
        return losses.progress.mean(), losses

    program = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)
    return lambda observation: program(parameters, observation)


def gradients(labels, counts):
    """Gradient of the mean progress loss by path, and the losses."""
    observation = dataclasses.replace(random_observation(SMALL, labels=labels), progress_mask=np.array(counts))
    found, losses = gradient_program()(observation)
    return {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(found)}, losses


def test_the_progress_loss_reaches_the_trunk_and_the_pictures_but_not_the_action_expert():
    found, losses = gradients([0.2, 0.9], [True, True])
    assert losses.progress.shape == (2,)
    for path in (
        "progress_head/hidden/kernel",
        "PaliGemma/llm/layers/attn/q_einsum/w",
        "PaliGemma/llm/layers/mlp/linear",
        "PaliGemma/llm/embedder/input_embedding",
        "PaliGemma/img/embedding/kernel",
    ):
        assert np.abs(found[path]).max() > 1e-6, path
    for path, gradient in found.items():
        if path.startswith(("action_", "time_")) or ("llm/" in path and "_1/" in path):
            assert not gradient.any(), path


@pytest.mark.parametrize("kind", ["scalar", "categorical"])
def test_both_losses_have_gradients_at_the_valid_tokens_alone(kind):
    head = with_random_parameters(lambda rngs: ProgressHead(ProgressConfig(kind, hidden=6, bins=10), 4, rngs))
    tokens = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 4), np.float32))
    mask = jnp.array([[1, 1, 0, 0, 1], [0, 1, 1, 1, 0]], bool)
    loss = jax.jit(jax.grad(lambda t: head.loss(head.logits(t, mask), jnp.array([0.2, 0.9])).sum()))
    np.testing.assert_array_equal(np.abs(loss(tokens)).max(axis=-1) > 0, mask)


def test_labels_that_do_not_count_have_no_effect_even_where_they_are_nan():
    found, losses = gradients([0.2, np.nan], [True, False])
    assert losses.progress[1] == 0
    assert losses.progress_mask.tolist() == [True, False]
    assert all(np.isfinite(gradient).all() for gradient in found.values())
    other, _ = gradients([0.2, 0.7], [True, False])
    for path, gradient in found.items():
        np.testing.assert_array_equal(gradient, other[path])


def test_a_model_without_a_head_and_data_without_labels_have_no_progress():
    headless = SMALL.with_progress("none")
    model = random_model(headless)
    assert not model.has_progress
    sample, losses = jax.eval_shape(
        lambda: (
            model.sample(random_observation(headless), noise=NOISE, num_steps=2),
            model.compute_loss_with_progress(
                jax.random.key(0), random_observation(headless, labels=[0, 1]), random_actions(headless)
            ),
        )
    )
    assert sample.progress is None
    assert (losses.progress, losses.progress_mask) == (None, None)
    with pytest.raises(ModelConfigError, match="no progress head"):
        model.estimate_progress(random_observation(headless))
    unlabelled = jax.eval_shape(
        lambda: random_model(SMALL).compute_loss_with_progress(
            jax.random.key(0), random_observation(SMALL), random_actions(SMALL)
        )
    )
    assert (unlabelled.progress, unlabelled.progress_mask) == (None, None)


@pytest.mark.parametrize("kind", ["scalar", "categorical"])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_progress_lies_between_0_and_1_for_any_logits(kind, size):
    head = with_random_parameters(lambda rngs: ProgressHead(ProgressConfig(kind, bins=10), 4, rngs))
    count = 1 if kind == "scalar" else 10
    belief = head.belief(jnp.asarray(size * np.random.default_rng(0).standard_normal((50, count), np.float32)))
    for values in (belief.mean, belief.lower, belief.upper):
        assert values is None or bool(((values >= 0) & (values <= 1)).all())
    if kind == "categorical":
        assert bool((belief.lower <= belief.upper).all())
        np.testing.assert_allclose(belief.bins.sum(axis=-1), 1, rtol=1e-5)


def test_the_head_has_the_parameters_of_its_two_layers():
    for kind, outputs in (("scalar", 1), ("categorical", 50)):
        shape = nnx.eval_shape(lambda kind=kind: ProgressHead(ProgressConfig(kind), 2048, nnx.Rngs(0)))
        assert (
            sum(np.prod(value.shape) for value in parameter_paths(shape).values())
            == 2048 * 256 + 256 + 256 * outputs + outputs
        )


def test_pooling_is_the_mean_of_valid_tokens_and_never_touches_the_others():
    tokens = np.random.default_rng(0).standard_normal((3, 5, 4), np.float32)
    mask = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
    spoilt = np.where(mask[..., None], tokens, np.nan)
    expected = np.stack([tokens[0, [0, 1, 3]].mean(axis=0), tokens[1, 4], np.zeros(4)])
    np.testing.assert_allclose(pool(jnp.asarray(spoilt), jnp.asarray(mask)), expected, atol=1e-6)
    gradient = jax.grad(lambda t: pool(t, jnp.asarray(mask)).sum())(jnp.asarray(spoilt))
    np.testing.assert_array_equal(gradient != 0, np.broadcast_to(mask[..., None], gradient.shape))


def test_pooling_and_the_head_are_float32_whatever_the_trunk_computes_in():
    tokens = jnp.ones((1, 300, 4), jnp.bfloat16) * 1.0078125  # a bfloat16 sum of 300 would lose the last digits
    mask = jnp.ones((1, 300), bool)
    assert pool(tokens, mask).dtype == jnp.float32
    np.testing.assert_allclose(pool(tokens, mask), 1.0078125, rtol=1e-6)
    head = with_random_parameters(lambda rngs: ProgressHead(ProgressConfig("scalar", hidden=3), 4, rngs))
    assert head.logits(tokens, mask).dtype == jnp.float32


@pytest.mark.parametrize("sigma", [0.02, 0.05])
def test_soft_targets_sum_to_one_and_have_the_labels_mean(sigma):
    targets = jnp.linspace(0, 1, 21)
    soft = hl_gauss(targets, 50, sigma)
    np.testing.assert_allclose(soft.sum(axis=-1), 1, rtol=1e-5)
    inside = (targets > 3 * sigma) & (targets < 1 - 3 * sigma)  # at the ends the distribution is cut
    np.testing.assert_allclose((soft @ bin_centres(50))[inside], targets[inside], atol=2e-4)
    assert bool((jnp.argmax(soft, axis=-1) == jnp.clip((targets * 50).astype(int), 0, 49)).mean() > 0.9)


def test_the_categorical_loss_is_least_where_the_belief_is_the_target():
    head = with_random_parameters(lambda rngs: ProgressHead(ProgressConfig("categorical", bins=20), 4, rngs))
    target = jnp.array([0.3])
    best = jnp.log(hl_gauss(target, 20, 2.0 / 20) + 1e-9)
    losses = [float(head.loss(jnp.roll(best, shift, axis=-1), target)[0]) for shift in (-2, -1, 0, 1, 2)]
    assert np.argmin(losses) == 2


def test_quantiles_of_known_distributions():
    uniform = jnp.full((1, 4), 0.25)
    for share in (0.0, 0.05, 0.5, 0.95, 1.0):
        np.testing.assert_allclose(quantile(uniform, share), share, atol=1e-6)
    lump = jnp.array([[0.0, 0.0, 1.0, 0.0]])  # all between 0.5 and 0.75
    np.testing.assert_allclose(quantile(lump, 0.5), 0.625, atol=1e-6)
    halves = jnp.array([[0.5, 0.0, 0.0, 0.5]])
    np.testing.assert_allclose([quantile(halves, s)[0] for s in (0.25, 0.75)], [0.125, 0.875], atol=1e-6)


# --- precision and masks, as openpi has them ---


def test_a_row_without_any_valid_key_attends_evenly_to_all_keys():
    attention = with_random_parameters(lambda rngs: Attention((SMALL.paligemma, SMALL.expert), rngs, ()))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, SMALL.paligemma.width), np.float32))
    mask = jnp.ones((1, 6, 6), bool).at[0, 4].set(False)
    (attended, _), (_, v) = jax.jit(lambda x: attention([x, None], jnp.arange(6)[None], mask, None))(x)
    even = jnp.broadcast_to(v[0].mean(axis=0), (SMALL.paligemma.num_heads, SMALL.paligemma.head_dim))
    expected = jnp.einsum("nh,nhd->d", even, attention.attn_vec_einsum.w[...])
    np.testing.assert_allclose(attended[0, 4], expected, atol=1e-5)
    assert bool(jnp.isfinite(attended).all())


def test_in_bfloat16_a_step_is_rounded_before_it_is_added_to_float32_actions():
    config = dataclasses.replace(SMALL, compute_dtype="bfloat16")
    model = random_model(config, dtype=jnp.bfloat16)

    def step(model, observation, x_t):
        prefix, modulation = model.prefix_pass(observation), model.modulation(jnp.array([0.5]))
        return model.velocity(x_t, modulation, prefix), model.denoise_step(prefix, x_t, modulation, 10)

    strict = QUICK | {"xla_allow_excess_precision": False}  # else the compiler may keep the digits that bfloat16 drops
    velocity, after = compiled(model, step, strict)(random_observation(config), NOISE)
    assert (velocity.dtype, after.dtype) == (jnp.bfloat16, jnp.float32)
    rounded = (jnp.asarray(-0.1, jnp.bfloat16) * velocity).astype(jnp.float32)
    np.testing.assert_array_equal(after, NOISE + rounded)
    assert np.abs(after - (NOISE - 0.1 * np.asarray(velocity, np.float32))).max() > 1e-5


def test_with_bfloat16_parameters_norm_scales_and_the_embedding_factor_are_bfloat16():
    norm = RMSNorm(4)
    norm.scale.set_value(jnp.full(4, 1e-3, jnp.bfloat16))  # 1.001 is 1 in bfloat16
    x = jnp.array([[[1.0, -1.0, 1.0, -1.0]]])
    np.testing.assert_allclose(norm(x)[0], x, rtol=1e-5)
    norm.scale.set_value(jnp.full(4, 1e-3))
    np.testing.assert_allclose(norm(x)[0], 1.001 * x, rtol=1e-5)
    embedder = with_random_parameters(lambda rngs: Embedder(3, 2047, rngs))  # its root, 45.244, is 45.25 in bfloat16
    embedder.input_embedding.set_value(jnp.ones((3, 2047), jnp.bfloat16))
    assert float(embedder(jnp.array([[0]]))[0, 0, 0]) == 45.25
    embedder.input_embedding.set_value(jnp.ones((3, 2047)))
    assert float(embedder(jnp.array([[0]]))[0, 0, 0]) == pytest.approx(2047**0.5)


def test_pictures_of_another_size_are_scaled_before_they_are_resized():
    """Resizing uint8 would round to whole levels, which openpi's model does not."""
    picture = np.random.default_rng(0).integers(0, 256, (1, 50, 37, 3), np.uint8)
    observation = random_observation(SMALL, batch=1)
    observation.images["base_0_rgb"] = picture
    prepared = random_model(SMALL).prepare_images(observation)["base_0_rgb"]
    expected = resize_with_pad(to_unit_range(jnp.asarray(picture)), 28, 28)
    np.testing.assert_allclose(prepared, expected, atol=1e-6)
    assert float(prepared.min()) == -1.0  # the padding
    levels = np.asarray((prepared + 1) / 2 * 255)
    assert np.abs(levels - levels.round()).max() > 0.1


def test_the_state_is_not_read_by_the_network(ask, plain):
    observation, answer = plain
    same(ask(dataclasses.replace(observation, state=-observation.state)), answer)
