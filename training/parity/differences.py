"""Whether two runs differ by rounding alone: judged by runs of our own that differ by nothing else.

Everywhere ``ours`` is of the run as it is, ``others`` of runs that are rounded differently, ``theirs`` recorded, and
``start`` before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pi05_progress.parity.checks import Check, Tolerance, compare

TIMES = 3.0
"""How much larger than that between runs of our own the root mean square of a difference may be."""
SENSITIVE = 10.0
"""A number that rounding moves so many times as far as its neighbours has a gradient of nearly zero. Adam makes a step
of any size of it, in either direction, so that a few such numbers would decide the root mean square of a whole leaf."""
SCALE = Tolerance(atol=0.005)
"""Of an update's scale. Rounding was seen to move it by 3e-4; an update that is one hundredth too large is found."""


def compare_metric(name: str, ours: np.ndarray, others: Sequence[np.ndarray], theirs: np.ndarray) -> Check:
    """Compare a metric over all steps."""
    floor = np.finfo(np.float32).eps * _rms(ours)  # runs of our own may agree to the last digit by chance
    noise = max(_rms(np.subtract(others, ours)), floor)
    return compare(name, ours, theirs, _relative(noise, theirs))


def compare_parameter(
    name: str, start: np.ndarray, ours: np.ndarray, others: Sequence[np.ndarray], theirs: np.ndarray
) -> Iterator[Check]:
    """Compare a parameter after the last step, and the scale of the way it has gone.

    The scale is the factor by which the recorded way comes nearest to ours: an error of all its numbers in common shows
    there long before it exceeds their rounding.
    """
    if ours.shape != theirs.shape:
        yield compare(name, ours, theirs, Tolerance())
        return
    noise = rounding(start, ours, others)
    settled = ~sensitive(noise, ours != start)
    left_out = int(np.sum(~settled))
    note = f"{left_out} of {settled.size} left out" if left_out else ""
    yield compare(name, ours[settled], theirs[settled], _relative(_rms(noise[settled]), theirs[settled]), note)
    if np.any(theirs[settled] != start[settled]):
        yield compare_scale(f"{name}, scale", ours[settled] - start[settled], theirs[settled] - start[settled])


def compare_sums(
    name: str, start: np.ndarray, ours: np.ndarray, others: Sequence[np.ndarray], theirs: np.ndarray
) -> Check:
    """Compare the sum and the sum of absolute values, of which alone there is a record."""
    noise = rounding(start, ours, others)
    apart = sensitive(noise, ours != start)
    # Rounding errors of numbers are nearly independent: that of a sum grows with the root of how many there are.
    own = max(_rms([sums(other) - sums(ours) for other in others]), np.sqrt(ours.size) * _rms(noise[~apart]))
    # A few runs say little about a single number, and one that is sensitive may decide the sum.
    single = SENSITIVE * np.linalg.norm(noise[apart])
    # Every step rounds the average once if the processor multiplies and adds at once, else three times: that moves even
    # numbers which are not trained, and many of them in the same direction.
    drift = np.finfo(np.float32).eps * np.abs(ours).sum()
    return compare(name, sums(ours), theirs, Tolerance(atol=float(TIMES * own + single + drift)))


def compare_scale(name: str, ours: np.ndarray, theirs: np.ndarray) -> Check:
    """Compare the scale of two updates of one shape; the recorded one must not be zero."""
    scale = np.vdot(ours, theirs) / np.vdot(theirs, theirs)
    return compare(name, scale, 1.0, SCALE)


def rounding(start: np.ndarray, ours: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """How far rounding moves every number of a parameter; at least half a last digit of single precision."""
    floor = np.finfo(np.float32).eps / 2 * _rms(start)
    return np.maximum(np.sqrt(np.mean(np.square(np.subtract(others, ours)), axis=0)), floor)


def sensitive(noise: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Which numbers rounding moves much farther than is usual among those that training has moved."""
    return noise > SENSITIVE * np.median(noise[moved] if moved.any() else noise)


def sums(values: np.ndarray) -> np.ndarray:
    """The sum of numbers, and that of their absolute values."""
    return np.array([values.sum(), np.abs(values).sum()])


def _relative(noise: float, theirs: np.ndarray) -> Tolerance:
    return Tolerance(rms=TIMES * noise / max(_rms(theirs), 1e-30))


def _rms(values: np.ndarray | Sequence[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
