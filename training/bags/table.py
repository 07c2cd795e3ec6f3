"""States and actions at the times of frames: joints interpolated, actions the command in force."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from pi05_progress.robots.joints import MessageError, joint_values
from pi05_progress.robots.layout import QUANTITIES
from pi05_progress.robots.messages import joint_vector
from pi05_progress.robots.profile import RobotProfile

from .faults import BagError
from .inputs import Role, Source
from .message_types import Stored
from .samples import GapError, Grid, NotYetError, Sample, SendersError, Track

LEAP_RAD, LEAP_NS = 0.2, 20_000_000  # from one message to the next: faster than any arm
LEAP_SHARE = 0.2  # of frames, from which on leaps are no accident


@dataclass(frozen=True)
class JointSample:
    """A joint message that was found sound, in the order of the profile's joints; float64 (n,) each."""

    name: tuple[str, ...]
    position: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray

    def towards(self, other: JointSample, share: float) -> JointSample:
        """Linearly between this sample (0) and another (1)."""
        pairs = ((self.position, other.position), (self.velocity, other.velocity), (self.effort, other.effort))
        return JointSample(self.name, *(a + share * (b - a) for a, b in pairs))


@dataclass(frozen=True)
class PoseSample:
    """An end effector's pose: position (3,) in m, then quaternion xyzw (4,); float64 (7,)."""

    values: np.ndarray

    def towards(self, other: PoseSample, share: float) -> PoseSample:
        """Position linearly, orientation along the shorter arc, normalised."""
        if share == 0:
            return self
        end = other.values.copy()
        if np.dot(self.values[3:], end[3:]) < 0:
            end[3:] *= -1
        values = self.values + share * (end - self.values)
        values[3:] /= np.linalg.norm(values[3:])
        return PoseSample(values)


