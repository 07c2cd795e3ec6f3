"""Waiting until nothing is compiled any more: the compiler and what it tries on the device would disturb timings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, wait

from .context import Context

SHARE = 0.8  # of the time left, after which nothing more is begun to be compiled
LAST = 0.5  # of what is left then: for those that were begun
DISTURBED = {"disturbed": "another program was still being compiled"}  # of a row


def workers(most: int) -> int:
    """Programs that are compiled at once: one for every two cores."""
    return max(1, min(most, (os.cpu_count() or 1) // 2))


def settle(context: Context, compiling: Sequence[Future]) -> bool:
    """Wait for programs as long as there is time; those that have not been begun by then are cancelled.

    Returns:
        Whether nothing is compiled any more. Otherwise times of those that are done mean little, and should say so.
    """
    wait(compiling, max(0.0, SHARE * context.left_s()))
    begun = [one for one in compiling if not one.cancel()]
    return not wait(begun, max(0.0, LAST * context.left_s())).not_done
