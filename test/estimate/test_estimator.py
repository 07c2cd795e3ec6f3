"""The estimator on made-up beliefs whose truth is known."""

import math
from itertools import pairwise

import numpy as np
import pytest

from pi05_progress.estimate.estimator import EstimatorConfig, ProgressEstimator, Status
from pi05_progress.observation import PolicyOutput


def output(progress, bins=None):
    return PolicyOutput(np.zeros((30, 16), np.float32), progress, progress_belief=bins)


def run(values, dt=0.1, noise=0.0, task="stack", estimator=None, start=0.0):
    estimator = estimator or ProgressEstimator()
    rng = np.random.default_rng(0)
    noisy = np.clip(np.asarray(values) + rng.normal(0, noise, len(values)), 0, 1)
    return [estimator.update(start + i * dt, output(float(v)), task) for i, v in enumerate(noisy)]


RAMP = np.linspace(0, 1, 200)  # 20 s at 10 Hz: 0.05 per second


def test_noise_is_filtered_and_the_rate_found():
    estimates = run(RAMP, noise=0.05)
    errors = np.abs([e.progress for e in estimates][20:] - RAMP[20:])
    assert errors.mean() < 0.025
    assert np.median([e.rate for e in estimates[60:180]]) == pytest.approx(0.05, abs=0.01)


def test_time_remaining_is_what_is_left_at_this_rate():
    halfway = run(RAMP[:100], noise=0.02)[-1]
    expected, lower, upper = halfway.remaining_s
    assert expected == pytest.approx(10.0, rel=0.25)
    assert lower < expected < upper


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    inside = [e.lower <= p <= e.upper for e, p in zip(run(RAMP, noise=0.05), RAMP, strict=True)]
    assert np.mean(inside) > 0.85


def test_status_follows_advance_stall_regress_and_success():
    parts = [np.linspace(0, 0.5, 100), np.full(100, 0.5), np.linspace(0.5, 0.2, 40), np.linspace(0.2, 1, 150)]
    course = np.concatenate([*parts, np.ones(40)])
    statuses = [e.status for e in run(course, noise=0.01)]
    order = [s for i, s in enumerate(statuses) if i == 0 or s != statuses[i - 1]]
    assert statuses[80] == Status.ADVANCING
    assert statuses[190] == Status.STALLED
    assert statuses[235] == Status.REGRESSING
    assert statuses[330] == Status.ADVANCING
    assert statuses[-1] == Status.SUCCEEDED
    assert len(order) < 12, "it must not flicker"


@pytest.mark.parametrize(("top", "seconds"), [(0.9, 10), (0.93, 20), (0.88, 8)])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_plateau_below_the_threshold_is_no_success(top, seconds, noise):
    course = np.concatenate([np.linspace(0, top, seconds * 10), np.full(200, top)])
    estimates = run(course, noise=noise)
    assert Status.SUCCEEDED not in {e.status for e in estimates}
    assert estimates[-1].status == Status.STALLED
    assert max(e.progress for e in estimates) < top + 0.05, "no overshoot"


@pytest.mark.parametrize("dt", [0.1, 0.5, 1 / 30])
@pytest.mark.parametrize("seconds", [20, 60, 180, 300])
def test_slow_tasks_are_not_stalls_and_no_status_flickers(seconds, dt):
    course = np.concatenate([np.linspace(0, 1, round(seconds / dt)), np.ones(round(6 / dt))])
    statuses = [e.status for e in run(course, dt=dt, noise=0.03)]
    changes = [b for a, b in pairwise(statuses) if a != b]
    assert changes == [Status.SUCCEEDED]


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_where_nothing_happens_nothing_advances(level):
    estimates = run(np.full(600, level), noise=0.03)
    assert {e.status for e in estimates} == {Status.ADVANCING, Status.STALLED}
    assert all(e.remaining_s is None for e in estimates)


def test_the_interval_allows_for_errors_that_hang_together():
    rng, correlation, error, errors = np.random.default_rng(2), 0.8, 0.0, []
    for _ in RAMP:
        error = correlation * error + math.sqrt(1 - correlation**2) * rng.normal(0, 0.05)
        errors.append(error)
    estimates = run(RAMP + np.array(errors))
    assert np.mean([e.lower <= p <= e.upper for e, p in zip(estimates, RAMP, strict=True)]) > 0.8


def test_the_same_task_begun_again_is_a_new_start():
    course = np.concatenate([RAMP, np.ones(60), RAMP])
    statuses = [e.status for e in run(course, noise=0.03)]
    assert statuses[255] == Status.SUCCEEDED
    assert Status.SUCCEEDED not in statuses[275:400]
    assert statuses[300] == Status.ADVANCING
    assert statuses[275:].count(Status.REGRESSING) == 0


