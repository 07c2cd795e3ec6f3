"""Figures of made-up predictions whose values are known: perfect, constant, clock, reversed, noisy, early, late."""

import re
from dataclasses import replace

import numpy as np
import pytest
from made_up_predictions import FPS, LAST, LENGTH, STAGES, figures_of, linear, meta
from places import ROOT
from scipy.stats import norm

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import RobotProfile
from training.datasets.progress_meta import Milestone
from training.evaluation import metrics
from training.evaluation.page import counts
from training.evaluation.playbacks import wrong_instruction
from training.evaluation.summary import MEASURES, SOURCES, summarise
from training.evaluation.truth import standstills
from training.labels.milestones import Stages

LAYOUT = RobotProfile.load("teleavatar").layout
DOCS = (ROOT / "docs/evaluation.md").read_text()
MARKS = {"grasped": 100, "placed": 150}  # half of the time until progress 0.25


def by_milestones(frames, *_):
    return np.interp(frames, [0, 100, 150, LAST], [0, 0.25, 0.75, 1])


def test_perfect_predictions_have_perfect_figures():
    found = figures_of(by_milestones, meta(**MARKS), stages=STAGES)
    assert (found["voc.raw"], found["kendall.raw"]) == pytest.approx((1, 1))
    assert found["mae_milestone.raw"] == found["boundary.raw"] == found["drops.raw"] == 0
    assert found["mae_linear.raw"] == pytest.approx(
        np.abs(by_milestones(f := np.arange(0, LENGTH, 2)) - f / LAST).mean()
    )
    assert found["reversed_voc.raw"] == pytest.approx(-1)
    for name in ("half_speed", "double_speed", "black"):
        assert found[f"{name}_mae.raw"] == pytest.approx(0, abs=1e-12), name
    assert found["voc.filtered"] > 0.999 and found["mae_milestone.filtered"] < 0.03


def test_what_comes_after_a_last_milestone_that_ends_the_task_is_done():
    ends = Stages(("grasped", "placed"), np.array([0.25, 1.0]))
    found = figures_of(lambda frames, *_: np.interp(frames, [0, 100, 150], [0, 0.25, 1]), meta(**MARKS), stages=ends)
    assert found["mae_milestone.raw"] == pytest.approx(0, abs=1e-12)
    by_time = figures_of(lambda frames, *_: np.minimum(frames / 150, 1), meta(**MARKS), stages=ends)
    assert by_time["mae_linear.raw"] == pytest.approx(0, abs=1e-12)
    assert by_time["remaining_told.filtered"] == 1 and by_time["remaining_50.filtered"] < 1.5  # of the time until done
    assert figures_of(linear, meta(**MARKS), stages=STAGES)["mae_linear.raw"] == pytest.approx(0, abs=1e-12)


def test_constant_predictions_order_nothing_and_do_not_crash():
    found = figures_of(lambda *_: 0.5)
    assert found["voc.raw"] == found["kendall.raw"] == found["reversed_voc.raw"] == found["drops.raw"] == 0
    assert found["voc.filtered"] == 0
    assert found["mae_linear.raw"] == pytest.approx(25.5 / 101)  # of 0, 0.01 ... 1
    assert found["pause_drift.filtered"] == 0
    assert (found["declared.filtered"], found["missed.filtered"]) == (0, 1)


def test_the_clock_has_no_skill_over_itself_and_does_not_stand_still_in_a_pause():
    def clock(_frames, times, _playback):
        return np.minimum(1, times / 16)

    found = figures_of(clock, median_s=16.0)
    assert found["mae_linear.raw"] == found["mae_linear.clock"] > 0.05
    assert summarise([found, found], ["a", "a"])["skill_linear.raw"].value == 0
    assert found["pause_drift.raw"] == pytest.approx(5 / 16, abs=0.02)
    assert found["reversed_voc.raw"] > 0.9  # it says the same, whatever happens
    assert found["half_speed_change.raw"] > 0.15
    slow = figures_of(clock, median_s=32.0)  # training took longer: the clock expects another pace
    assert slow["mae_linear.clock"] == pytest.approx(10 / 20 - 10 / 32)  # in the mean, after 10 s
    # 16 s, or 4 s of the 20 are past its end: at a quarter 16 - 5 of 15 s are expected
    assert found["remaining_25.clock"] == pytest.approx(4.0) and found["remaining_75.clock"] == pytest.approx(4.0)


