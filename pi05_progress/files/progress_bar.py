"""The progress bar of the offline tools: on standard error, and only where somebody may be looking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, steps: int, what: str | None = None) -> None:
        """So many steps are done; ``what`` replaces what is said to be done."""


@contextmanager
def progress_bar(what: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """A bar while the block runs; the function it gives advances it. Its ``unit`` is in the plural, as ``frames``;
    ``bytes`` are shown in MB and GB. Where ``quiet``, or on no terminal, nothing is shown.
    """
    console = Console(stderr=True)
    amount = (DownloadColumn(),) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda steps, what=None: bar.update(task, advance=steps, description=what)
