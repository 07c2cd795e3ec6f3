"""One optimiser step: what is minimised, what changes, and what is logged."""

import dataclasses

import jax
import numpy as np
import pytest
from small_models import ADAPTED, SMALL, random_model
from training_cases import (
    FAST,
    PLAIN,
    Run,
    bits,
    changed,
    made_up_batch,
    quick_compiling,
    source_of,
    train_step,
    without_head,
)

from pi05_progress.checkpoints.checkpoint_error import CheckpointError
from pi05_progress.errors import UserError
from pi05_progress.models.config import ModelConfigError
from pi05_progress.models.parameters import parameter_paths
from training.engine.loss import LossConfig, Part, shares, total_loss
from training.engine.optimizer import OptimizerConfig, learning_rate
from training.engine.sharding import put_batch
from training.engine.state import parameters_in_use, with_parameters


@pytest.fixture(autouse=True, scope="module")
def quick():
    with quick_compiling():
        yield


@pytest.fixture(scope="module")
def everything():
    """A run of everything with the standard loss, and its metrics of one step on the standard batch."""
    run = Run()
    before = run.parameters()
    return run, before, run(made_up_batch())


def test_the_loss_is_that_of_actions_plus_a_tenth_of_that_of_progress(everything):
    metrics = everything[2]
    assert metrics["progress_loss"] > 0.01
    assert metrics["loss"] == pytest.approx(metrics["action_loss"] + 0.1 * metrics["progress_loss"], rel=1e-6)
    assert metrics["labelled"] == pytest.approx(5 / 8)


def test_progress_is_averaged_over_labelled_frames_alone():
    batch = made_up_batch()
    kept = batch.observation.progress_mask
    spoilt = changed(batch, progress=np.where(kept, batch.observation.progress, np.float32(0.123)))
    run = Run()
    each = run.losses(batch).progress
    loss = run(batch)["progress_loss"]
    assert loss == pytest.approx(each[kept].mean(), rel=1e-5)
    assert Run()(spoilt)["progress_loss"] == loss


def test_without_labels_the_loss_is_exactly_that_of_a_model_without_the_head():
    model = random_model(SMALL)
    parameters, unlabelled = parameter_paths(model), made_up_batch(labels=False)
    with_head = loss_function(SMALL, PLAIN)(parameters, unlabelled, KEY)
    without = loss_function(without_head(SMALL), PLAIN)(
        {path: value for path, value in parameters.items() if not path.startswith("progress_head/")}, unlabelled, KEY
    )
    assert with_head == without


@pytest.mark.long
def test_without_labels_all_numbers_are_exactly_those_of_a_model_without_the_head():
    parameters = source_of(random_model(without_head(SMALL)))
    plain, with_head = Run(without_head(SMALL), source=parameters), Run(source=parameters)
    unlabelled = made_up_batch(labels=False)
    for _ in range(2):
        expected, found = plain(unlabelled), with_head(unlabelled)
        assert "progress_loss" not in found
        for name in ("loss", "action_loss", "grad_norm", "grad_norm/vision", "grad_norm/language"):
            assert found[name] == expected[name], name
    ours = with_head.parameters()
    for path, value in plain.parameters().items():
        assert bits(value) == bits(ours[path]), path


def loss_function(config, loss, action_size=None):
    """What is minimised, of parameters, a batch and the key that noise and times are drawn with."""

    @jax.jit
    def total(parameters, batch, key):
        model = with_parameters(config, parameters)
        drawn = model.draw(key, batch.observation, batch.actions)
        weights = shares(loss, batch.action_weight, batch.action_is_pad, batch.observation.progress_mask)
        return total_loss(model, Part(drawn, batch.actions, weights), loss, action_size)[0]

    return lambda parameters, batch, key: float(total(parameters, batch, key))


KEY = jax.random.key(3)
HEAD_LEAVES = ("hidden/bias", "hidden/kernel", "output/bias", "output/kernel")


def test_a_batch_whose_labels_all_do_not_count_trains_actions_alone():
    batch = made_up_batch()
    run = Run()
    head = {p: v for p, v in run.parameters().items() if p.startswith("progress_head/")}
    metrics = run(changed(batch, progress_mask=np.zeros(8, bool)))
    assert metrics["labelled"] == metrics["progress_loss"] == metrics["grad_norm/progress_head"] == 0
    assert metrics["loss"] == metrics["action_loss"]
    for path, value in head.items():
        np.testing.assert_allclose(run.parameters()[path], value, rtol=1e-6)