def test_reversed_predictions_are_the_opposite_of_perfect_ones():
    found = figures_of(lambda frames, *_: 1 - frames / LAST)
    assert (found["voc.raw"], found["kendall.raw"]) == pytest.approx((-1, -1))
    assert found["drops.raw"] == pytest.approx(1)
    assert found["mae_linear.raw"] == pytest.approx(0.5, abs=0.01)
    assert found["reversed_voc.raw"] == pytest.approx(1)


def test_noise_costs_what_it_should_and_the_filter_takes_some_of_it_away():
    rng = np.random.default_rng(0)
    made = [
        figures_of(lambda f, *_: 0.2 + 0.6 * f / LAST + rng.normal(0, 0.05, len(f)), perturbed=False) for _ in range(20)
    ]
    line = 0.2 + 0.6 * np.arange(0, LENGTH, 2) / LAST
    offset = (
        line - np.arange(0, LENGTH, 2) / LAST
    )  # the noise's mean absolute value around it is that of a folded normal
    folded = 0.05 * np.sqrt(2 / np.pi) * np.exp(-((offset / 0.05) ** 2) / 2) + offset * (
        1 - 2 * norm.cdf(-offset / 0.05)
    )
    assert np.mean([m["mae_linear.raw"] for m in made]) == pytest.approx(folded.mean(), abs=0.003)
    steps = 100 * 0.05 * np.sqrt(2) / np.sqrt(2 * np.pi)  # expected falls of white noise, the slope being small
    assert np.mean([m["drops.raw"] for m in made]) == pytest.approx(steps - 0.3, abs=0.2)
    assert 0.9 < np.mean([m["voc.raw"] for m in made]) < 0.99
    assert np.mean([m["drops.filtered"] for m in made]) < 0.2 * steps
    assert np.mean([m["voc.filtered"] for m in made]) > 0.99


def test_a_drop_counts_once_and_only_its_depth():
    assert metrics.sum_of_drops(np.array([0, 0.5, 0.2, 0.4, 0.3, 1])) == pytest.approx(0.4)


def test_predictions_at_a_milestone_are_those_that_were_known_then():
    # 0.1 too high until frame 150, right afterwards; 101 is between two views, the newest one before it is of frame 100
    marks = {"grasped": 101, "placed": 150}
    found = figures_of(lambda f, *_: by_milestones(f) + 0.1 * (f < 150), meta(**marks), stages=STAGES, perturbed=False)
    assert found["boundary.raw"] == pytest.approx((0.1 + 0.0) / 2)


@pytest.mark.parametrize(
    ("start", "declared", "premature", "late"),
    [(150, 1, 0, 0), (80, 1, 1, 0), (180, 1, 0, 1), (9999, 0, 0, 0)],
)
def test_declarations_are_premature_late_or_missing(start, declared, premature, late):
    """The task is done at frame 150, 15 s; success is declared a little after progress is 1."""
    known = meta(**MARKS)
    found = figures_of(lambda f, *_: np.where(f < start, 0.9, 1.0), known, stages=STAGES, perturbed=False)
    assert found["declared.filtered"] == declared and found["missed.filtered"] == 1 - declared
    assert (found["premature.filtered"], found["late.filtered"]) == (premature, late)
    if declared:
        assert (start - 150) / FPS < found["delay.filtered"] < (start - 150) / FPS + 3
    else:
        assert np.isnan(found["delay.filtered"])


