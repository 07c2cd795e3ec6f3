"""What the robot is asked to do: whether it is to be commanded at all, and by which action chunks. No ROS in here.

Every method may be called by any thread; `_lock` guards everything.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from .chunks import Chunk, Timeline


class Request(NamedTuple):
    """What is asked for at one moment.

    Attributes:
        wanted: whether the robot is to be commanded.
        refusal: why the policy's actions are not carried out at the moment; empty if they are.
        ended_by: what has ended commanding until it is asked for anew; empty if nothing has.
        target: of the chunk in force, (n,), rad and N m; None if there is none.
    """

    wanted: bool
    refusal: str
    ended_by: str
    target: np.ndarray | None


class Plan:
    """See the module's docstring.

    Args:
        blend_s: how long passing from one chunk to the next takes, s.
    """

    def __init__(self, blend_s: float) -> None:
        self._lock = threading.Lock()
        self._timeline = Timeline(blend_s)
        self._wanted = False
        self._refusal = self._ended_by = ""

    @property
    def wanted(self) -> bool:
        """Whether commands are asked for."""
        return self._wanted

    def set_wanted(self, wanted: bool) -> None:
        """Ask for commands, or for none; what was planned until now is not carried out."""
        with self._lock:
            self._wanted, self._ended_by = wanted, ""
            self._timeline.clear()

    def offer(self, chunk: Chunk, now_s: float, commanding: bool) -> None:
        """A newer chunk is there.

        Args:
            chunk: rad and N m (h, n), all of it finite.
            now_s: of the clock that the chunk's times are of.
            commanding: whether the robot is commanded now; if not, a chunk that comes too late is a reason against it.
        """
        with self._lock:
            self._refusal = ""
            if chunk.end_s > now_s:
                self._timeline.add(chunk, now_s)
            elif not commanding:
                late, length = now_s - chunk.start_s, chunk.end_s - chunk.start_s
                self._refusal = f"the policy is too slow: actions came after {late:.1f} s, a chunk lasts {length:.2f} s"

    def forget(self) -> None:
        """Drop all chunks."""
        with self._lock:
            self._timeline.clear()

    def refuse(self, reason: str) -> None:
        """Drop all chunks; ``reason`` speaks against commanding until the next one is offered."""
        with self._lock:
            self._refusal = reason
            self._timeline.clear()

    def end(self, reason: str) -> None:
        """``reason`` speaks against commanding until it is asked for anew."""
        with self._lock:
            self._ended_by = reason

    def request(self, now_s: float) -> Request:
        """What is asked for at a time of the chunks' clock, s."""
        with self._lock:
            return Request(self._wanted, self._refusal, self._ended_by, self._timeline.target(now_s))
