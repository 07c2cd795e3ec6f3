"""The newest message of every input, and whether together they may be used. Any thread may call anything here.

Callbacks only store; one small lock guards the table. Ages are measured on the monotonic clock from arrival, so that a
jump of the ROS clock cannot make old messages look fresh; stamps are judged apart from that.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from pi05_progress.robots.messages import same_picture, stamp_ns

if TYPE_CHECKING:
    from pi05_progress.robots.profile import RobotProfile

RATE_WINDOW = 50  # messages over which a rate is measured
WELL_S = 2.0  # without a problem, until that is told
AGAIN_S = 10.0  # between two times that a problem is told which comes and goes
MOVED_RAD = 0.05  # by any joint of its arm, after which a camera cannot see the same as before
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True)
class Limits:
    """What is fresh enough."""

    image_age_s: float = 0.5  # this and the next: since the arrival of the newest message with a new stamp
    joint_age_s: float = 0.2
    skew_s: float = 0.2  # between the stamps of the oldest and newest input used together
    future_s: float = 0.1  # this and the next: of a stamp against the node's clock
    past_s: float = 1.0


@dataclass
class Input:
    """One topic, as it stands."""

    name: str
    topic: str
    required: bool
    max_age_s: float
    message: Any = None
    arrived_s: float = 0.0  # monotonic
    changed_s: float = 0.0  # monotonic, of the last message with a new stamp
    stamp_ns: int = 0
    count: int = 0
    delay_ns: int = 0  # of a camera: what its stamps come late
    arms: tuple[str, ...] = ()  # of a camera: inputs with whose joints its pictures change
    poses: dict[str, Mapping[Any, float]] = field(default_factory=dict)  # theirs, after the picture changed last
    moved_s: float | None = None  # monotonic, when one of them was found to have moved since then
    hangs: bool = False  # the same picture came again long after that
    why: str = ""  # there is nothing newer, where that is known
    mismatch: str = ""  # whose messages do not arrive and why, while there is none
    facts: Mapping[str, object] = field(default_factory=dict)
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))

    def rate_hz(self) -> float:
        """Messages per second, lately; 0 before there are two."""
        if len(self.arrivals) < 2 or self.arrivals[-1] <= self.arrivals[0]:
            return 0.0
        return (len(self.arrivals) - 1) / (self.arrivals[-1] - self.arrivals[0])


@dataclass(frozen=True)
class Snapshot:
    """Messages that may be used together, or what speaks against it."""

    messages: Mapping[str, Any]
    stamps_ns: Mapping[str, int]
    problems: tuple[str, ...]
    stale: frozenset[str] = frozenset()  # inputs whose newest message is too old


class Inputs:
    """The table of inputs. With the robot's profile it knows how late cameras are, and which must see its arms move."""

    def __init__(self, limits: Limits, profile: RobotProfile | None = None) -> None:
        self._limits, self._profile = limits, profile
        self._lock = threading.Lock()
        self._table: dict[str, Input] = {}

    def add(self, name: str, topic: str, *, image: bool, required: bool = True) -> None:
        """Declare an input before messages come."""
        entry = Input(name, topic, required, self._limits.image_age_s if image else self._limits.joint_age_s)
        if image and self._profile:
            entry.delay_ns = round(self._profile.cameras[name].delay_s * 1e9)
            entry.arms = self._profile.seen_arms(name)
        with self._lock:  # a stream's thread may store already while further inputs are declared
            self._table[name] = entry

    def clear(self) -> None:
        """Forget all messages, as after a jump of the clock."""
        with self._lock:
            self._table = {
                name: Input(name, old.topic, old.required, old.max_age_s, delay_ns=old.delay_ns, arms=old.arms)
                for name, old in self._table.items()
            }

    def store(self, name: str, message: Any, now_ns: int) -> None:
        """A message has arrived; ``now_ns`` is the node's clock, which stands in for a stamp left empty."""
        now_s = time.monotonic()
        old = self._table[name]  # only the caller's thread replaces its message
        same = bool(old.arms) and old.message is not None and same_picture(message, old.message)
        with self._lock:
            entry = self._table[name]
            stamp = (stamp_ns(message) or now_ns) - entry.delay_ns
            if stamp != entry.stamp_ns or entry.count == 0:
                entry.changed_s = now_s
            entry.message, entry.arrived_s, entry.stamp_ns = message, now_s, stamp
            entry.count += 1
            entry.arrivals.append(now_s)
            if entry.arms:
                self._compare(entry, same, now_s)
            for camera in self._table.values():
                if name in camera.arms and camera.moved_s is None:
                    pose = dict(zip(message.name or count(), message.position, strict=False))
                    if _moved(camera.poses.setdefault(name, pose), pose):
                        camera.moved_s = now_s

    def _compare(self, camera: Input, same: bool, now_s: float) -> None:
        """Judge its newest picture. The same one may still be right until pictures of the movement can be there."""
        if not same:
            camera.poses, camera.moved_s, camera.hangs = {}, None, False
        elif camera.moved_s is not None:
            camera.hangs = now_s - camera.moved_s > self._limits.skew_s + camera.delay_ns * 1e-9

    def note(self, name: str, why: str, facts: Mapping[str, object]) -> None:
        """Why an input has nothing newer, empty if nothing is wrong, and further figures for diagnostics."""
        with self._lock:
            self._table[name].why, self._table[name].facts = why, facts

    def note_mismatch(self, name: str, text: str) -> None:
        """Who publishes an input so that no message arrives; empty if nobody does."""
        with self._lock:
            self._table[name].mismatch = text and f": {text}"

    def state(self) -> list[Input]:
        """A copy of the table, for diagnostics."""
        with self._lock:
            return [Input(**{**vars(i), "arrivals": i.arrivals.copy()}) for i in self._table.values()]

    def snapshot(self, now_ns: int) -> Snapshot:
        """The newest messages and what speaks against using them at this time of the node's clock, ns."""
        now_s = time.monotonic()
        with self._lock:
            entries = [Input(**vars(entry)) for entry in self._table.values()]
        problems = [text for entry in entries if (text := self._problem(entry, now_s, now_ns))]
        # An optional input that is absent or silent is left out; one that is there must be as good as the others.
        used = [e for e in entries if e.message is not None and (e.required or now_s - e.changed_s <= e.max_age_s)]
        if not problems and used:
            oldest, newest = min(used, key=lambda e: e.stamp_ns), max(used, key=lambda e: e.stamp_ns)
            skew = (newest.stamp_ns - oldest.stamp_ns) * 1e-9
            if skew > self._limits.skew_s:
                problems.append(
                    f"{oldest.name} is {skew:.2f} s behind {newest.name} (limit {self._limits.skew_s:g} s): "
                    "inputs are not in step"
                )
        return Snapshot(
            {e.name: e.message for e in used},
            {e.name: e.stamp_ns for e in used},
            tuple(problems),
            frozenset(e.name for e in entries if now_s - e.changed_s > e.max_age_s),
        )

    def _problem(self, entry: Input, now_s: float, now_ns: int) -> str:
        where, why = f"{entry.name} ({entry.topic})", entry.why and f", {entry.why}"
        if entry.message is None:
            return f"{where}: no message yet{why or entry.mismatch}" if entry.required else ""
        silent, frozen = now_s - entry.arrived_s, now_s - entry.changed_s
        if frozen > entry.max_age_s and not entry.required:
            return ""
        if silent > entry.max_age_s:
            return f"{where}: nothing for more than {entry.max_age_s:g} s{why}"
        if frozen > entry.max_age_s:
            return f"{where}: frozen, messages come but their stamp does not change"
        if entry.hangs:
            return (
                f"{where}: frozen, pictures stay the same while {' or '.join(entry.arms)} moves by {MOVED_RAD:g} rad: "
                "restart the camera's driver or encoder"
            )
        ahead = (entry.stamp_ns - now_ns) * 1e-9
        if ahead > self._limits.future_s:
            return f"{where}: stamp lies {ahead:.1f} s in the future; are the clocks in step (use_sim_time)?"
        if -ahead > self._limits.past_s:
            return f"{where}: stamp lies {-ahead:.1f} s in the past; are the clocks in step (use_sim_time)?"
        return ""


