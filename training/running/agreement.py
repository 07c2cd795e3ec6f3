"""Whether all processes of a run are about to do the same: what each found on its own disk and command line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from pi05_progress.errors import UserError


def check_same(found: Mapping[str, str]) -> None:
    """Compare with the other processes; each calls this once, at the same place.

    A shared folder may show one host a checkpoint that another does not see yet, and a local copy of the data may be
    another one: parts of two runs would become one, silently.

    Args:
        found: what must be the same, by a name for people.

    Raises:
        UserError: in every process; the message says what differs, and what this one has.
    """
    if jax.process_count() == 1:
        return
    mine = np.stack([np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in found.values()])
    theirs = np.asarray(multihost_utils.process_allgather(mine)).reshape(-1, *mine.shape)
    differing = [name for i, name in enumerate(found) if (theirs[:, i] != theirs[0, i]).any()]
    if differing:
        values = "; ".join(f"{name}: {found[name][:200]}" for name in differing)
        raise UserError(
            f"the processes differ in {', '.join(differing)}; start all with the same command and let all see the same "
            f"folders. Process {jax.process_index()} has {values}"
        )
