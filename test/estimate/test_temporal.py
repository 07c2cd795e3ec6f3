"""The temporal head: progress that remembers, calls failures, and says when it cannot know."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from made_up_streams import DT_S, FPS, STAGES, TASK, stream, streams

from pi05_progress.errors import UserError
from pi05_progress.estimate.estimator import MISFIT, UNLIKE, ProgressEstimator, Status
from pi05_progress.estimate.temporal import About, TemporalHead, agreement, standardised, to_bytes
from training.temporal.calibration import NEVER, calibrated
from training.temporal.network import Network, train
from training.temporal.playing import drawn
from training.temporal.preparation import prepared

TRAINING, HELD_OUT = streams()
ABOUT = About(DT_S, STAGES, {TASK: 10.0}, NEVER, {})


def trained(episodes, instructions=False):
    """Arrays, network and inputs of a short training."""
    rng, arrays = np.random.default_rng(0), prepared(episodes)

    def draw():
        some = [episodes[i] for i in rng.integers(len(episodes), size=8)]
        return drawn(rng, some, arrays, [10.0] * 8, DT_S, 40)

    read, _ = draw()
    arrays |= {"input_mean": read.mean(axis=(0, 1)), "input_std": read.std(axis=(0, 1)) + 1e-2}
    network = Network(read.shape[-1], 2, nnx.Rngs(0), instructions)
    train(network, arrays, draw, 120)
    return arrays | network.arrays(), network, read


@pytest.fixture(scope="module")
def made():
    return trained(TRAINING)


@pytest.fixture(scope="module")
def head(made):
    return calibrated(made[0], ABOUT, TRAINING, HELD_OUT, 0.05, 0.02)


def outputs(head, of):
    features = TemporalHead(head).project(of.answers.features)
    return [dataclasses.replace(of.answers.output(i), progress_features=f) for i, f in enumerate(features)]


def told(head, of, estimator=None):
    estimator = estimator or ProgressEstimator(temporal_head=head)
    return [estimator.update(i / FPS, output, of.task) for i, output in enumerate(outputs(head, of))]


def test_numpy_says_what_flax_says(made):
    arrays, network, read = made
    numpy = TemporalHead(to_bytes(arrays, ABOUT))
    wanted = np.asarray(network(standardised(arrays, read[:1])))[0]
    hidden = np.zeros(numpy.hidden, np.float32)
    for inputs, logits in zip(read[0], wanted, strict=True):
        hidden, found = numpy.step(hidden, inputs)
        np.testing.assert_allclose(found, logits, atol=2e-3)


def test_what_looks_the_same_is_told_apart_by_what_was_before(head):
    of = stream(100)
    found = told(head, of)
    remembered = np.array([e.progress for e in found])
    alone = np.array([e.progress for e in told(head, of, ProgressEstimator())])
    assert np.abs(remembered - of.progress).mean() < 0.7 * np.abs(alone - of.progress).mean()
    assert [found[10].stage, found[-1].stage, found[0].stages] == [0, 1, STAGES[TASK]]
    inside = [e.lower <= truth <= e.upper for e, truth in zip(found, of.progress, strict=True)]
    assert np.mean(inside) > 0.6
    assert found[-1].progress > 0.9
    assert found[-1].success_probability > 0.8 > found[20].success_probability
    expected, low, high = found[25].remaining_s
    assert low <= expected <= high
    assert abs(expected - of.remaining_s[25]) < 4


def test_a_failure_is_called_and_says_why_and_a_success_is_not(head):
    failed = told(head, stream(101, success=False))
    assert failed[-1].status == Status.FAILED
    assert failed[-1].reason
    assert failed[-1].alarm > 1
    calls = [any(e.status == Status.FAILED for e in told(head, stream(seed))) for seed in range(110, 120)]
    assert sum(calls) <= 3


def test_what_is_unlike_the_data_is_unknown_and_says_so(head):
    of = stream(102)
    strange = dataclasses.replace(of.answers, features=of.answers.features[::-1] * np.float32(9))
    found = told(head, dataclasses.replace(of, answers=strange))
    assert {(e.status, e.reason, e.progress) for e in found[5:]} == {(Status.UNKNOWN, UNLIKE, None)}
    assert found[5].raw is not None


def other_words(of, refused):
    """The same pictures under another instruction: the pooled prefix is moved where something else is asked for."""
    moved = of.answers.features + np.float32(refused) * np.eye(of.answers.features.shape[1], dtype=np.float32)[0]
    return of.under(dataclasses.replace(of.answers, features=moved), refused)


def test_an_instruction_for_something_else_is_unknown_and_says_so_and_other_words_for_the_same_are_not():
    both = [other_words(of, refused) for of in TRAINING for refused in (False, True)]
    head = calibrated(trained(both, True)[0], dataclasses.replace(ABOUT, misfit=NEVER), both, HELD_OUT, 0.05, 0.02)
    assert 0 < TemporalHead(head).about.misfit < 1
    refused = told(head, other_words(stream(102), True))
    assert {(e.status, e.reason, e.progress) for e in refused[-20:]} == {(Status.UNKNOWN, MISFIT, None)}
    asked = told(head, other_words(stream(102), False))
    assert not any(e.reason == MISFIT for e in asked)
    assert asked[-1].progress > 0.9


@pytest.mark.parametrize("why", ["gap", "task", "clock", "asked"])
def test_a_gap_another_task_a_clock_that_jumps_and_a_restart_begin_anew(head, why):
    of = stream(103)
    estimator = ProgressEstimator(temporal_head=head)
    told(head, of, estimator)
    time_s, task = (len(of.progress) + 100) / FPS, of.task
    if why == "task":
        time_s, task = len(of.progress) / FPS, "another"
    elif why == "clock":
        time_s = 1.0
    elif why == "asked":
        estimator.reset()
    first = outputs(head, of)[0]
    fresh = ProgressEstimator(temporal_head=head).update(0.0, first, task)
    assert estimator.update(time_s, first, task) == fresh


def test_without_head_or_features_it_is_the_filter_as_before(head):
    of = stream(104)
    bare = [dataclasses.replace(output, progress_features=None) for output in outputs(head, of)]
    with_head, without = ProgressEstimator(temporal_head=head), ProgressEstimator()
    for i, output in enumerate(bare):
        assert with_head.update(i / FPS, output, TASK) == without.update(i / FPS, output, TASK)


def test_chunks_that_go_on_agree_and_those_that_turn_back_do_not():
    ramp = np.arange(8, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    differs, turns = agreement(ramp, ramp + 2.5, np.float32(2.5))
    assert differs == pytest.approx(0, abs=1e-9)
    assert turns == pytest.approx(0, abs=1e-6)
    differs, turns = agreement(ramp, ramp[::-1] - 4.5, np.float32(2.5))
    assert differs > 1
    assert turns == pytest.approx(1)
    assert agreement(ramp, ramp, np.float32(99))[0] == 0  # they are about different times


def test_a_damaged_head_is_refused_in_words(made):
    arrays, *_ = made
    with pytest.raises(UserError, match="make it anew"):
        TemporalHead(to_bytes(arrays, ABOUT)[:-40])
    with pytest.raises(UserError, match="do not fit together: centre"):
        TemporalHead(to_bytes(arrays | {"centre": np.zeros(3)}, ABOUT))
    with pytest.raises(UserError, match="not finite"):
        TemporalHead(to_bytes(arrays | {"middle/bias": arrays["middle/bias"] * np.nan}, ABOUT))
    with pytest.raises(UserError, match="not above 0"):
        TemporalHead(to_bytes(arrays, dataclasses.replace(ABOUT, action_dt_s=0.0)))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("progress_features", lambda of: of * np.float32(np.nan)),
        ("progress_features", lambda of: of[:1]),
        ("progress_belief", lambda of: of[:1]),
    ],
)
def test_what_the_head_cannot_read_is_filtered_as_without_one_and_spoils_nothing_after_it(head, field, wrong):
    good = outputs(head, stream(105))
    estimator, memory = ProgressEstimator(temporal_head=head), ProgressEstimator(temporal_head=head)
    for i, output in enumerate(good[:20]):
        assert estimator.update(i / FPS, output, TASK) == memory.update(i / FPS, output, TASK)
    bad = dataclasses.replace(good[20], **{field: wrong(getattr(good[20], field))})
    found = estimator.update(20 / FPS, bad, TASK)
    assert np.isfinite(found.progress)
    assert not found.stages  # the filter knows none
    after = estimator.update(21 / FPS, good[21], TASK)
    assert after.stages == STAGES[TASK]
    assert after.progress == pytest.approx(memory.update(21 / FPS, good[21], TASK).progress, abs=0.2)


def test_time_in_which_nothing_could_be_known_is_no_time_without_progress(head):
    about = TemporalHead(head).about
    seen = outputs(head, stream(106))
    strange = dataclasses.replace(seen[20], progress_features=seen[20].progress_features * np.float32(50))
    limits = dataclasses.replace(about, alarms={"still": 10.0})
    estimator = ProgressEstimator(temporal_head=to_bytes(TemporalHead(head).arrays, limits))
    course = [*seen[:20], *[strange] * 100, *seen[20:25]]  # 20 s of pictures of something else
    found = [estimator.update(i / FPS, output, TASK) for i, output in enumerate(course)]
    assert found[100].reason == UNLIKE
    assert found[-1].progress is not None
    assert not any(e.status == Status.FAILED for e in found)


def test_a_scene_that_was_reset_long_after_it_was_done_is_no_failure(head):
    about = dataclasses.replace(TemporalHead(head).about, alarms={"still": 10.0})
    seen = outputs(head, stream(107))
    estimator = ProgressEstimator(temporal_head=to_bytes(TemporalHead(head).arrays, about))
    course = [*seen, *[seen[-1]] * 100, *seen[:30]]
    found = [estimator.update(i / FPS, output, TASK) for i, output in enumerate(course)]
    assert found[len(seen) + 90].status == Status.SUCCEEDED
    assert min(e.progress for e in found[-30:]) < 0.5
    assert not any(e.status == Status.FAILED for e in found)


def test_chunks_that_come_more_slowly_than_any_in_training_call_no_failure(head):
    about = dataclasses.replace(TemporalHead(head).about, alarms={"disagreement": 0.01, "reversals": 0.01})
    data, seen = to_bytes(TemporalHead(head).arrays, about), outputs(head, stream(108, success=False))
    for hz, called in ((FPS, True), (1.0, False)):
        estimator = ProgressEstimator(temporal_head=data)
        found = [estimator.update(i / hz, output, TASK) for i, output in enumerate(seen)]
        assert any(e.status == Status.FAILED for e in found) == called