def test_gradient_norms_of_groups_make_up_the_whole(everything):
    metrics = everything[2]
    groups = [
        metrics[f"grad_norm/{g}"] for g in ("vision", "language", "action_expert", "progress_head", "projections")
    ]
    assert min(groups) > 0
    assert np.sqrt(np.sum(np.square(groups))) == pytest.approx(metrics["grad_norm"], rel=1e-5)


def test_every_parameter_moves_and_the_average_follows(everything):
    run, before, _ = everything
    after = run.parameters()
    still = [path for path in after if bits(after[path]) == bits(before[path])]
    assert not still
    for path, average in run.state.ema_params.items():
        expected = np.float32(0.9) * before[path] + np.float32(0.1) * after[path]
        np.testing.assert_allclose(np.asarray(average), expected, rtol=1e-5, atol=1e-7)


def test_padded_dimensions_and_repeated_steps_can_be_left_out_of_the_loss():
    pad = np.zeros((8, SMALL.action_horizon), bool)
    pad[0, 1:] = pad[3, 2:] = True
    batch = changed(made_up_batch(), action_is_pad=pad, progress_mask=np.zeros(8, bool))  # of actions alone
    run = Run()
    parameters, key = run.parameters(), jax.random.fold_in(run.rng, 0)
    of_all, of_three = run.losses(batch).action, run.losses(batch, action_size=3).action
    assert not np.allclose(of_all, of_three)
    found = loss_function(SMALL, LossConfig(ignore_padded_steps=True), 3)(parameters, batch, key)
    assert found == pytest.approx(of_three[~pad].mean(), rel=1e-5)
    counted = shares(PLAIN, batch.action_weight, pad, None).action
    assert (np.asarray(counted) * of_all).sum() == pytest.approx(of_all.mean(), rel=1e-6)


def test_rows_whose_actions_do_not_count_are_left_out_but_their_progress_is_not():
    weight = np.array([1, 1, 0, 1, 1, 1, 1, 0], np.float32)
    batch = changed(made_up_batch(), action_weight=weight)
    run = Run()
    each, metrics = run.losses(batch), run(batch)
    assert metrics["action_loss"] == pytest.approx(each.action[weight > 0].mean(), rel=1e-5)
    labelled = batch.observation.progress_mask
    assert metrics["progress_loss"] == pytest.approx(each.progress[labelled].mean(), rel=1e-5)


LONG = pytest.param(True, marks=pytest.mark.long)


@pytest.mark.parametrize("augment", [False, LONG])
def test_accumulation_gives_the_large_batch_s_step_also_with_unevenly_labelled_pieces(augment):
    pad = np.zeros((8, SMALL.action_horizon), bool)
    pad[:2, 1:] = True
    # rows of the four pieces: (0, 4), (1, 5), (2, 6), (3, 7); they have two labels, none, one and none
    labelled = np.array([1, 0, 0, 0, 1, 0, 1, 0], bool)
    batch = changed(made_up_batch(), action_is_pad=pad, progress_mask=labelled)
    large, small = (Run(optimizer=dataclasses.replace(FAST, accumulation_steps=n), augment=augment) for n in (1, 4))
    assert small(batch) == pytest.approx(large(batch), rel=2e-5)
    for path, theirs in gradients(large).items():
        ours = gradients(small)[path]
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * abs(theirs).max() + 1e-9, err_msg=path)


def gradients(run):
    """Of a run's first step, clipped, times ``1 - b1``: the optimiser's first moving average."""
    (average,) = (
        state.mu
        for state in jax.tree.leaves(run.state.opt_state, is_leaf=lambda s: hasattr(s, "mu"))
        if hasattr(state, "mu")
    )
    return {path: np.asarray(value) for path, value in average.items()}


def test_the_same_step_draws_the_same_numbers_and_another_one_others(everything):
    first = everything[2]
    assert Run()(made_up_batch()) == first
    assert Run(seed=1)(made_up_batch())["action_loss"] != first["action_loss"]
    later = Run()
    later.state = dataclasses.replace(later.state, step=later.state.step + 1)
    assert later(made_up_batch())["action_loss"] != first["action_loss"]


def adapters():
    return Run(ADAPTED, dataclasses.replace(FAST, ema_decay=None), trained="adapters")


def test_what_adapters_stand_beside_is_frozen_in_bfloat16_without_a_state_of_the_optimiser():
    run = adapters()
    assert run.state.frozen and all(p.startswith("PaliGemma/llm") and "lora" not in p for p in run.state.frozen)
    assert not any(p.startswith("PaliGemma/llm") and "lora" not in p for p in run.state.params)
    assert {str(value.dtype) for value in run.state.frozen.values()} == {"bfloat16"}
    assert {str(value.dtype) for value in run.state.params.values()} == {"float32"}
    assert optimizer_leaves(run) == 2 * len(run.state.params)


