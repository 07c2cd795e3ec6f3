"""Compares this model with recorded numbers of openpi's.

    python -m pi05_progress.models.parity test/data/golden

Reads every golden set in the files or folders given, rebuilds the model from the set's own configuration, and prints
per quantity the largest absolute and relative difference beside what is tolerated. Files that belong to no set known
here, and quantities that are not this package's, are named as not checked. Exit status 1 if a tolerance is exceeded, a
file is damaged, or nothing was checked.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """One quantity compared, or passed over (``skipped``, with the reason in ``note``): that counts for nothing."""

    name: str
    absolute: float
    relative: float
    tolerance: Tolerance
    ok: bool
    note: str = ""
    skipped: bool = False


def skip(name: str, why: str) -> Check:
    """A quantity that is not compared."""
    return Check(name, 0.0, 0.0, Tolerance(), True, why, skipped=True)


def same(name: str, ours: Any, theirs: Any, note: str = "") -> Check:
    """Compare what is either equal or not: text, bytes, plain values."""
    if ours == theirs:
        return Check(name, 0.0, 0.0, Tolerance(), True, note)
    return Check(name, np.inf, np.inf, Tolerance(), False, f"{_shortened(ours)} instead of {_shortened(theirs)}")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
    finite = b[np.isfinite(b)] if np.isfinite(b).any() else np.zeros(1)
    if tolerance.rms is not None:
        relative = float(np.sqrt(np.mean(np.square(difference)))) / max(float(np.sqrt(np.mean(finite**2))), 1e-30)
        ok = relative <= tolerance.rms
    else:
        ok = bool((difference <= tolerance.atol + tolerance.rtol * np.abs(np.nan_to_num(b))).all())
        relative = float(difference.max()) / max(float(np.abs(finite).max()), 1e-30)
    return Check(name, float(difference.max()), relative, tolerance, ok, note)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def npz_names(path: Path) -> list[str]:
    """Names of a file's arrays, without reading them; empty if its name does not end in .npz.

    Raises:
        ValueError: it is damaged.
    """
    if path.suffix != ".npz":
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file, NaN included.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


Checker = Callable[[Path], Iterator[Check]]
# A kind of set: its title, the key file of the set that a file belongs to (or None), and what compares it.
Kind = tuple[str, Callable[[Path], Path | None], Checker]
PROGRAM = "python -m pi05_progress.models.parity"


@dataclass(frozen=True)
class Found:
    """The sets in what was given, as (title, checker, key file), and the files that belong to none."""

    sets: list[tuple[str, Checker, Path]]
    others: list[Path]


def own_kinds() -> list[Kind]:
    """The kinds of sets of this package."""
    from . import parity_model, parity_torch, parity_transforms

    return [*parity_model.KINDS, *parity_torch.KINDS, *parity_transforms.KINDS]


def find_sets(paths: Sequence[Path], kinds: Sequence[Kind]) -> Found:
    """What kind of set each file belongs to, without repetition, in order.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file is damaged.
    """
    found: dict[tuple[str, Path], tuple[str, Checker, Path]] = {}
    others = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            keys = [(title, key_file(file), checker) for title, key_file, checker in kinds]
            members = [(title, key, checker) for title, key, checker in keys if key is not None and key.is_file()]
            for title, key, checker in members:
                found.setdefault((title, key), (f"{title} {key.name}", checker, key))
            if not members:
                others.append(file)
    return Found(list(found.values()), others)


def check_all(paths: Sequence[Path], show: Callable[[str, list[Check]], None], kinds: Sequence[Kind]) -> list[Check]:
    """Check every set and show each; returns all checks.

    Raises:
        OSError, ValueError: a file is missing, damaged, or lacks something.
    """
    found = find_sets(paths, kinds)
    everything = []
    for title, checker, key in found.sets:
        try:
            checks = list(checker(key))
        except KeyError as error:
            raise ValueError(f"{key}: the set lacks {error}") from error
        except ValueError as error:
            raise ValueError(str(error) if str(key.parent) in str(error) else f"{key}: {error}") from error
        if not checks:
            raise ValueError(f"{key}: the set has nothing to compare with; are its other files missing?")
        show(title, checks)
        everything += checks
    everything += [skip(str(file), "belongs to no set that is known here") for file in found.others]
    return everything


def main(
    arguments: Sequence[str] | None = None,
    kinds: Sequence[Kind] | None = None,
    program: str = PROGRAM,
    description: str | None = __doc__,
) -> int:
    """Entry point, also of other packages' tools of this sort with kinds of their own; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER", help="golden sets, or folders of them")
    parser.add_argument("--failures", action="store_true", help="print only what exceeds its tolerance")
    args = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)

    def show(title: str, checks: list[Check]) -> None:
        rows = [check for check in checks if not (check.skipped or (args.failures and check.ok))]
        if not rows:
            return
        table = Table("quantity", "absolute", "relative", "tolerance", "", "", title=title, title_justify="left")
        for c in rows:
            table.add_row(
                c.name, f"{c.absolute:.2e}", f"{c.relative:.2e}", str(c.tolerance), "ok" if c.ok else "EXCEEDED", c.note
            )
        console.print(table)

    try:
        checks = check_all(args.paths, show, own_kinds() if kinds is None else kinds)
    except (OSError, ValueError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return 1
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


if __name__ == "__main__":
    sys.exit(main())
