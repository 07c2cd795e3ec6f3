"""Which episodes are held out for validation."""

from __future__ import annotations

import hashlib

from .config import DataConfigError


def held_out(count: int, fraction: float, seed: int) -> list[int]:
    """Episodes that are not trained on, in order: those with the smallest hashes of (seed, episode index).

    Args:
        count: episodes of the data set.
        fraction: of them that is held out, at least one; 0 holds out none.
        seed: of the split.

    Raises:
        DataConfigError: the fraction is not in [0, 1), or nothing is left to train on.
    """
    if not 0 <= fraction < 1:
        raise DataConfigError(f"validation_fraction is {fraction}; expected at least 0 and less than 1")
    if fraction == 0:
        return []
    out = max(1, round(fraction * count))
    if out >= count:
        raise DataConfigError(
            f"validation_fraction {fraction} of {count} episode{'s' * (count > 1)} holds out {out}, which leaves none "
            "to train on; record more episodes, or choose --data.validation_fraction 0 and do without validation"
        )
    return sorted(sorted(range(count), key=lambda index: _hash(seed, index))[:out])


def _hash(seed: int, index: int) -> bytes:
    return hashlib.sha256(f"{seed} {index}".encode()).digest()