def test_a_success_that_is_seen_long_after_the_end_is_late_and_not_missed():
    """Done at the last frame, 20 s; sure of it 3.2 s later, while the end is held."""

    def sure(from_s):
        return figures_of(lambda _f, times, _p: np.where(times < from_s, 0.8, 1.0), perturbed=False)

    late = sure(23.2)
    assert (late["late.filtered"], late["missed.filtered"]) == (1, 0) and late["delay.filtered"] > 3
    soon = sure(20.5)
    assert (soon["late.filtered"], soon["missed.filtered"]) == (0, 0)
    assert (sure(99)["late.filtered"], sure(99)["missed.filtered"]) == (0, 1)


def test_a_recording_that_ends_when_the_task_is_done_does_not_hide_that_it_is_seen():
    """Above 0.95 for the last second only, as in linear labels: sure of it once it stands still after the end."""
    found = figures_of(linear, perturbed=False)
    assert found["declared.filtered"] == 1 and 0 < found["delay.filtered"] < 2


def test_without_milestones_a_task_is_done_at_the_end_of_its_episode():
    found = figures_of(lambda f, *_: np.where(f < 100, 0.3, 1.0), perturbed=False)
    assert found["premature.filtered"] == 1 and found["delay.filtered"] == pytest.approx(-10, abs=3)


@pytest.mark.parametrize("sharpness", [1.0, 0.5])
def test_coverage_is_that_of_the_beliefs(sharpness):
    """Beliefs of standard deviation 0.04 s around a truth that is missed by 0.04: right for s = 1, too sure for 0.5."""
    rng = np.random.default_rng(1)
    made = [
        figures_of(lambda f, *_: f / LAST + rng.normal(0, 0.04, len(f)), std=0.04 * sharpness, perturbed=False)
        for _ in range(15)
    ]
    for level in (0.5, 0.8, 0.9):
        z = norm.ppf((1 + level) / 2) * sharpness
        expected, width = norm.cdf(z) - norm.cdf(-z), 2 * z * 0.04
        mean = np.mean([m[f"coverage_{100 * level:.0f}.raw"] for m in made])
        assert mean == pytest.approx(expected, abs=0.03), level
        assert np.mean([m[f"width_{100 * level:.0f}.raw"] for m in made]) == pytest.approx(width, rel=0.06), level


def test_crps_is_the_integral_it_is_defined_as():
    rng = np.random.default_rng(2)
    bins = rng.dirichlet(np.ones(7), 20)
    truth = np.concatenate([rng.uniform(0, 1, 18), [0.0, 1.0]])
    x = (np.arange(200_000) + 0.5) / 200_000
    cdf = np.array([np.interp(x, np.arange(8) / 7, np.concatenate([[0], np.cumsum(b)])) for b in bins])
    expected = ((cdf - (x[None] >= truth[:, None])) ** 2).mean(axis=1)
    np.testing.assert_allclose(metrics.crps(bins, truth), expected, atol=1e-5)
    certain = np.eye(1000)[[300]]
    assert metrics.crps(certain, np.array([0.3005]))[0] < 1e-3
    assert metrics.crps(certain, np.array([0.8]))[0] == pytest.approx(0.4995, abs=1e-3)  # the absolute error


def test_central_intervals_are_even_within_bins():
    even = np.full((1, 4), 0.25)
    np.testing.assert_allclose(metrics.central_interval(even, 0.9), [[0.05, 0.95]])
    np.testing.assert_allclose(metrics.central_interval(np.array([[0, 0.5, 0.5, 0]]), 0.5), [[0.375, 0.625]])
    assert metrics.covered(np.array([[0.2, 0.4]] * 3), np.array([0.2, 0.4, 0.41])).tolist() == [True, True, False]