@pytest.mark.long
def test_only_adapters_and_what_openpi_trains_beside_them_change():
    run = adapters()
    before = {path: bits(value) for path, value in run.state.frozen.items()}
    trained = {path: bits(value) for path, value in run.state.params.items()}
    for _ in range(3):
        metrics = run(made_up_batch())
    assert before == {path: bits(value) for path, value in run.state.frozen.items()}
    assert all(bits(value) != trained[path] for path, value in run.state.params.items())
    assert metrics["grad_norm/action_expert"] > 0


def optimizer_leaves(run):
    """Arrays of the optimiser's state without its counters."""
    return sum(leaf.ndim > 0 for leaf in jax.tree.leaves(run.state.opt_state))


def test_training_the_head_leaves_every_other_parameter_bit_for_bit():
    run = Run(trained="head")
    start = {path: bits(value) for path, value in run.parameters().items()}
    losses = [run(made_up_batch())["progress_loss"] for _ in range(4)]
    end = run.parameters()
    assert sorted(run.state.params) == [f"progress_head/{name}" for name in HEAD_LEAVES]
    moved = {path for path in end if bits(end[path]) != start[path]}
    assert moved == set(run.state.params)
    assert optimizer_leaves(run) == 2 * len(HEAD_LEAVES)
    assert losses[-1] < losses[0]


def test_training_the_head_computes_no_gradient_of_the_trunk():
    run, batch = Run(trained="head"), made_up_batch()

    def losses(parameters):
        model = with_parameters(SMALL, parameters)
        drawn = model.draw(jax.random.key(0), batch.observation, batch.actions)
        return model.losses(drawn.observation, batch.actions, drawn.noise, drawn.time)

    forward = jax.make_jaxpr(losses)({**run.state.params, **run.state.frozen})
    step = run.step.trace(run.state, run.rng, batch).jaxpr
    assert products(step.jaxpr) <= products(forward.jaxpr) + 4  # the head's two layers: weights and their input
    everything = train_step(SMALL, FAST, PLAIN, trained="everything", freeze=(), augment=False, action_size=None)
    state = Run().state
    assert products(everything.trace(state, run.rng, batch).jaxpr.jaxpr) > 2 * products(forward.jaxpr)


def products(jaxpr):
    """Matrix products in a program."""
    inner = [
        v for e in jaxpr.eqns for value in e.params.values() for v in (value if isinstance(value, tuple) else (value,))
    ]
    found = [getattr(value, "jaxpr", value) for value in inner]
    return sum(e.primitive.name == "dot_general" for e in jaxpr.eqns) + sum(
        products(value) for value in found if hasattr(value, "eqns")
    )


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
def test_both_losses_fall_on_made_up_data(seed):
    run = Run(source=None, seed=seed)
    held_out = made_up_batch(seed=1000 + seed)

    def validate():
        keys = jax.random.split(jax.random.key(5), 8)
        losses = [run.losses(held_out, key) for key in keys]
        labelled = held_out.observation.progress_mask
        return np.mean([loss.action for loss in losses]), np.mean([loss.progress[labelled] for loss in losses])

    before = validate()
    for index in range(120):
        run(made_up_batch(seed=1000 * seed + index))
    after = validate()
    assert after[0] < 0.7 * before[0]
    assert after[1] < 0.4 * before[1]


def test_a_checkpoint_that_does_not_fit_is_refused_and_says_what_is_wrong():
    other = dataclasses.replace(SMALL, action_dim=6)
    with pytest.raises(CheckpointError, match=r"training cannot start from this checkpoint.*action_in_proj"):
        Run(other, source=source_of(random_model(SMALL)))
    categorical = SMALL.with_progress("categorical")
    with pytest.raises(CheckpointError, match="progress_head/output"):
        Run(categorical, source=source_of(random_model(SMALL)))


def test_a_head_that_the_model_does_not_have_is_left_out():
    run = Run(without_head(SMALL), source=source_of(random_model(SMALL)))
    assert run.started.unused == [f"progress_head/{name}" for name in HEAD_LEAVES]
    assert not any(path.startswith("progress_head/") for path in run.parameters())


def test_a_state_token_that_the_base_checkpoint_lacks_starts_at_random():
    run = Run(dataclasses.replace(SMALL, state_token=True), source=source_of(random_model(SMALL)))
    assert sorted(run.started.initialised) == ["state_proj/bias", "state_proj/kernel"]
    with pytest.raises(CheckpointError, match=r"not known: 2 \(state_proj"):
        Run(SMALL, source=source_of(random_model(dataclasses.replace(SMALL, state_token=True))))


