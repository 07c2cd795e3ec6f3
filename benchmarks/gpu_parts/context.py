"""What a part is given: what to measure, how much time there is, and where to say what was found."""

from __future__ import annotations

import gc
import importlib
import json
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax

from .cards import Peak, peak_of
from .finite import noted
from .processes import Task

REQUIRED = ("name", "median_ms", "p99_ms", "peak_bytes", "roofline_share", "progress")  # keys of every row
MEMORY = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "out of memory")  # words of errors for lack of memory
SHOWN = 2000  # characters of an error


class Context:
    """See the module's docstring.

    Args:
        task: of this process.
        pipe: file descriptor that messages are written to.
    """

    def __init__(self, task: Task, pipe: int) -> None:
        self.variant, self.settings, self.started, self.until = task.variant, task.settings, task.started, task.until
        self.keep, self._pipe, self.failed = task.keep, pipe, False

    @property
    def device(self) -> jax.Device:
        """What is measured."""
        return jax.devices()[0]

    @property
    def on_cpu(self) -> bool:
        """Whether that is no accelerator at all."""
        return self.device.platform == "cpu"

    @property
    def peak(self) -> Peak | None:
        """What the device can do at most, if it is known."""
        return None if self.on_cpu else peak_of(self.device.device_kind)

    def left_s(self) -> float:
        """Seconds until nothing new may be begun."""
        return self.until - time.time()

    def say(self, **message: Any) -> None:
        """Send a message to the process that writes the file; see ``finite`` for what JSON does not have."""
        message = {key: noted(value) if isinstance(value, dict) else value for key, value in message.items()}
        text = json.dumps(message, allow_nan=False) + "\n"
        os.write(self._pipe, text.encode())

    def row(self, name: str, **figures: Any) -> None:
        """A row of the file; what is not given is null."""
        self.say(row={key: None for key in REQUIRED} | {"name": name} | figures)

    def attempt(self, name: str, measure: Callable[[], None], needs_s: float = 0.0) -> None:
        """Measure something, unless the time is over; what goes wrong becomes a row, and the next may go on.

        Too little memory is a finding. Any other error makes the part one that failed.

        Args:
            name: of the row, if there is none.
            measure: says its rows itself.
            needs_s: about how long it takes.
        """
        if self.left_s() <= needs_s:
            self.row(name, left_out="time")
            return
        try:
            measure()
        except Exception as error:
            if lacks_memory(error):
                self.row(name, error=f"the device's memory is full: {str(error)[:SHOWN]}")
            else:
                self.failed = True
                traceback.print_exc()
                self.row(name, error=f"{type(error).__name__}: {str(error)[:SHOWN]}")
        gc.collect()

    def high_water(self) -> int | None:
        """Most bytes of the device's memory that this process has had in use so far; None on a CPU."""
        return (self.device.memory_stats() or {}).get("peak_bytes_in_use")


def lacks_memory(error: Exception) -> bool:
    """Whether something failed because the device's memory was full."""
    return any(word in str(error) for word in MEMORY)


def run_task(task: Task, pipe: int) -> int:
    """Do what this process was started for; returns the exit status."""
    module, _, name = task.function.partition(":")
    context = Context(task, pipe)
    try:
        getattr(importlib.import_module(module), name)(context)
    except Exception as error:
        traceback.print_exc()
        context.say(error=f"{type(error).__name__}: {str(error)[:SHOWN]}")
        return 1
    if context.failed:
        context.say(error="rows failed; they say how")
    return 0


def facts(context: Context) -> None:
    """What the device is, as JAX sees it."""
    device = context.device
    limit = (device.memory_stats() or {}).get("bytes_limit")
    context.say(facts={"device": device.device_kind, "platform": device.platform, "bytes_limit": limit})