def test_the_filtered_interval_has_the_level_it_is_asked_for():
    found = figures_of(linear, perturbed=False)
    ratio = found["width_90.filtered"] / found["width_50.filtered"]
    assert ratio == pytest.approx(norm.ppf(0.95) / norm.ppf(0.75), rel=0.15)  # clipped to [0, 1] at the ends
    assert found["coverage_50.filtered"] <= found["coverage_80.filtered"] <= found["coverage_90.filtered"]
    assert "coverage_50.raw" not in found and "crps.raw" not in found  # no bins


def test_time_remaining_of_a_steady_course_is_right():
    found = figures_of(linear, perturbed=False)
    assert found["remaining_told.filtered"] == 1
    assert [found[f"remaining_{p}.filtered"] for p in (25, 50, 75)] == pytest.approx([0, 0, 0], abs=1.5)
    assert found["remaining_covered_50.filtered"] == 1
    assert found["remaining_50.clock"] == pytest.approx(0)
    still = figures_of(lambda *_: 0.5, perturbed=False)
    assert "remaining_50.clock" not in still  # the clock is compared where both say something
    assert still["remaining_told.filtered"] == 0 and np.isnan(still["remaining_50.filtered"])
    assert "remaining_covered_50.filtered" not in still


def test_the_clock_is_compared_with_time_remaining_where_it_is_told_and_counts_say_of_how_many_episodes():
    told, untold = figures_of(linear, perturbed=False), figures_of(lambda *_: 0.5, median_s=90.0, perturbed=False)
    found = summarise([told, untold], ["a"] * 2)
    assert found["remaining_50.clock"].value == pytest.approx(0)  # the other episode's 70 s are not in it
    assert found["remaining_50.clock"].episodes == found["remaining_50.filtered"].episodes == 1
    assert counts({"filtered": 5, "clock": 3}) == "filtered 5, clock 3" and counts({"raw": 4, "filtered": 4}) == "4"


def test_a_pause_shows_what_is_not_seen_in_the_pictures():
    """What is shown stands still: a belief by pictures does, too; the estimator may run on for a moment only."""
    found = figures_of(linear)
    assert found["pause_drift.raw"] == 0 and found["pause_drift.filtered"] <= 0.02 + 1e-9
    drifting = figures_of(lambda f, times, playback: f / LAST + 0.02 * (playback.name == "pause") * times)
    assert drifting["pause_drift.raw"] == pytest.approx(0.1, abs=1e-6)
    assert drifting["pause_drift.filtered"] == pytest.approx(0.1, abs=0.03)


def test_a_pause_in_which_progress_goes_up_and_comes_back_is_not_standing_still():
    """From 10 s to 15 s: a bump of 0.3 in its middle, or a dent; start and end are the same."""
    for height in (0.3, -0.3):

        def bump(frames, times, playback, height=height):
            return 0.5 + height * ((playback.name == "pause") & (times > 11.9) & (times < 13.1))

        found = figures_of(bump)
        assert found["pause_drift.raw"] == pytest.approx(0.3)
        assert found["pause_drift.filtered"] > 0.05


def test_progress_that_moves_while_the_recorded_robot_stands_still_is_seen():
    """Frames 40 to 80 and 120 to 160 are standstills; progress moves by 0.1 and back in the second one."""
    still = ((40, 80), (120, 160))
    found = figures_of(lambda f, *_: 0.4 + 0.1 * ((f > 130) & (f < 150)), still=still, perturbed=False)
    assert found["standstill_drift.raw"] == pytest.approx(0.1)
    assert 0.02 < found["standstill_drift.filtered"] <= 0.1
    at_rest = figures_of(lambda f, *_: 0.4 + 0.1 * (f > 90), meta("FAILURE"), still=((40, 80),), perturbed=False)
    assert at_rest["standstill_drift.raw"] == 0 and at_rest["standstill_drift.filtered"] < 1e-3
    assert "standstill_drift.raw" not in figures_of(linear, perturbed=False)