def _moved(before: Mapping[Any, float], now: Mapping[Any, float]) -> bool:
    return any(abs(now.get(joint, position) - position) >= MOVED_RAD for joint, position in before.items())


def same_kind(one: str, other: str) -> bool:
    """Whether two texts about a problem say the same but for the numbers in them."""
    return _kind(one) == _kind(other)


def _kind(text: str) -> str:
    return _NUMBER.sub("#", text)


class News:
    """Tells what is news among problems that come and go, perhaps many times a second.

    Problems that differ only in their numbers are of one kind.
    """

    def __init__(self) -> None:
        self._there: set[str] = set()  # kinds, at the last call
        self._told_s: dict[str, float] = {}  # by kind, monotonic
        self._well_since_s: float | None = None

    def among(self, problems: Iterable[str]) -> list[str]:
        """Those of the present problems that are to be told: that were not there, nor told a short while ago."""
        now, found = time.monotonic(), {_kind(problem): problem for problem in problems}
        new = [k for k in found if k not in self._there and now - self._told_s.get(k, -math.inf) >= AGAIN_S]
        self._told_s.update(dict.fromkeys(new, now))
        self._there = set(found)
        if found:
            self._well_since_s = None
        return [found[kind] for kind in new]

    def over(self) -> bool:
        """No problem is there: whether that is to be told, because one was told and none has come for a while."""
        now = time.monotonic()
        self._there.clear()
        if self._well_since_s is None:
            self._well_since_s = now
        if not self._told_s or now - self._well_since_s < WELL_S:
            return False
        self._told_s.clear()
        return True