def test_stamps_that_jitter_do_not_start_anew():
    estimator, rng, statuses = ProgressEstimator(), np.random.default_rng(0), []
    for i in range(450):
        estimate = estimator.update(i / 30 + rng.uniform(-0.04, 0.04), output(i / 600), "stack")
        statuses.append(estimate.status)
    assert set(statuses) == {Status.ADVANCING}
    assert estimate.progress == pytest.approx(0.75, abs=0.05)


def test_success_needs_to_last_and_holds_through_a_short_dip():
    estimator = ProgressEstimator()
    run(np.full(30, 0.9), estimator=estimator)
    early = run(np.full(5, 1.0), estimator=estimator, start=3.0)
    assert early[-1].status != Status.SUCCEEDED
    later = run(np.full(40, 1.0), estimator=estimator, start=3.5)
    assert later[-1].status == Status.SUCCEEDED
    assert later[-1].remaining_s == (0.0, 0.0, 0.0)
    dip = run(np.full(3, 0.9), estimator=estimator, start=7.5)
    assert dip[-1].status == Status.SUCCEEDED
    undone = run(np.full(60, 0.7), estimator=estimator, start=7.8)
    assert Status.REGRESSING in {e.status for e in undone}
    assert undone[-1].status == Status.STALLED


@pytest.mark.parametrize("change", ["task", "gap", "time going back"])
def test_it_starts_anew(change):
    estimator = ProgressEstimator()
    run(np.full(50, 0.9), estimator=estimator)
    time_s, task = {"task": (5.0, "other"), "gap": (60.0, "stack"), "time going back": (1.0, "stack")}[change]
    estimate = estimator.update(time_s, output(0.1), task)
    assert estimate.progress == pytest.approx(0.1)
    assert (estimate.status, estimate.rate) == (Status.ADVANCING, 0.0)
    assert estimate.remaining_s is None


def test_zero_is_a_value_and_none_is_unknown():
    assert run([0.0])[0].progress == 0.0
    estimate = ProgressEstimator().update(0.0, output(None), "stack")
    assert (estimate.progress, estimate.raw, estimate.status) == (None, None, Status.UNKNOWN)
    assert ProgressEstimator().update(0.0, output(math.nan), "stack").progress is None


def test_an_untrained_model_gives_raw_numbers_and_nothing_else():
    estimate = ProgressEstimator().update(0.0, output(0.4), "stack", trained=False)
    assert (estimate.raw, estimate.progress, estimate.status) == (0.4, None, Status.UNKNOWN)


def test_a_small_fall_of_sure_beliefs_counts_and_one_of_unsure_ones_does_not():
    def after_a_fall(width):
        estimator = ProgressEstimator(EstimatorConfig())
        centres = (np.arange(50) + 0.5) / 50

        def belief(mean):
            bins = np.exp(-np.square((centres - mean) / width) / 2)
            return output(float(mean), (bins / bins.sum()).astype(np.float32))

        for i in range(50):
            estimator.update(i * 0.1, belief(0.6), "stack")
        for i in range(50, 60):
            estimate = estimator.update(i * 0.1, belief(0.5), "stack")
        return estimate.progress

    assert after_a_fall(0.02) == pytest.approx(0.55, abs=0.01)
    assert after_a_fall(0.1) == pytest.approx(0.6, abs=0.01)


def test_everything_stays_within_bounds_whatever_comes():
    rng = np.random.default_rng(1)
    estimator, time_s = ProgressEstimator(), 0.0
    for _ in range(500):
        time_s += float(rng.choice([0.0, 0.01, 0.1, 1.0, 9.0, -3.0]))
        e = estimator.update(time_s, output(float(rng.random())), str(rng.integers(3)))
        assert 0 <= e.lower <= e.progress <= e.upper <= 1
        assert math.isfinite(e.rate)
        assert 0 <= e.success_probability <= 1
        assert e.remaining_s is None or all(math.isfinite(t) and t >= 0 for t in e.remaining_s)


def test_the_interval_of_a_policy_server_is_taken_for_the_spread_of_its_bins():
    bins = np.exp(-0.5 * np.square((np.arange(100) + 0.5) / 100 - 0.5) / 0.1**2)
    told = output(0.5, bins / bins.sum())
    half = 1.645 * 0.1  # of 90 %
    served = PolicyOutput(told.actions, 0.5, progress_interval=(0.5 - half, 0.5 + half), confidence_level=0.9)
    plain = PolicyOutput(told.actions, 0.5)
    widths = []
    for given in (told, served, plain):
        estimator = ProgressEstimator()
        estimates = [estimator.update(i / 10, given, "stack") for i in range(30)]
        widths.append(estimates[-1].upper - estimates[-1].lower)
    assert widths[1] == pytest.approx(widths[0], rel=0.02)
    assert widths[0] > 1.2 * widths[2], "less sure than by default"
