"""Figures of driven episodes: how often the task was done, and whether the policy knew."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from rich.table import Table
from scipy.stats import binomtest

from .closed_loop import DrivenEpisode

PREMATURE_S = 1.0  # declared so long before the physics decided is premature


def summarise(episodes: Sequence[DrivenEpisode]) -> dict[str, Any]:
    """Figures of episodes, at least one. Shares come with count, total and 95 % interval.

    Success is the physics'. Agreement is the share of episodes in which the status was SUCCEEDED at some time if and
    only if the task was done.
    """
    n = len(episodes)
    done = [e.outcome == "success" for e in episodes]
    declared = [e.declared_s is not None for e in episodes]
    estimated = [e.progress for e in episodes if e.progress is not None]
    known = bool(estimated)  # whether there is a progress head at all
    early = [
        e.declared_s is not None and e.declared_s < e.decided_s - PREMATURE_S
        for e in episodes
        if e.outcome == "success"
    ]
    errors = [abs(e.progress - e.true_progress) for e in episodes if e.progress is not None]
    return {
        "episodes": n,
        "success": _share(sum(done), n),
        "milestones": mean(e.true_progress for e in episodes),
        "seconds_to_success": mean(e.decided_s for e in episodes if e.outcome == "success") if any(done) else None,
        "progress_at_end": mean(estimated) if known else None,
        "progress_error_at_end": mean(errors) if known else None,
        "agreement": _share(sum(a == b for a, b in zip(done, declared, strict=True)), n) if known else None,
        "declared_and_done": sum(a and b for a, b in zip(done, declared, strict=True)),
        "done_but_not_declared": sum(a and not b for a, b in zip(done, declared, strict=True)),
        "declared_but_not_done": sum(b and not a for a, b in zip(done, declared, strict=True)),
        "declared_prematurely": sum(early),
        "stopped": sum(bool(e.stopped) for e in episodes),
    }


def _share(count: int, total: int) -> dict[str, float]:
    interval = binomtest(count, total).proportion_ci(0.95, "wilson")
    low, high = float(interval.low), float(interval.high)
    return {"share": count / total, "count": count, "total": total, "low": low, "high": high}


def table(figures: dict[str, dict[str, Any]]) -> Table:
    """Figures by task, for people."""
    made = Table(title="The policy drives the simulated robot; 95 % Wilson intervals")
    made.add_column("")
    for task in figures:
        made.add_column(task, justify="right")
    rows = (
        ("success", "success"), ("milestones", "milestones that hold in the end, share"),
        ("seconds_to_success", "seconds to success"), ("progress_at_end", "estimated progress at the end"),
        ("progress_error_at_end", "its distance from the share of milestones"),
        ("agreement", "status SUCCEEDED agrees with the truth"),
        ("done_but_not_declared", "done, not declared"), ("declared_but_not_done", "declared, not done"),
        ("declared_prematurely", f"declared more than {PREMATURE_S:g} s too early"),
        ("stopped", "commanding ended by itself"),
    )  # fmt: skip
    for key, title in rows:
        made.add_row(title, *(_cell(of[key]) for of in figures.values()))
    return made


def _cell(value: Any) -> str:
    match value:
        case None:
            return "unknown"
        case dict():
            return (
                f"{value['count']}/{value['total']}  {value['share']:.2f} \\[{value['low']:.2f}, {value['high']:.2f}]"
            )
        case int():
            return str(value)
        case _:
            return f"{value:.2f}"


def figures_by_task(episodes: Sequence[DrivenEpisode]) -> dict[str, dict[str, Any]]:
    """Figures of the episodes of every task, and of all where there are several tasks."""
    by_task = {
        task: summarise([e for e in episodes if e.task == task]) for task in dict.fromkeys(e.task for e in episodes)
    }
    return by_task | ({"total": summarise(episodes)} if len(by_task) > 1 else {})
