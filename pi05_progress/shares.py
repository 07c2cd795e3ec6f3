"""How far a share that was counted may be from the true one."""

from __future__ import annotations

import math
from statistics import NormalDist

CONFIDENCE = 0.95


def wilson(count: int, total: int) -> tuple[float, float]:
    """Ends of the 95 % interval of a share, by Wilson's score ("Probable inference ...", JASA 1927).

    Args:
        count: of ``total``, which is at least 1.
        total: of all.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, spread = count / total, z * z / total
    middle = share + spread / 2
    reach = z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))
