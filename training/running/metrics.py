"""Metrics on their way from the device to the logs, without the device waiting for anybody.

A step is only sent off; its metrics are fetched when the next steps are on their way already. Rows in the logs are
means over an interval of steps.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

LAG = 2  # steps on their way at a time
LOSSES = ("loss", "grad_norm")  # what must be finite
LABELLED = {"progress_loss": "labelled", "position_loss": "located", "position_error_mm": "located"}  # by their share
LAST = ("learning_rate", "param_norm")  # what a row has of its last step, not as a mean


@dataclass(frozen=True)
class Arrived:
    """A step whose metrics are on the host, so that the device is done with it."""

    step: int  # number of steps done then
    batch: Callable[[], Any]  # gives what it was given, on the host
    metrics: dict[str, float]  # of the step

    @property
    def finite(self) -> bool:
        """Whether the step can be trusted."""
        return all(math.isfinite(self.metrics[name]) for name in LOSSES)


class InFlight:
    """Steps that were sent off and not fetched yet, oldest first."""

    def __init__(self, lag: int = LAG) -> None:
        self._lag = lag
        self._steps: deque[tuple[int, Sequence[Callable[[], Any]], Mapping[str, Any]]] = deque()

    def sent(self, step: int, batches: Sequence[Callable[[], Any]], metrics: Mapping[str, Any]) -> list[Arrived]:
        """Add steps that were sent off together, a batch each; returns those that should have arrived by now, and waits
        for these.

        Args:
            step: number of steps done after the last of them.
            metrics: scalars, or with an axis of steps.
        """
        self._steps.append((step, batches, metrics))
        return self._fetch(self._lag)

    def all(self) -> list[Arrived]:
        """Wait for all of them."""
        return self._fetch(0)

    def _fetch(self, keep: int) -> list[Arrived]:
        arrived = []
        while len(self._steps) > keep:
            step, batches, metrics = self._steps.popleft()
            count = len(batches)
            values = {name: np.broadcast_to(of, count) for name, of in jax.device_get(dict(metrics)).items()}
            for i, batch in enumerate(batches):
                own = {name: float(of[i]) for name, of in values.items()}
                arrived.append(Arrived(step - count + 1 + i, batch, own))
        return arrived


@dataclass
class Window:
    """Steps since the last row of the logs, and a clock that stands still while something else than a step is done."""

    values: list[dict[str, float]] = field(default_factory=list)  # of every step; checkpoints hold them
    timed: int = 0  # how many of them were done since the clock was started
    waited: float = 0.0  # seconds since then for a batch
    before: float = 0.0  # seconds until the clock last stood still
    since: float | None = field(default_factory=time.perf_counter)

    def add(self, metrics: Mapping[str, float]) -> None:
        """One more step."""
        self.values.append(dict(metrics))
        self.timed += 1

    def stop(self) -> None:
        """Let the clock stand still."""
        self.before, self.since = self._seconds(), None

    def go_on(self) -> None:
        """Let it run again."""
        self.since = time.perf_counter()

    def restart(self) -> None:
        """Start the clock anew."""
        self.timed, self.waited, self.before, self.since = 0, 0.0, 0.0, time.perf_counter()

    def row(self, batch_size: int) -> dict[str, float]:
        """Means over the steps and how fast they were; the next window begins."""
        seconds = self._seconds()
        rate = self.timed * batch_size / seconds if seconds and self.timed else math.nan
        row = mean(self.values)
        row |= {"samples_per_second": rate, "waiting_for_data": self.waited / seconds if seconds else math.nan}
        self.values = []
        self.restart()
        return row

    def _seconds(self) -> float:
        return self.before + (0.0 if self.since is None else time.perf_counter() - self.since)


def mean(values: list[dict[str, float]]) -> dict[str, float]:
    """Means over steps; those of what has labels count labelled samples alone, and are NaN where there were none."""
    names = list(dict.fromkeys(name for step in values for name in step))
    own = {name: [step[name] for step in values if name in step] for name in names}
    means = {name: math.fsum(numbers) / len(numbers) for name, numbers in own.items()}
    means |= {name: values[-1][name] for name in LAST if name in values[-1]}
    for name, share in LABELLED.items():
        if name in means:
            labelled = sum(step[share] for step in values)
            total = sum(step[name] * step[share] for step in values)
            means[name] = total / labelled if labelled else math.nan
    return means
