"""Recorded files, and how a number in them is compared: the difference, what is tolerated, and whether it is kept."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import one_line


@dataclass(frozen=True)
class Tolerance:
    """What difference is acceptable."""

    # atol, rtol: element by element, `|ours - theirs| <= atol + rtol |theirs|`
    atol: float = 0.0
    rtol: float = 0.0
    # instead of these, the largest root mean square of the difference relative to that of the numbers
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


EXACT = Tolerance()
# Of one forward pass in single precision.
FORWARD = Tolerance(atol=5e-5, rtol=1e-4)


def skip(name: str, why: str) -> Check:
    """A quantity that is not compared."""
    return Check(name, 0.0, 0.0, Tolerance(), True, why, skipped=True)


def same(name: str, ours: Any, theirs: Any, note: str = "") -> Check:
    """Compare what is either equal or not: text, bytes, plain values."""
    if ours == theirs:
        return Check(name, 0.0, 0.0, Tolerance(), True, note)
    told = [one_line(repr(value), 60) for value in (ours, theirs)]
    return Check(name, np.inf, np.inf, Tolerance(), False, " instead of ".join(told))


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
    """All arrays of a file; a ValueError if it is damaged."""
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def npz_names(path: Path) -> list[str]:
    """Names of a file's arrays, without reading them, none if it is no .npz; a ValueError if it is damaged."""
    if path.suffix != ".npz":
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file, NaN included; a ValueError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def is_list_of(file: Path, keys: set[str]) -> bool:
    """Whether a file is JSON, a list of dictionaries that all have these keys; a ValueError if it is damaged."""
    if file.suffix != ".json":
        return False
    content = read_json(file)
    return isinstance(content, list) and bool(content) and all(isinstance(x, dict) and keys <= set(x) for x in content)
