"""Figures of many episodes, in total and by task, each with its 95 % interval; and the list of what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import bootstrap
from .bootstrap import Figure, Statistic
from .episode_figures import HIGH, LATE_S, MOMENTS, PREMATURE_S, REFUSED_BELOW
from .predictions import LEVELS
from .truth import STILL_S, SUCCESSFUL

SOURCES = ("raw", "filtered", "temporal", "clock")
EXCESSIVE_S = 1.0  # so long above HIGH is too long for a failure


@dataclass(frozen=True)
class Measure:
    """A row of the table."""

    key: str  # its name in JSON; a figure is `<key>.<source>`
    title: str  # for people
    section: str  # under which it stands
    unit: str = ""  # empty, `s` or `ms`
    better: str = ""  # `higher`, `lower`, or what it should be


ORDER, ERROR = "Successful episodes: order", "Successful episodes: error"
STILL = "Recorded standstills, all episodes"
OUTCOMES, PERTURBED = "Outcomes", "Perturbations of successful episodes"
FAILURE = "Failure called"
BELIEF, REMAINING, LATENCY = "Interval", "Time remaining", "Latency"
MEASURES: tuple[Measure, ...] = (
    Measure("voc", "value-order correlation (Spearman)", ORDER, better="higher"),
    Measure("kendall", "Kendall's tau-b", ORDER, better="higher"),
    Measure("order_undone", "steps undone: Spearman with the truth that falls", ORDER, better="higher"),
    Measure("drops", "sum of drops", ORDER, better="lower"),
    Measure("mae_linear", "mean error against linear truth", ERROR, better="lower"),
    Measure("mae_milestone", "mean error against milestone truth", ERROR, better="lower"),
    Measure("skill_linear", "skill over the clock, linear truth", ERROR, better="higher"),
    Measure("skill_milestone", "skill over the clock, milestone truth", ERROR, better="higher"),
    Measure("boundary", "error at milestones", ERROR, better="lower"),
    Measure("ranking", "pairs in the order failed < partial < successful", OUTCOMES, better="higher"),
    Measure("ranking_failed_successful", "failed < successful", OUTCOMES, better="higher"),
    Measure("ranking_partial_successful", "partial < successful", OUTCOMES, better="higher"),
    Measure("ranking_failed_partial", "failed < partial", OUTCOMES, better="higher"),
    Measure("success_f1", "success declared: F1", OUTCOMES, better="higher"),
    Measure("premature", f"successes declared more than {PREMATURE_S:g} s too early", OUTCOMES, better="lower"),
    Measure("late", f"successes declared more than {LATE_S:g} s too late", OUTCOMES, better="lower"),
    Measure("missed", "successes never declared", OUTCOMES, better="lower"),
    Measure("delay", "delay of declared successes", OUTCOMES, "s", "near 0"),
    Measure("false_alarm", "failures declared a success", OUTCOMES, better="lower"),
    Measure("failure_end", "failures: progress at the end", OUTCOMES),
    Measure("failure_high", "failures: highest progress", OUTCOMES, better="lower"),
    Measure("failure_excess", "failures: progress at the end beyond the last milestone", OUTCOMES, better="near 0"),
    Measure("failure_too_high", f"failures above {HIGH:g} for {EXCESSIVE_S:g} s or longer", OUTCOMES, better="lower"),
    Measure("auroc_end", "failure told by its end: area under the ROC curve", FAILURE, better="higher"),
    Measure("auroc_half", "failure told at half of the usual duration", FAILURE, better="higher"),
    Measure("called_failure", "failures called FAILED", FAILURE, better="higher"),
    Measure("failure_delay", "from when truth last rose until called FAILED, median", FAILURE, "s", "lower"),
    Measure("called_success", "successes called FAILED", FAILURE, better="lower"),
    Measure("unlike", "share of moments without progress: unlike the data", FAILURE, better="lower"),
    Measure("standstill_drift", f"drift while the robot stood still for {STILL_S:g} s or more", STILL, better="lower"),
    Measure("pause_drift", "drift in a pause of 5 s", PERTURBED, better="lower"),
    Measure("reversed_voc", "reversed: value-order correlation", PERTURBED, better="near -1"),
    Measure("half_speed_mae", "half speed: mean error", PERTURBED, better="lower"),
    Measure("half_speed_change", "half speed: change", PERTURBED, better="lower"),
    Measure("double_speed_mae", "double speed: mean error", PERTURBED, better="lower"),
    Measure("double_speed_change", "double speed: change", PERTURBED, better="lower"),
    Measure("wrong_end", "wrong instruction: progress at the end", PERTURBED, better="lower"),
    Measure("wrong_change", "wrong instruction: change", PERTURBED, better="higher"),
    Measure("paraphrase_change", "other wording: change", PERTURBED, better="lower"),
    Measure("refused_end", "refused instruction: progress at the end", PERTURBED, better="lower"),
    Measure(
        "refused", f"refused instructions that end below {REFUSED_BELOW:g}, or unknown", PERTURBED, better="higher"
    ),
    Measure("black_mae", "one camera black: mean error", PERTURBED, better="lower"),
    Measure("black_change", "one camera black: change", PERTURBED, better="lower"),
    *(Measure(f"coverage_{100 * p:.0f}", f"coverage at {100 * p:.0f} %", BELIEF, better=f"{p:g}") for p in LEVELS),
    *(Measure(f"width_{100 * p:.0f}", f"width at {100 * p:.0f} %", BELIEF, better="lower") for p in LEVELS),
    Measure("tenth_least", "coverage at 90 %, the tenth of an episode with the least", BELIEF, better="0.9"),
    Measure("tenth_most", "coverage at 90 %, the tenth of an episode with the most", BELIEF, better="0.9"),
    Measure("crps", "CRPS", BELIEF, better="lower"),
    Measure("brier", "Brier score of the probability that the task is complete", BELIEF, better="lower"),
    *(Measure(f"remaining_{100 * p:.0f}", f"error at {100 * p:.0f} %", REMAINING, "s", "lower") for p in MOMENTS),
    *(
        Measure(f"remaining_covered_{100 * p:.0f}", f"within its 90 % interval at {100 * p:.0f} %", REMAINING)
        for p in MOMENTS
    ),
    Measure("remaining_told", "share of these moments at which it is told", REMAINING, better="higher"),
    Measure("latency_median", "median of an episode", LATENCY, "ms", "lower"),
    Measure("latency_p95", "95 % of an episode", LATENCY, "ms", "lower"),
)
# yes or no of an episode: their intervals are Wilson's, since the bootstrap of 0 of 9 is [0, 0]
SHARES = frozenset(
    {"premature", "late", "missed", "false_alarm", "failure_too_high", "called_failure", "called_success", "refused"}
    | {f"remaining_covered_{100 * p:.0f}" for p in MOMENTS}
)
_PAIRS = {
    "ranking": (0, 1, 2), "ranking_failed_successful": (0, 2), "ranking_partial_successful": (1, 2),
    "ranking_failed_partial": (0, 1),
}  # fmt: skip


def summarise(
    episodes: Sequence[Mapping[str, float]], tasks: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Figure]:
    """Every figure that the figures of episodes allow, by name; only episodes of one task are ranked together."""
    samples = bootstrap.draws(len(episodes), resamples, seed)
    found = {}
    for measure in MEASURES:
        for source in SOURCES:
            made = _statistic(measure.key, source, episodes, np.array(tasks))
            if made is None:
                continue
            statistic, used = made
            if measure.key in SHARES:
                figure = bootstrap.share(_values(measure.key, source, episodes))
            else:
                figure = bootstrap.figure(statistic, used, samples)
            if figure.value is not None:
                found[f"{measure.key}.{source}"] = figure
    return found


def _column(episodes: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    return np.array([of.get(name, np.nan) for of in episodes], float)


def _statistic(
    key: str, source: str, episodes: Sequence[Mapping[str, float]], tasks: np.ndarray
) -> tuple[Statistic, np.ndarray] | None:
    """How a figure comes about, and of which episodes; None if nothing of the kind is known of any."""
    rank = _column(episodes, "rank")
    if key in _PAIRS:
        score = _column(episodes, f"end.{source}")
        used = np.isfinite(score) & np.isin(rank, _PAIRS[key])
        return bootstrap.ordered_pairs(np.where(used, score, np.nan), rank, tasks), used
    if key.startswith("auroc_"):
        alarm = _column(episodes, f"alarm_{key.removeprefix('auroc_')}.{source}")
        success = np.where(np.isfinite(rank), rank == SUCCESSFUL, np.nan)
        return bootstrap.ordered_pairs(-alarm, success, tasks), np.isfinite(alarm)
    if key.startswith("tenth_"):
        tenths = [_column(episodes, f"tenth_{k}.{source}") for k in range(10)]
        extreme = np.nanmin if key == "tenth_least" else np.nanmax
        used = np.isfinite(tenths).any(axis=0)
        if not used.any():
            return None
        return lambda weights: extreme([bootstrap.mean(of)(weights) for of in tenths], axis=0), used
    if key == "success_f1":
        declared = _column(episodes, f"declared.{source}")
        return bootstrap.f1(declared, rank == SUCCESSFUL), np.isfinite(declared)
    if key.startswith("skill_"):
        if source == "clock":
            return None  # 0 by definition
        name = key.removeprefix("skill_")
        error, baseline = (_column(episodes, f"mae_{name}.{s}") for s in (source, "clock"))
        return bootstrap.skill(error, baseline), np.isfinite(error) & np.isfinite(baseline)
    values = _values(key, source, episodes)
    return (bootstrap.median if key == "failure_delay" else bootstrap.mean)(values), np.isfinite(values)


def _values(key: str, source: str, episodes: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Of each episode, NaN where it has none."""
    if key != "failure_too_high":
        return _column(episodes, f"{key}.{source}")
    seconds = _column(episodes, f"failure_above.{source}")
    return np.where(np.isfinite(seconds), seconds > EXCESSIVE_S - 1e-9, np.nan)
