"""Compares checkpoints by goals of RunTask that were recorded on a robot, or in simulation.

    python -m training.evaluate_rollouts --rollouts DIR ANOTHER --output rollouts.html --json rollouts.json

Success is as the operator judged it (~/judge) or as the simulation knows, otherwise as the policy declared it. Starts
are the same where a simulation's objects lie at the same places, otherwise where recordings have the same name.
"""

from __future__ import annotations

import html
import json
import sys
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from pi05_progress.errors import UserError, run_program
from pi05_progress.files.output_file import check_output, write_file

from .evaluation.bootstrap import Figure
from .evaluation.rollouts import Row, compare, read_rollouts
from .report.html_page import html_page, row, table


@dataclass(frozen=True)
class RolloutOptions:
    """Command line."""

    rollouts: tuple[Path, ...]
    """Folders with recordings of goals."""
    json: Path | None = None
    """File for all numbers, and every rollout."""
    output: Path | None = None
    """File for a page."""
    overwrite: bool = False
    """Replace files that are there."""


def _text(value: Any) -> str:
    """A number for people, with its interval if it has one."""
    if isinstance(value, Figure):
        between = "" if value.low is None else f" [{value.low:.2f}, {value.high:.2f}]"
        return "-" if value.value is None else f"{value.value:.2f}{between} of {value.episodes}"
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def _cells(of: Row) -> list[str]:
    return [_text(value) for value in vars(of).values()]


def evaluate(args: RolloutOptions) -> None:
    """Read, compare, print, write; without goals, or where a file is there already, a ``UserError``."""
    check_output(args.json, args.output, overwrite=args.overwrite)
    rollouts = read_rollouts(args.rollouts)
    if not rollouts:
        folders = ", ".join(map(str, args.rollouts))
        raise UserError(f"{folders}: these recordings hold no goal of RunTask that has ended; record episode_event")
    rows, headings = compare(rollouts), [name.replace("_", " ") for name in Row.__dataclass_fields__]
    shown = Table(*headings)
    for of in rows:
        shown.add_row(*_cells(of))
    Console().print(shown)
    if args.json:
        data = {"checkpoints": [asdict(of) for of in rows], "rollouts": [asdict(of) for of in rollouts]}
        write_file(args.json, json.dumps(data, indent=1) + "\n")
    if args.output:
        said = f"{__doc__.rpartition('.json')[2]} Intervals are 95 %; better: than the first, over pairs of one start."
        every = [row(html.escape(_text(value)) for value in astuple(of)) for of in rollouts]
        parts = [
            f"<h1>Rollouts</h1><p class='soft'>{html.escape(said)}</p>",
            table([row(headings, "th"), *(row(map(html.escape, _cells(of))) for of in rows)]),
            "<h2>Every goal</h2>", table([row(type(rollouts[0]).__dataclass_fields__, "th"), *every]),
        ]  # fmt: skip
        write_file(args.output, html_page("Rollouts", parts))


def main() -> int:
    """Parse the command line and evaluate; returns the exit status."""
    args = tyro.cli(RolloutOptions, description=__doc__)
    return run_program(lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
