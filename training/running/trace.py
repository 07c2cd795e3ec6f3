"""A profile of a few steps: where the time goes, on the host and on the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

FIRST, COUNT = 5, 5  # of the calls of the device that are looked at; in the first ones programs are compiled


class StepTrace:
    """Writes what JAX's profiler sees of some steps into a folder; does nothing without one.

    Args:
        wait: returns when the device is done with all that was sent off.
    """

    def __init__(self, folder: Path | None, wait: Callable[[], None]) -> None:
        self._folder, self._wait, self._calls, self._running = folder, wait, 0, False

    def next(self) -> None:
        """A step, or several at once, are about to be sent off."""
        self._calls += 1
        if self._folder is not None and self._calls == FIRST:
            self._wait()
            jax.profiler.start_trace(str(self._folder.expanduser()))
            self._running = True
        elif self._calls == FIRST + COUNT:
            self.close()

    def close(self) -> None:
        """Write what was seen, if it has not been written."""
        if self._running:
            self._wait()
            jax.profiler.stop_trace()
            self._running = False
