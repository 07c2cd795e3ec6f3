"""What a conversion tells whoever runs it: how far it is, and what of the recordings was not used, dropped or odd."""

from __future__ import annotations

import sys
from collections.abc import Collection

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .planning import Plans
from .remarks import Remark, kept_but


def progress(console: Console) -> Progress:
    """Bars of a conversion; use it as a context."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, transient=not console.is_terminal)


def print_unused(plans: Plans) -> None:
    """Recordings that cannot be used, and why."""
    for bag, why in plans.failed.items():
        print(f"not used: {why if bag in why else f'{bag}: {why}'}", file=sys.stderr)


def print_dropped(plans: Plans) -> None:
    """Episodes that were dropped, and why."""
    for entry in plans.entries:
        if not entry.parts:
            said = "; ".join([*entry.reasons, *entry.notes])
            print(f"dropped: {entry.title}: {said}", file=sys.stderr)


def print_remarks(plans: Plans, kept: Collection[str]) -> None:
    """What is odd about recordings of which something is kept: ``kept`` names them."""
    usable = [entry for entry in plans.entries if entry.bag in kept and (entry.parts or not entry.reasons)]
    remarks = [Remark(entry.title, text) for entry in usable for text in (*entry.notes, *entry.reasons)]
    for scan, found in zip(plans.scans, plans.found, strict=True):
        if str(scan.path) in kept:
            remarks += [Remark(scan.path.name, note) for note in (*scan.notes, *found.notes)]
    if lines := kept_but(remarks, [part for entry in usable for part in entry.parts]):
        print("kept, but", file=sys.stderr)
        for line in lines:
            print(f"  {line}", file=sys.stderr)
