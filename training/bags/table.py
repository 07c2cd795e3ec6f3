"""States and actions at the times of frames: joints interpolated, actions the command in force."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import Bool

from pi05_progress.robots.joints import MessageError, joint_values
from pi05_progress.robots.layout import QUANTITIES
from pi05_progress.robots.messages import joint_vector

from .first_pass import Scan
from .inputs import Role, Source
from .message_types import Stored
from .options import Options
from .samples import GapError, Grid, NotYetError, Sample, SendersError, Track

LEAP_RAD, LEAP_NS = 0.2, 20_000_000  # from one message to the next: faster than any arm
LEAP_SHARE = 0.2  # of frames, from which on leaps are no accident


class Table:
    """Rows of state and action, made as messages come; in frames of ``taken_over`` the operator's commands count.

    Values of samples are float64: of joints (3, n), their positions, velocities and efforts in the order of the
    profile's joints; of poses (7,), a position in m, then a quaternion xyzw. What is written is float32, row after row.
    """

    def __init__(
        self,
        options: Options,
        scan: Scan,
        grid: Grid,
        taken_over: Bool[np.ndarray, " n"],
        write_state: Callable[[bytes], Any],
        write_action: Callable[[bytes], Any],
        deserialize: Callable[[Stored], Any],
    ) -> None:
        self._profile, self._grid, self._max_gap_ns = options.profile, grid, options.max_gap_ns
        self._deserialize, self._changes = deserialize, scan.changes
        self._write = write_state, write_action
        self._sources = {name: of for name, of in scan.inputs.sources.items() if of.role != "camera"}
        self.tracks = {name: Track(partial(self._parsed, of)) for name, of in self._sources.items() if not of.may_pause}
        self.rows = 0
        self.idle = np.zeros(grid.count, bool)  # frames in which the operator has the arms and commands nothing
        self._taken_over, self._since_ns = taken_over, -math.inf  # since when either of both has commanded
        self._times_ns, self._in_force = grid.times_ns(), {}
        self._leaps = dict.fromkeys(self.tracks, 0)

    def push(self, name: str, stamp_ns: int, message: Stored) -> None:
        """A message of one of the sources has come."""
        role = self._sources[name].role
        row = min(bisect.bisect_left(self._times_ns, stamp_ns), self._grid.count - 1)
        if name in self.tracks and role in ("state", self._role(row)):  # others the robot does not obey
            self.tracks[name].push(stamp_ns, message)

    def _role(self, row: int) -> Role:
        """Whose commands are in force at a frame."""
        return "operator" if self._taken_over[row] else "action"

    def advance(self) -> None:
        """Make all rows that can be made; a ``GapError`` or a ``SendersError`` says why one cannot."""
        while self.rows < self._grid.count:
            time_ns = self._grid.time_ns(self.rows)
            role = self._role(self.rows)
            if self.rows and role != self._role(self.rows - 1):
                self._since_ns = self._times_ns[self.rows - 1]
            needed = {"state", role} - {"operator"}  # who may be silent, and what was sent has come when states have
            tracks = [track for name, track in self.tracks.items() if self._sources[name].role in needed]
            if not all(track.ready(time_ns) for track in tracks):
                return
            self._used: list[tuple[Track, Sample]] = []
            try:
                rows = self._vector("state", time_ns), self._vector(role, time_ns)
            except NotYetError:
                return
            for track, sample in self._used:
                track.note_use(sample, time_ns)
            for write, row in zip(self._write, rows, strict=True):
                write(row.tobytes())
            self.rows += 1

    def close(self) -> None:
        """No more messages will come: make the remaining rows; a ``SendersError``, too, if an arm is in two places."""
        for track in self.tracks.values():
            track.closed = True
        self.advance()
        for name, leaps in self._leaps.items():
            if leaps > LEAP_SHARE * self._grid.count:
                topic = self._sources[name].topic
                raise SendersError(
                    f"{name}: positions leap by more than {LEAP_RAD} rad from message to message at {leaps} of "
                    f"{self._grid.count} frames; do two robots send on {topic}?"
                )

    def _vector(self, role: Role, time_ns: int) -> np.ndarray:
        values = {s.part: self._at(s, time_ns) for s in self._sources.values() if s.role == role}
        joints = {
            part: SimpleNamespace(name=self._joints_of(part), **dict(zip(QUANTITIES, value, strict=True)))
            for part, value in values.items()
            if "pose" not in part
        }
        if role != "state":
            self._in_force = values
        poses = [values[f"{arm}_pose"] for arm in self._profile.arms if f"{arm}_pose" in values]
        return np.concatenate([joint_vector(self._profile, joints), *poses]).astype(np.float32)

    def _joints_of(self, part: str) -> Sequence[str]:
        side, _, what = part.partition("_")
        return self._profile.arms[side].joints if what == "arm" else (self._profile.grippers[side].joint,)

    def _at(self, source: Source, time_ns: int) -> np.ndarray:
        if source.may_pause:
            return self._number(source, time_ns)
        track = self.tracks[source.name]
        if source.role != "state" and self._stays(source, time_ns):
            return self._in_force[source.part]
        before, after = track.around(time_ns, after=source.role == "state")
        exact = before is not None and before.stamp == time_ns
        in_force = source.role != "state" and before is not None and time_ns - before.stamp <= self._max_gap_ns
        if exact or in_force:
            self._used.append((track, before))
            return before.value
        if source.role != "state":
            before, after = track.around(time_ns)
        if after is None and not track.closed:
            raise NotYetError
        ends = (before and before.stamp, after and after.stamp)
        if source.role != "state" and self._since_ns > -math.inf:  # before that, others' were in force
            ends = (max(ends[0] or 0, self._since_ns), ends[1])
        if source.role != "state" or None in ends or ends[1] - ends[0] > self._max_gap_ns:
            raise GapError(source.name, *ends, track.counts.first_problem)
        if source.kind == "joints" and ends[1] - ends[0] < LEAP_NS:
            self._leaps[source.name] += np.abs(after.value[0] - before.value[0]).max() > LEAP_RAD
        self._used.append((track, before if time_ns - ends[0] <= ends[1] - time_ns else after))
        return _between(before.value, after.value, (time_ns - ends[0]) / (ends[1] - ends[0]), source.kind == "pose")

    def _stays(self, source: Source, time_ns: int) -> bool:
        """Whether what was commanded last stays in force: whoever commands now has not begun to, or the operator, who
        has the arms, sends nothing, as in handing back."""
        before, _ = self.tracks[source.name].around(time_ns, after=False)
        begun = before is not None and before.stamp >= self._since_ns
        late = time_ns - (before.stamp if begun else self._since_ns) > self._max_gap_ns
        if source.role == "operator":
            self.idle[self.rows] |= late
            return source.part in self._in_force and (late or not begun)
        return source.part in self._in_force and not late and not begun

    def _number(self, source: Source, time_ns: int) -> np.ndarray:
        """A gripper's command number, in force since it was last given, as what it stands for."""
        changes = self._changes.get(source.name, [])
        index = bisect.bisect_right(changes, time_ns, key=lambda change: change[0]) - 1
        if index < 0:
            raise GapError(source.name, None, changes[0][0] if changes else None)
        values = np.zeros((len(QUANTITIES), 1))
        curve = self._profile.layout.curves[source.part.partition("_")[0]]
        values[QUANTITIES.index(self._profile.model_columns.action.grippers)] = curve.effort(changes[index][1])
        return values

    def _parsed(self, source: Source, message: Stored) -> np.ndarray:
        content = self._deserialize(message)
        return self._pose(source, content) if source.kind == "pose" else self._joints(source, content)

    def _joints(self, source: Source, message: Any) -> np.ndarray:
        names = self._joints_of(source.part)
        if missing := [name for name in names if len(message.name) and name not in message.name]:
            raise SendersError(
                f"{source.name} ({source.topic}): joints {', '.join(missing)} are missing in a message; it names "
                f"{', '.join(message.name)}. The profile's names must be those of the robot"
            )
        required = "position" if source.part.endswith("arm") or len(message.position) else "effort"
        return np.array(joint_values(message, names, f"{source.name} ({source.topic})", required), np.float64)

    @staticmethod
    def _pose(source: Source, message: Any) -> np.ndarray:
        p, q = message.position, message.orientation
        values = np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w], np.float64)
        with np.errstate(over="ignore"):  # what float32 cannot hold would be stored as infinity
            stored = values.astype(np.float32)
        if not np.isfinite(stored).all() or not np.any(stored[3:]):
            raise MessageError(f"{source.name} ({source.topic}): the pose is {values.tolist()}")
        return values


def _between(before: np.ndarray, after: np.ndarray, share: float, pose: bool) -> np.ndarray:
    """Linearly between two values; an orientation along the shorter arc, normalised."""
    if not pose:
        return before + share * (after - before)
    sign = np.where(np.arange(7) >= 3, np.sign(np.dot(before[3:], after[3:])) or 1, 1)
    values = before + share * (sign * after - before)
    values[3:] /= np.linalg.norm(values[3:])
    return values
