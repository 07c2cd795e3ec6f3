"""Walking action chunks: interpolation in time, passing from one chunk to the next. No ROS, no threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pi05_progress.robots.profile import RobotProfile


@dataclass(frozen=True)
class Chunk:
    """Targets over time."""

    start_s: float  # time of row 0, s
    dt_s: float  # between rows, s
    values: np.ndarray  # float (h, n); row i is the target for ``start_s + i dt_s``

    @property
    def end_s(self) -> float:
        """Time of the last row, s."""
        return self.start_s + (len(self.values) - 1) * self.dt_s

    def at(self, time_s: float) -> np.ndarray:
        """Target (n,) at a time, linear between rows, constant outside."""
        position = np.clip((time_s - self.start_s) / self.dt_s, 0, len(self.values) - 1)
        row = min(int(position), len(self.values) - 2) if len(self.values) > 1 else 0
        if len(self.values) == 1:
            return np.asarray(self.values[0], float)
        share = position - row
        return (1 - share) * self.values[row] + share * self.values[row + 1]


EARLY_S = 0.02  # so much before its time a chunk may take over: the next one is a whole inference away


class Timeline:
    """The chunk in force; a newer one takes over gradually.

    Passing from one to the next takes ``blend_s``; a chunk is in force for ``execute_s`` before a newer one takes over,
    at its end the newest does.
    """

    def __init__(self, blend_s: float, execute_s: float = 0.0) -> None:
        self._blend_s, self._execute_s = blend_s, execute_s
        self._chunk: Chunk | None = None
        self._previous: Chunk | None = None
        self._waiting: Chunk | None = None  # the newest that came too early to take over
        self._since_s = 0.0

    def clear(self) -> None:
        """Forget all chunks."""
        self._chunk = self._previous = self._waiting = None

    def add(self, chunk: Chunk, now_s: float) -> None:
        """A newer chunk is there. One that ended before now changes nothing."""
        if chunk.end_s <= now_s:
            return
        if self.target(now_s) is not None and now_s < self._since_s + self._execute_s - EARLY_S:
            self._waiting = chunk
        else:
            self._take(chunk, now_s)

    def _take(self, chunk: Chunk, now_s: float) -> None:
        self._waiting = None
        # In the middle of a blend the blend itself is what is passed on, as one row that stays.
        current = self.target(now_s)
        blending = self._previous is not None and now_s - self._since_s < self._blend_s
        if current is not None and blending:
            self._previous = Chunk(now_s, chunk.dt_s, current[None])
        else:
            self._previous = self._chunk if current is not None else None
        self._chunk, self._since_s = chunk, now_s

    def target(self, now_s: float) -> np.ndarray | None:
        """What is to be reached now, (n,); None if there is no chunk or it has ended."""
        if self._waiting is not None and now_s > self._chunk.end_s:
            self._take(self._waiting, self._chunk.end_s)
        if self._chunk is None or now_s > self._chunk.end_s:
            return None
        new = self._chunk.at(now_s)
        if self._previous is None or self._blend_s <= 0:
            return new
        share = np.clip((now_s - self._since_s) / self._blend_s, 0.0, 1.0)
        return (1 - share) * self._previous.at(now_s) + share * new


def inside(positions: Mapping[str, np.ndarray], profile: RobotProfile) -> dict[str, np.ndarray]:
    """Per arm a pose, rad, moved into the joint ranges."""
    return {side: np.clip(position, *profile.arms[side].limits().T) for side, position in positions.items()}


def blocked(
    last: Mapping[str, np.ndarray], positions: Mapping[str, np.ndarray], profile: RobotProfile, max_error: float
) -> str:
    """Which joint is farther than ``max_error`` (rad) from what it was commanded last; empty if none is."""
    for side in last.keys() & positions.keys():
        error = np.abs(last[side] - positions[side])
        if error.max() > max_error:
            joint = profile.arms[side].joints[int(error.argmax())]
            return f"{joint} is {error.max():.2f} rad from its command, at most {max_error:g}; is the arm blocked?"
    return ""