class Table:
    """Rows of state and action, made as messages come.

    Args:
        profile: the robot.
        sources: all inputs; cameras are passed over.
        changes: per source that may pause, (stamp, number) where it changed.
        grid: times of the rows.
        write: called with state and action of each row, float32 (v,) as the profile's layout says.
        deserialize: of the recording.
        max_gap_ns: silence over which nothing is interpolated and no command is held.
        slack_ns: see ``Track``.
    """

    def __init__(
        self,
        profile: RobotProfile,
        sources: dict[str, Source],
        changes: dict[str, list[tuple[int, float]]],
        grid: Grid,
        write: Callable[[np.ndarray, np.ndarray], None],
        deserialize: Callable[[Stored], Any],
        max_gap_ns: int,
        slack_ns: int,
    ) -> None:
        self._profile, self._grid, self._max_gap_ns = profile, grid, max_gap_ns
        self._deserialize, self._changes = deserialize, changes
        self._sources = {name: source for name, source in sources.items() if source.role != "camera"}
        self.tracks = {
            name: Track(name, self._parser(source), slack_ns)
            for name, source in self._sources.items()
            if not source.may_pause
        }
        self._write, self.rows = write, 0
        self._leaps = dict.fromkeys(self.tracks, 0)

    def push(self, name: str, stamp_ns: int, message: Stored) -> None:
        """A message of one of the sources has come."""
        if name in self.tracks:
            self.tracks[name].push(stamp_ns, message)

    def advance(self) -> None:
        """Make all rows that can be made.

        Raises:
            GapError: an input is silent for too long.
            SendersError: joints have other names.
        """
        while self.rows < self._grid.count:
            time_ns = self._grid.time_ns(self.rows)
            if not all(track.ready(time_ns) for track in self.tracks.values()):
                return
            self._used: list[tuple[Track, Sample]] = []
            try:
                row = self._vector("state", time_ns), self._vector("action", time_ns)
            except NotYetError:
                return
            for track, sample in self._used:
                track.note_use(sample, time_ns)
            self._write(*row)
            self.rows += 1

    def close(self) -> None:
        """No more messages will come: make the remaining rows.

        Raises:
            GapError: an input ended too early.
            SendersError: an arm is in two places at once.
        """
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
        parts = {s.part: self._at(s, time_ns) for s in self._sources.values() if s.role == role}
        vector = joint_vector(self._profile, {part: value for part, value in parts.items() if "pose" not in part})
        poses = [parts[f"{arm}_pose"].values for arm in self._profile.arms if f"{arm}_pose" in parts]
        return np.concatenate([vector, *poses]).astype(np.float32) if poses else vector

    def _at(self, source: Source, time_ns: int) -> Any:
        if source.may_pause:
            return self._number(source, time_ns)
        track = self.tracks[source.name]
        before, after = track.around(time_ns, after=source.role == "state")
        exact = before is not None and before.stamp == time_ns
        in_force = source.role == "action" and before is not None and time_ns - before.stamp <= self._max_gap_ns
        if exact or in_force:
            self._used.append((track, before))
            return before.value
        if source.role == "action":
            before, after = track.around(time_ns)
        if after is None and not track.closed:
            raise NotYetError
        ends = (before and before.stamp, after and after.stamp)
        if source.role == "action" or None in ends or ends[1] - ends[0] > self._max_gap_ns:
            raise GapError(source.name, *ends, track.counts.first_problem)
        if source.kind == "joints" and ends[1] - ends[0] < LEAP_NS:
            self._leaps[source.name] += np.abs(after.value.position - before.value.position).max() > LEAP_RAD
        self._used.append((track, before if time_ns - ends[0] <= ends[1] - time_ns else after))
        return before.value.towards(after.value, (time_ns - ends[0]) / (ends[1] - ends[0]))

    def _number(self, source: Source, time_ns: int) -> Any:
        """A gripper's command number, in force since it was last given, as a message with what it stands for."""
        changes = self._changes.get(source.name, [])
        index = bisect.bisect_right(changes, time_ns, key=lambda change: change[0]) - 1
        if index < 0:
            raise GapError(source.name, None, changes[0][0] if changes else None)
        gripper = source.part.partition("_")[0]
        effort = self._profile.layout.curves[gripper].effort(changes[index][1])
        joint = self._profile.grippers[gripper].joint
        fields = dict.fromkeys(QUANTITIES, ()) | {self._profile.model_columns.action.grippers: (float(effort),)}
        return SimpleNamespace(name=(joint,), **fields)

    def _parser(self, source: Source) -> Callable[[Stored], Any]:
        def parse(message: Stored) -> Any:
            try:
                content = self._deserialize(message)
            except BagError as error:
                raise MessageError(str(error)) from error
            return self._pose(source, content) if source.kind == "pose" else self._joints(source, content)

        return parse

    def _joints(self, source: Source, message: Any) -> JointSample:
        side, _, what = source.part.partition("_")
        names = self._profile.arms[side].joints if what == "arm" else (self._profile.grippers[side].joint,)
        if missing := [name for name in names if len(message.name) and name not in message.name]:
            raise SendersError(
                f"{source.name} ({source.topic}): joints {', '.join(missing)} are missing in a message; it names "
                f"{', '.join(message.name)}. The profile's names must be those of the robot"
            )
        required = "position" if what == "arm" or len(message.position) else "effort"
        values = joint_values(message, names, f"{source.name} ({source.topic})", required)
        return JointSample(tuple(names), *(field.astype(np.float64) for field in values))

    @staticmethod
    def _pose(source: Source, message: Any) -> PoseSample:
        p, q = message.position, message.orientation
        values = np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w], np.float64)
        with np.errstate(over="ignore"):  # what float32 cannot hold would be stored as infinity
            stored = values.astype(np.float32)
        if not np.isfinite(stored).all() or not np.any(stored[3:]):
            raise MessageError(f"{source.name} ({source.topic}): the pose is {values.tolist()}")
        return PoseSample(values)