def test_standstills_are_where_no_joint_moves_for_three_seconds_before_the_task_is_done():
    """At 10 frames/s: still for 4 s, moving for 2 s, still for 2 s only, moving, and still for 5 s; joint 9 moves."""
    step = np.repeat([0, 0.1, 0, 0.1, 0], [40, 20, 20, 10, 50])
    states = np.zeros((len(step) + 1, 48), np.float32)
    states[1:, 9] = np.cumsum(step)
    assert standstills(states, LAYOUT, 10, len(step)) == ((0, 40), (90, 140))
    assert standstills(states, LAYOUT, 10, 100) == ((0, 40),)  # done before the last one has lasted
    states[:, 30] = np.random.default_rng(0).normal(0, 1, len(states))  # a velocity is no position
    assert standstills(states, LAYOUT, 10, len(step)) == ((0, 40), (90, 140))
    states[1:, 15] = 0.003 * np.arange(1, len(states))  # a gripper that creeps at 0.03 a second
    assert standstills(states, LAYOUT, 10, len(step)) == ()


def test_a_wrong_instruction_is_another_tasks_and_no_other_order_of_the_same_words():
    first, second = "put the red and then the blue block away", "Put the blue and then the red block away."
    assert wrong_instruction(first, {first, second, "stack the blocks"}) == "stack the blocks"
    assert wrong_instruction("stack the blocks", {first, second, "stack the blocks"}) in (first, second)
    assert wrong_instruction(first, {first, second}) == "water the plants"
    assert wrong_instruction("b", {"a", "b", "c"}) == "c" and wrong_instruction("c", {"a", "b", "c"}) == "a"
    assert wrong_instruction(first, {first, "stack the blocks"}, "fold a shirt") == "fold a shirt"
    assert wrong_instruction(first, {first}, second) == second  # who asks for it gets it
    with pytest.raises(UserError, match="is the right instruction"):
        wrong_instruction(first, {first}, first)


def test_a_wrong_instruction_and_a_black_camera_are_compared_with_what_was_said_before():
    def reads(frames, _times, playback):
        if playback.views[0].prompt == "fold":
            return 0.1
        return np.where(playback.views[0].black == "head_camera", 0.4, frames / LAST)

    found = figures_of(reads)
    assert found["wrong_end.raw"] == pytest.approx(0.1)
    assert found["wrong_change.raw"] == pytest.approx(np.abs(np.arange(0, LENGTH, 2) / LAST - 0.1).mean())
    assert found["black_change.raw"] == found["black_mae.raw"] == pytest.approx(0.26, abs=0.01)


def test_failures_are_judged_by_how_far_they_seem_to_have_come():
    stuck = meta("FAILURE", grasped=100)
    found = figures_of(lambda f, *_: np.clip(by_milestones(f), 0, 0.95), stuck, stages=STAGES, perturbed=False)
    assert found["rank"] == 1
    assert found["failure_high.raw"] == pytest.approx(0.95)
    assert found["failure_excess.raw"] == pytest.approx(0.95 - 0.25, abs=0.02)
    # 0.9 is reached at frame 180, above from 182, through the 6 s for which the end is held and one interval
    assert found["failure_above.raw"] == pytest.approx((LAST - 182) / FPS + 6 + 0.2)
    last_moment = figures_of(lambda f, *_: 0.3 + 0.65 * (f == LAST), stuck, stages=STAGES, perturbed=False)
    assert last_moment["failure_above.raw"] == pytest.approx(6.2)
    assert not {"voc.raw", "mae_linear.raw", "premature.filtered", "crps.raw"} & found.keys()
    nothing = figures_of(lambda *_: 0.0, meta("FAILURE"), perturbed=False)  # without labels of any kind
    assert nothing["rank"] == 0 and nothing["failure_end.raw"] == 0 and "failure_excess.raw" not in nothing


