"""What a run tells whoever watches it: a bar on a terminal, plain lines elsewhere; only from process 0."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SHOWN = {  # of a row of the logs: name there and here
    "loss": "loss",
    "action_loss": "action",
    "progress_loss": "progress",
    "progress_mae": "MAE",
    "position_error_mm": "position mm",
    "spearman": "rank",
    "action_error": "rad",
    "success": "success",
    "milestones": "milestones",
    "grad_norm": "grad",
    "learning_rate": "lr",
    "samples_per_second": "samples/s",
}


class Console(Progress):
    """Use it as a context; the bar is there meanwhile."""

    def __init__(self, total: int) -> None:
        console = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self._quiet = jax.process_index() != 0
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        bar = not self._quiet and console.is_terminal
        super().__init__(*columns, console=console, disable=not bar, speed_estimate_period=120)
        self._bar, self._total = self.add_task("", total=total), total

    def say(self, text: str) -> None:
        """A line."""
        if not self._quiet:
            self.console.print(text, markup=False)

    def steps_done(self, step: int) -> None:
        """Move the bar."""
        self.update(self._bar, completed=step)

    def row(self, what: str, step: int, values: Mapping[str, float]) -> None:
        """A row of the logs in brief."""
        known = [(short, values[name]) for name, short in SHOWN.items() if not math.isnan(values.get(name, math.nan))]
        parts = [f"{short} {value:.4g}" for short, value in known]
        self.say(f"{what} {step}/{self._total}  " + "  ".join(parts))
