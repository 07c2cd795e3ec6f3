"""What the figures of episodes come to together: rankings, shares, and their intervals."""

import numpy as np
import pytest
from made_up_predictions import figures_of, linear
from scipy.stats import norm

from training.evaluation import bootstrap, metrics
from training.evaluation.summary import summarise


def outcomes(*pairs):
    """Figures of episodes from (rank, progress at the end)."""
    return [{"rank": float(rank), "end.raw": end} for rank, end in pairs]


def test_ranking_counts_pairs_within_a_task():
    episodes = outcomes((0, 0.1), (1, 0.5), (2, 0.9), (2, 0.3), (1, 0.3))
    found = summarise(episodes, ["a"] * 5)
    # failed below all four others; partial 0.5 against 0.9 right, against 0.3 wrong; 0.3 right, and one tie
    assert found["ranking.raw"].value == pytest.approx((4 + 2 + 0.5) / 8)
    assert found["ranking_partial_successful.raw"].value == pytest.approx(2.5 / 4)
    assert found["ranking_failed_successful.raw"].value == 1
    apart = summarise(episodes, ["a", "b", "c", "d", "e"])
    assert "ranking.raw" not in apart  # nothing to compare


def test_f1_of_declarations_is_that_of_the_formula():
    said = [(2, 1), (2, 1), (2, 0), (0, 1), (1, 0)]
    found = summarise([{"rank": float(r), "declared.filtered": float(d)} for r, d in said], ["a"] * 5)
    assert found["success_f1.filtered"].value == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_values_hold_until_the_next_one():
    time_s = np.array([0, 0.2, 0.4, 0.6, 0.8, 0.9])
    assert metrics.longest_above(time_s, np.array([0, 1, 1, 0, 0, 0]), 0.9) == pytest.approx(0.4)
    assert metrics.longest_above(time_s, np.array([1, 0, 0, 0, 1, 1]), 0.9) == pytest.approx(0.2)
    assert metrics.longest_above(time_s, np.array([0.9] * 6), 0.9) == 0
    assert metrics.longest_above(time_s[:1], np.ones(1), 0.9) == 0


def test_failures_too_high_are_those_that_stay_above_for_a_second():
    # five values 0.2 s apart last one second, by floating point 0.9999999999999998 s
    five = metrics.longest_above(np.arange(9) * 0.2, np.array([0, 0, 1, 1, 1, 1, 1, 0, 0]), 0.9)
    seconds = [0.0, 0.8, five, 3.0]
    found = summarise([{"rank": 0.0, "failure_above.filtered": s} for s in seconds], ["a"] * 4)
    assert found["failure_too_high.filtered"].value == 0.5


def test_skill_is_of_mean_errors_and_only_of_episodes_with_a_clock():
    episodes = [
        {"rank": 2.0, "mae_linear.raw": e, "mae_linear.clock": c} for e, c in [(0.1, 0.2), (0.0, 0.4), (0.9, np.nan)]
    ]
    assert summarise(episodes, ["a"] * 3)["skill_linear.raw"].value == pytest.approx(1 - 0.05 / 0.3)


def test_the_bootstrap_gives_the_interval_that_theory_gives():
    values = np.random.default_rng(3).normal(0.3, 0.1, 200)
    found = bootstrap.figure(bootstrap.mean(values), np.ones(200, bool), bootstrap.draws(200, 4000, 0))
    error = values.std() / np.sqrt(200)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=2e-3)


@pytest.mark.parametrize("key", ["false_alarm", "missed", "premature", "late"])
def test_shares_of_none_or_all_have_an_interval_all_the_same(key):
    """Wilson's interval of 0 of 9 is [0, z^2 / (9 + z^2)] with z = 1.96."""
    z2 = norm.ppf(0.975) ** 2
    found = summarise([{"rank": 0.0, f"{key}.filtered": 0.0}] * 9, ["a"] * 9)[f"{key}.filtered"]
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, z2 / (9 + z2)))
    every = summarise([{"rank": 0.0, f"{key}.filtered": 1.0}] * 9, ["a"] * 9)[f"{key}.filtered"]
    assert (every.value, every.low, every.high) == pytest.approx((1, 9 / (9 + z2), 1))


def test_a_share_counts_the_episodes_that_have_it():
    """Tables give [0.1078, 0.6032] for 3 of 10."""
    above = [{"rank": 0.0, "failure_above.raw": s} for s in [2.0] * 3 + [0.5] * 7]
    found = summarise([*above, {"rank": 2.0}], ["a"] * 11)["failure_too_high.raw"]
    assert (found.value, found.episodes) == (0.3, 10)
    assert (found.low, found.high) == pytest.approx((0.1078, 0.6032), abs=1e-4)


def test_one_episode_has_figures_but_no_intervals():
    found = summarise([figures_of(linear)], ["a"])
    assert (found["voc.raw"].value, found["voc.raw"].low, found["voc.raw"].episodes) == (pytest.approx(1), None, 1)


def test_the_bootstrap_is_the_same_every_time_and_another_with_another_seed():
    episodes = [{"rank": 2.0, "voc.raw": v} for v in (0.1, 0.5, 0.9)]
    assert summarise(episodes, ["a"] * 3) == summarise(episodes, ["a"] * 3)
    again = summarise(list(episodes), ["a"] * 3, resamples=101, seed=5)["voc.raw"]
    assert again.value == 0.5 and again != summarise(episodes, ["a"] * 3, resamples=101)["voc.raw"]
