"""The program around all comparisons: finds sets in files and folders, checks them, prints a table for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .checks import Check, skip

Checker = Callable[[Path], Iterator[Check]]
# A kind of set: its title, the key file of the set that a file belongs to (True: itself), and what compares it.
Kind = tuple[str, Callable[[Path], Path | bool | None], Checker]
Found = tuple[str, Checker, Path]  # a set's title, what compares it, and its key file


@dataclass(frozen=True)
class ParityOptions:
    """Command line."""

    paths: tuple[Path, ...]
    """Golden sets, or folders of them."""
    failures: bool = False
    """Print only what exceeds its tolerance."""


def find_sets(paths: Sequence[Path], kinds: Sequence[Kind]) -> tuple[list[Found], list[Path]]:
    """The sets in what is given, each once and in order, and the files that belong to none; raises as ``check_set``."""
    found: dict[tuple[str, Path], Found] = {}
    others = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            members = [(title, key, checker) for title, key_of, checker in kinds if (key := key_of(file))]
            for title, of, checker in members:
                key = file if of is True else of
                found.setdefault((title, key), (f"{title} {key.name}", checker, key))
            if not members:
                others.append(file)
    return list(found.values()), others


def check_set(checker: Checker, key: Path) -> list[Check]:
    """All checks of a set; a ValueError, or an OSError, where a file is missing or damaged."""
    try:
        checks = list(checker(key))
    except KeyError as error:
        raise ValueError(f"{key}: the set lacks {error}") from error
    except ValueError as error:
        raise ValueError(str(error) if str(key.parent) in str(error) else f"{key}: {error}") from error
    if not checks:
        raise ValueError(f"{key}: the set has nothing to compare with; are its other files missing?")
    return checks


def run_program(kinds: Sequence[Kind], program: str, description: str | None, arguments: Sequence[str] | None) -> int:
    """Check what the command line names, print the result, and return the exit status.

    It is 0 if something was checked and all of it is within its tolerance, else 1.
    """
    import tyro  # here: rented machines, which lack it, compare sets without this program

    grammar = (tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs)
    args = tyro.cli(ParityOptions, prog=program, description=description, args=arguments, config=grammar)
    console, checks = Console(width=None if sys.stdout.isatty() else 140), []
    try:
        found, others = find_sets(args.paths, kinds)
        for title, checker, key in found:
            table = Table("quantity", "absolute", "relative", "tolerance", "", "", title=title, title_justify="left")
            for c in (of_set := check_set(checker, key)):
                if not (c.skipped or (args.failures and c.ok)):
                    numbers = f"{c.absolute:.2e}", f"{c.relative:.2e}", str(c.tolerance)
                    table.add_row(c.name, *numbers, "ok" if c.ok else "EXCEEDED", c.note)
            if table.row_count:
                console.print(table)
            checks += of_set
    except (OSError, ValueError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return 1
    checks += [skip(str(file), "belongs to no set that is known here") for file in others]
    for check in checks:
        if check.skipped:
            print(f"not checked: {check.name}: {check.note}")
    compared = [check for check in checks if not check.skipped]
    if not compared:
        print("parity: nothing was checked; no golden set was found in what was given", file=sys.stderr)
        return 1
    failed = sum(not check.ok for check in compared)
    print(f"{len(compared)} quantities compared, {failed} exceed their tolerance")
    return 1 if failed else 0