@pytest.mark.parametrize(("said", "refused"), [(0.1, 1), (0.2, 0)])
def test_a_refused_instruction_ends_low_and_a_paraphrase_changes_nothing(said, refused):
    def predict(frames, _, playback):
        return by_milestones(frames) * (said if playback.name == "refused" else 1) - 0.02 * (
            playback.name == "paraphrase"
        )

    found = figures_of(predict, meta(**MARKS), stages=STAGES)
    assert found["paraphrase_change.raw"] == pytest.approx(0.02, abs=2e-3)  # at the start it is cut at 0
    assert found["refused_end.raw"] == pytest.approx(said, rel=0.05)
    assert found["refused.raw"] == refused


def test_where_a_step_is_undone_order_is_that_of_the_truth_that_falls():
    marks = tuple(
        Milestone(*of) for of in [("grasped", 100), ("undone grasped", 140), ("grasped", 160), ("placed", 180)]
    )
    known = replace(meta(**MARKS), milestones=marks)
    at = [0, 100, 140, 141, 160, 180, LAST]
    seen = figures_of(lambda f, *_: np.interp(f, at, [0, 0.25, 0.25, 0, 0.25, 0.75, 1]), known, stages=STAGES)
    assert seen["order_undone.raw"] > 0.99 and "voc.raw" not in seen
    assert figures_of(by_milestones, known, stages=STAGES)["order_undone.raw"] < 0.95
    assert "order_undone.raw" not in figures_of(by_milestones, meta(**MARKS), stages=STAGES)


def test_the_delay_of_a_failure_is_a_median_and_who_never_calls_it_needs_until_the_end():
    stuck = meta("FAILURE", grasped=100)
    found = figures_of(lambda *_: 0.3, stuck, stages=STAGES, perturbed=False)
    assert found["failure_delay.filtered"] == pytest.approx((LAST - 100) / FPS)
    figures = [{"rank": 0.0, "failure_delay.temporal": delay} for delay in (1.0, 2.0, 30.0)]
    figure = summarise(figures, ["a"] * 3)["failure_delay.temporal"]
    assert (figure.value, figure.low, figure.high) == (2, 1, 30)


def test_probabilities_are_compared_with_what_happened():
    said, so = np.array([0.05, 0.05, 0.9, 0.9, np.nan]), np.array([False, True, True, True, True])
    assert metrics.brier(said[:4], so[:4]) == pytest.approx((0.05**2 + 0.95**2 + 2 * 0.1**2) / 4)
    for found, expected in zip(metrics.reliability(said, so), ([0.05, 0.9], [0.5, 1.0]), strict=True):
        np.testing.assert_allclose(found, expected)


def test_every_measure_has_a_source_that_some_episode_gives():
    good = figures_of(by_milestones, meta(**MARKS), stages=STAGES, std=0.05, still=((40, 80),))
    partial = figures_of(lambda *_: 0.3, meta("FAILURE", grasped=100), stages=STAGES, std=0.05)
    failed = figures_of(lambda *_: 0.1, meta("FAILURE"), stages=STAGES, std=0.05)
    marks = (Milestone("grasped", 40), Milestone("undone grasped", 60), *meta(**MARKS).milestones)
    undone = figures_of(by_milestones, replace(meta(**MARKS), milestones=marks), stages=STAGES, std=0.05)
    found = summarise([good, partial, failed, undone], ["a"] * 4)
    missing = [m.key for m in MEASURES if not any(f"{m.key}.{source}" in found for source in SOURCES)]
    assert missing == ["delay"] or missing == []  # a success that is never declared has no delay


def test_every_measure_is_defined_in_the_docs():
    documented = set(re.findall(r"`([a-z0-9_]+)`", DOCS))
    assert {measure.key for measure in MEASURES} <= documented
    rows = [line.split("|")[1] for line in DOCS.splitlines() if line.startswith("| `")]
    assert {key for row in rows for key in re.findall(r"`([a-z0-9_]+)`", row)} == {m.key for m in MEASURES}
