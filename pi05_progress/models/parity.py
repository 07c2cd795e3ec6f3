"""Compares this model with recorded numbers of openpi's.

    python -m pi05_progress.models.parity test/data/golden

Reads every golden set in the files or folders given, rebuilds the model from the set's own configuration, and prints
per quantity the largest absolute and relative difference beside what is tolerated. Exit status 1 if a tolerance is
exceeded or nothing was checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Tolerance:
    """What difference is acceptable.

    Attributes:
        atol, rtol: element by element, ``|ours - theirs| <= atol + rtol |theirs|``.
        rms: instead of these, the largest root mean square of the difference relative to that of the numbers.
    """

    atol: float = 0.0
    rtol: float = 0.0
    rms: float | None = None

    def __str__(self) -> str:
        if self.rms is not None:
            return f"rms {self.rms:.2g}"
        return "equal" if not (self.atol or self.rtol) else f"{self.atol:.1g} + {self.rtol:.1g} |x|"


@dataclass(frozen=True)
class Check:
    """One quantity compared."""

    name: str
    absolute: float
    relative: float
    tolerance: Tolerance
    ok: bool
    note: str = ""


def compare(name: str, ours: object, theirs: object, tolerance: Tolerance, note: str = "") -> Check:
    """Compare two arrays of one shape."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        return Check(name, np.inf, np.inf, tolerance, False, f"shape {a.shape}, recorded {b.shape}")
    if a.size == 0:
        return Check(name, 0.0, 0.0, tolerance, True, note)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
    difference = np.where(np.isnan(difference), np.inf, difference)
    scale = max(float(np.sqrt(np.nanmean(np.square(b)))), 1e-30)
    if tolerance.rms is not None:
        relative = float(np.sqrt(np.mean(np.square(difference)))) / scale
        ok = relative <= tolerance.rms
    else:
        ok = bool((difference <= tolerance.atol + tolerance.rtol * np.abs(np.nan_to_num(b))).all())
        relative = float(difference.max()) / max(float(np.nanmax(np.abs(b))), 1e-30)
    return Check(name, float(difference.max()), relative, tolerance, ok, note)


Checker = Callable[[Path], Iterator[Check]]


def find_sets(paths: Sequence[Path]) -> list[tuple[str, Checker, Path]]:
    """What kind of set each file belongs to: (title, checker, key file), without repetition, in order.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    from . import parity_model, parity_torch, parity_transforms

    kinds = [*parity_model.KINDS, *parity_torch.KINDS, *parity_transforms.KINDS]
    found: dict[tuple[str, Path], tuple[str, Checker, Path]] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            for title, key_file, checker in kinds:
                key = key_file(file)
                if key is not None and key.is_file():
                    found.setdefault((title, key), (f"{title} {key.name}", checker, key))
    return list(found.values())


def check_all(paths: Sequence[Path], show: Callable[[str, list[Check]], None]) -> tuple[int, int]:
    """Check every set; returns how many quantities were compared and how many of them failed."""
    compared = failed = 0
    for title, checker, key in find_sets(paths):
        checks = list(checker(key))
        show(title, checks)
        compared += len(checks)
        failed += sum(not check.ok for check in checks)
    return compared, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pi05_progress.models.parity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER", help="golden sets, or folders of them")
    parser.add_argument("--failures", action="store_true", help="print only what exceeds its tolerance")
    args = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)

    def show(title: str, checks: list[Check]) -> None:
        rows = [check for check in checks if not (args.failures and check.ok)]
        if not rows:
            return
        table = Table("quantity", "absolute", "relative", "tolerance", "", "", title=title, title_justify="left")
        for c in rows:
            table.add_row(
                c.name, f"{c.absolute:.2e}", f"{c.relative:.2e}", str(c.tolerance), "ok" if c.ok else "EXCEEDED", c.note
            )
        console.print(table)

    try:
        compared, failed = check_all(args.paths, show)
    except (OSError, ValueError, KeyError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return 1
    if not compared:
        print("parity: nothing was checked; no golden set was found in what was given", file=sys.stderr)
        return 1
    print(f"{compared} quantities compared, {failed} exceed their tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
