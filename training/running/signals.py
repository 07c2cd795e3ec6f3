"""What processes of a run agree on: that all are about to do the same, and when to stop.

Signals ask a run to stop; it finishes its step, saves, and ends. A second one ends it at once.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Mapping
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pi05_progress.errors import UserError

from ..engine.sharding import batch_sharding, replicated

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Takes over SIGTERM and SIGINT while it is used as a context, in the main thread.

    The handler, which Python runs in the main thread between two instructions, only sets ``name``.
    """

    def __init__(self) -> None:
        self.name = ""  # of the signal that came
        self._former: dict[signal.Signals, object] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.name = signal.Signals(number).name
        # Not print: it may be what was interrupted.
        os.write(2, f"\n{self.name}: stops after this step and saves; once more ends at once\n".encode())

    def __enter__(self) -> StopRequest:
        self._former = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)


class Agreement:
    """Whether any process wants to stop, known to all after the same step.

    A signal reaches processes at different steps, but all must save the same one. So every step sends each process's
    wish along, as one more small computation on the devices, whose result is fetched together with the metrics.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._rows = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
        self._any = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def ask(self, wanted: bool) -> jax.Array | np.ndarray:
        """A number on the device that is 1 if any process wants to stop; does not wait for it."""
        if jax.process_count() == 1:
            return np.int32(wanted)
        mine = np.full(self._rows, wanted, np.int32)
        return self._any(jax.make_array_from_process_local_data(batch_sharding(self._mesh), mine))


def check_same(found: Mapping[str, str]) -> None:
    """Compare with the other processes; each calls this once, at the same place.

    A shared folder may show one host a checkpoint that another does not see yet, and a local copy of the data may be
    another one: parts of two runs would become one, silently. What differs is raised in every process.
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