def test_adapters_of_a_base_checkpoint_start_at_random():
    run = Run(ADAPTED, trained="adapters", source=source_of(random_model(SMALL)))
    assert run.started.initialised and all("lora" in path for path in run.started.initialised)
    base = source_of(random_model(SMALL))
    path = "PaliGemma/img/head/kernel"
    assert bits(run.state.params[path]) == bits(base.read(path))


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ModelConfigError, match="no head"):
        Run(without_head(SMALL), trained="head")
    with pytest.raises(ModelConfigError, match="has none: see pi05_lora"):
        Run(trained="adapters")
    with pytest.raises(UserError, match="no progress labels"):
        Run(trained="head")(made_up_batch(labels=False))
    with pytest.raises(UserError, match=r"1 devices times optimizer\.accumulation_steps 3"):
        Run(optimizer=dataclasses.replace(FAST, accumulation_steps=3))(made_up_batch())
    with pytest.raises(UserError, match="have 6 numbers; expected 1 to 5"):
        Run(loss=LossConfig(ignore_padded_dims=True), action_size=6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schedule", "linear"),
        ("peak_learning_rate", 0.0),
        ("peak_learning_rate", float("nan")),
        ("warmup_steps", -1),
        ("decay_steps", 1000),
        ("b2", 1.0),
        ("ema_decay", 1.0),
        ("clip_norm", 0.0),
        ("accumulation_steps", 0),
    ],
)
def test_an_optimiser_that_makes_no_sense_is_refused_by_the_field_s_name(field, value):
    with pytest.raises(UserError, match=f"optimizer.{field}"):
        OptimizerConfig(**{field: value})
    with pytest.raises(UserError, match=r"loss\.progress_weight"):
        LossConfig(progress_weight=-0.1)


def test_the_learning_rate_warms_up_and_then_stays_or_falls():
    constant = learning_rate(OptimizerConfig(schedule="constant", peak_learning_rate=1e-3, warmup_steps=4))
    assert [float(constant(s)) for s in (0, 4, 100_000)] == pytest.approx([2e-4, 1e-3, 1e-3])
    assert float(constant(2)) == pytest.approx(6e-4)
    at_once = learning_rate(OptimizerConfig(schedule="cosine", peak_learning_rate=1e-3, warmup_steps=0, decay_steps=10))
    assert float(at_once(0)) == pytest.approx(1e-3)
    assert float(at_once(10)) == pytest.approx(2.5e-6)


def test_parameters_frozen_by_pattern_stay_as_they_are_and_have_no_optimiser_state():
    run = Run(freeze=("PaliGemma/img/.*", "action_out_proj/bias"))
    before, state = run.parameters(), run.state
    frozen = {path for path in before if path.startswith("PaliGemma/img/")} | {"action_out_proj/bias"}
    assert set(state.frozen) == frozen
    assert not any(path in jax.tree_util.keystr(place) for place, _ in jax.tree_util.tree_leaves_with_path(
        (state.params, state.opt_state, state.ema_params)) for path in frozen)  # fmt: skip
    used = parameters_in_use(state)
    assert all(bits(used[path]) == bits(before[path]) for path in frozen)
    arguments = (state, run.rng, put_batch(run.mesh, made_up_batch()))
    step = run.step.trace(*arguments)  # compiling it would take long and say no more
    given, made = variables(arguments, step.jaxpr.jaxpr.invars), variables(step.out_info, step.jaxpr.jaxpr.outvars)
    same = {place for place, variable in made.items() if given.get(place) is variable}
    assert same == {f"[0].frozen[{path!r}]" for path in frozen}
    metrics = step.out_info[1]
    assert "grad_norm/vision" not in metrics and "grad_norm/language" in metrics


def variables(tree, found):
    """A program's variables by the places of what they are."""
    places = [jax.tree_util.keystr(place) for place, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return dict(zip(places, found, strict=True))


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("PaliGemma/image/.*", r"'PaliGemma/image/\.\*' matches the whole path of no parameter of small; near .*/img/"),
        ("progress_head", "near it are progress_head/"),
        ("(", "no regular expression"),
        (".*", "leaves nothing of 'everything' to train"),
    ],
)
def test_a_pattern_that_freezes_nothing_or_everything_is_refused(freeze, message):
    with pytest.raises(ModelConfigError, match=message):
        Run(freeze=("action_in_proj/.*", freeze))
