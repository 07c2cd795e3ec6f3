"""What the estimator says never contradicts itself, over streams whose truth is known and over recorded ones."""

from functools import cache

import numpy as np
import pytest
from progress_streams import NOISE, RATES, noisy, output, recorded, slopes, stream, told

from pi05_progress.estimate.estimator import ProgressEstimator, Status

MOMENTS = (0.25, 0.5, 0.75)  # of an episode's time, at which time remaining is looked at


def excursion(values):
    return np.abs(values - values[0]).max()


@cache
def streams(rate_hz):
    """60 restarts, each straight after an episode whose end was held for 6 s; and what an estimator makes of them."""
    rng, found = np.random.default_rng([0, rate_hz]), []
    for _ in range(20):
        made = stream(rng, rate_hz)
        found.append((made, *told(ProgressEstimator(), made.time_s, made.beliefs)))
    return found


@pytest.mark.parametrize("rate_hz", RATES)
def test_every_restart_is_noticed_within_a_second_and_a_half(rate_hz):
    restarts = 0
    for made, _, progress, rate, _ in streams(rate_hz):
        good = (np.abs(progress - made.beliefs) <= 0.15) & (rate > -0.02)
        for start_s in made.starts_s[1:]:
            restarts += 1
            assert good[(made.time_s >= start_s + 1.5) & (made.time_s < start_s + 4)].all()
    assert restarts == 60


@pytest.mark.parametrize("rate_hz", RATES)
def test_progress_rate_and_status_agree_on_every_message(rate_hz):
    for made, _, progress, rate, status in streams(rate_hz):
        assert np.isfinite(progress).all()
        assert np.isfinite(rate).all()
        assert not (status == Status.UNKNOWN).any()
        for slope in slopes(made.time_s, progress):
            assert np.nanmax(np.abs(slope - rate)) < 0.02
        assert np.abs(rate[np.isin(status, (Status.STALLED, Status.SUCCEEDED))]).max() <= 0.01
        assert rate[status == Status.ADVANCING].min() >= 0
        assert rate[status == Status.REGRESSING].max(initial=-1) < 0


@pytest.mark.parametrize("rate_hz", RATES)
def test_progress_stands_still_in_pauses_and_the_status_says_so(rate_hz):
    drifts, raw, done = [], [], 0
    for made, _, progress, _, status in streams(rate_hz):
        still = np.diff(made.truth, prepend=-1) == 0
        for first in np.flatnonzero(np.diff(still.astype(int)) == 1) + 1:
            last = first + np.argmin(np.append(still[first:], False))
            drifts.append(excursion(progress[first:last]))
            raw.append(excursion(made.beliefs[first:last]))
            done += made.truth[first] == 1 and status[last - 1] == Status.SUCCEEDED
    assert np.mean(drifts) < np.mean(raw)
    assert done == 80, "each end is held for 6 s"


@pytest.mark.parametrize("rate_hz", [2, 5, 15])
def test_an_undone_step_is_a_fall_and_no_new_start(rate_hz):
    for seed in range(10):
        rng = np.random.default_rng([seed, rate_hz])
        time_s = np.arange(30 * rate_hz) / rate_hz
        truth = np.interp(time_s, [0, 12, 12.001, 15, 28], [0, 0.6, 0.3, 0.3, 1])
        _, progress, rate, status = told(ProgressEstimator(), time_s, noisy(rng, truth))
        after = (time_s > 12) & (time_s < 15)
        assert Status.REGRESSING in status[after]
        assert rate[after].min() < -0.05
        assert np.abs(np.diff(progress)).max() < 0.35
        assert (np.abs(progress[after] - 0.3)[time_s[after] > 13.5] < 0.15).all()


@pytest.mark.parametrize(
    ("share", "paused"), [(1, False), (2, False), (0.5, False), (1, True), (2, True)],
    ids=["usual", "slow", "fast", "paused", "slow and paused"],
)  # fmt: skip
def test_time_remaining_beats_what_the_task_usually_takes(share, paused):
    rng, errors = np.random.default_rng(1), []
    for _ in range(30):
        length = 25 * share * np.exp(rng.normal(0, 0.2))
        at, pause = rng.uniform(0.1, 0.9), rng.uniform(4, 10) if paused else 0
        corners = [0, at * length, at * length + pause, length + pause], [0, at, at, 1]
        time_s = np.arange(int(corners[0][-1] * 5)) / 5
        estimates, *_ = told(
            ProgressEstimator(durations_s={"task": 25.0}), time_s, noisy(rng, np.interp(time_s, *corners))
        )
        errors.append(remaining_errors(estimates, time_s, corners[0][-1], 25.0))
    assert (np.mean(errors, axis=0)[:, 0] < np.mean(errors, axis=0)[:, 1]).all()


def remaining_errors(estimates, time_s, end_s, usual_s):
    """Errors at each of ``MOMENTS``: of time remaining, and of the usual duration times what is left."""
    found = []
    for moment in MOMENTS:
        i = np.searchsorted(time_s, moment * end_s + 1e-9, side="right") - 1
        left_s = end_s - time_s[i]
        expected, lower, upper = estimates[i].remaining_s
        assert lower <= expected <= upper
        found.append((abs(expected - left_s), abs(usual_s * (1 - estimates[i].progress) - left_s)))
    return found


@cache
def of_recorded():
    return [
        (r, *told(ProgressEstimator(durations_s={"task": r.usual_s}), r.time_s, r.beliefs, r.std)) for r in recorded()
    ]


def drifts(kind):
    """Of published progress and of the beliefs while the robot stood still, the farthest of each episode."""
    found = []
    for r, _, progress, *_ in of_recorded():
        if r.kind == kind and r.still:
            found.append([max(excursion(v[a : b + 1]) for a, b in r.still) for v in (progress, r.beliefs)])
    return np.mean(found, axis=0)


def test_what_the_shipped_checkpoint_believes_drifts_no_more_than_allowed():
    assert drifts("plain")[0] <= 0.02
    published, raw = drifts("pause")
    assert published <= raw


def test_time_remaining_of_recordings_beats_what_the_task_usually_takes():
    by_kind = {}
    for r, estimates, *_ in of_recorded():
        by_kind.setdefault(r.kind, []).append(remaining_errors(estimates, r.time_s, r.end_s, r.usual_s))
    assert set(by_kind) == {"plain", "half_speed", "pause"}
    for errors in by_kind.values():
        own, usual = np.mean(errors, axis=0).T
        assert (own < usual).all()


def test_recordings_have_no_contradictions_either():
    for r, _, progress, rate, status in of_recorded():
        assert np.abs(rate[np.isin(status, (Status.STALLED, Status.SUCCEEDED))]).max(initial=0) <= 0.01
        assert rate[status == Status.ADVANCING].min() >= 0
        assert np.isfinite(progress).all()
        assert not (status == Status.UNKNOWN).any()
        assert r.beliefs.max() > 0.9


def test_the_usual_duration_of_another_task_means_nothing():
    estimator = ProgressEstimator(durations_s={"other": 25.0})
    assert estimator.update(0.0, output(0.2), "task").remaining_s is None
    assert estimator.update(0.2, output(0.2), "other").remaining_s[0] == pytest.approx(20.0)


def test_one_belief_that_is_far_off_changes_nothing():
    rng = np.random.default_rng(3)
    time_s = np.arange(100) / 10
    beliefs = noisy(rng, np.full(100, 0.5))
    beliefs[50] = 0.0
    _, progress, *_ = told(ProgressEstimator(), time_s, beliefs)
    assert excursion(progress) < 3 * NOISE
