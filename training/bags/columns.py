"""What only a simulation, or whoever made the demonstration, knows of an episode, as further columns of a data set.

- ``truth.positions``: where objects are, m in the robot's base frame; 0 before it is known, and of objects that an
  episode does not have;
- ``demonstration.valid``: whether the frame's action is to be imitated: not from a mistake until it is being made
  good, and not in pauses;
- ``intervention``: whether the operator had taken over from the policy;
- ``demonstration.actions``: the chunk of actions that was right in this frame, where another one was executed: rows at
  the data set's rate from the frame on, arm targets in rad and grippers' command numbers, as a model learns them.

A data set has those columns that any of its recordings says something about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from pi05_progress.robots.messages import stamp_ns
from pi05_progress.robots.profile import RobotProfile
from training.datasets import layout

from .episodes import Candidate, Phase
from .faults import BagError
from .inputs import CHUNKS, POSES, Truth
from .reading import Bag
from .segments import Segment
from .timeline import Event


@dataclass(frozen=True)
class Columns:
    """What a data set gets; empty, false and 0: no such column."""

    objects: tuple[str, ...] = ()  # of all its recordings
    valid: bool = False
    intervention: bool = False
    chunk_rows: int = 0

    def features(self, profile: RobotProfile) -> dict[str, layout.Feature]:
        """The columns' features by name."""
        features = {}
        if self.objects:
            names = [f"{name}.{axis}" for name in self.objects for axis in "xyz"]
            features[layout.TRUTH_POSITIONS] = layout.vector(names)
        if self.valid:
            features[layout.DEMONSTRATION_VALID] = layout.scalar("bool")
        if self.intervention:
            features[layout.INTERVENTION] = layout.scalar("bool")
        if self.chunk_rows:
            names = [f"{joint}.{row}" for row in range(self.chunk_rows) for joint in profile.layout.joints]
            features[layout.DEMONSTRATION_ACTIONS] = layout.vector(names)
        return features


def columns_of(truths: Sequence[Truth], candidates: Sequence[Candidate], fps: int) -> Columns:
    """The columns of a data set that is made of these recordings and episodes."""
    longest = max((truth.chunk_s for truth in truths), default=0.0)
    return Columns(
        tuple(dict.fromkeys(name for truth in truths for name in truth.objects)),
        any(candidate.invalid or candidate.taken_over for candidate in candidates),
        any(candidate.taken_over for candidate in candidates),
        int(longest * fps + 1e-6) + 1 if longest else 0,
    )


def rows_of(
    columns: Columns, bag: Bag, truth: Truth, candidate: Candidate, segment: Segment, profile: RobotProfile
) -> dict[str, np.ndarray]:
    """A segment's rows of each column, in the type of its feature."""
    grid, read = segment.grid, segment.read
    times = np.array(grid.times_ns())
    rows: dict[str, np.ndarray] = {}
    if columns.valid:
        rows[layout.DEMONSTRATION_VALID] = ~within(candidate.invalid, segment)
    if columns.intervention:
        rows[layout.INTERVENTION] = within(candidate.taken_over, segment)
    if columns.objects:
        rows[layout.TRUTH_POSITIONS] = np.zeros((grid.count, 3 * len(columns.objects)), np.float32)
        at = [3 * columns.objects.index(name) + axis for name in truth.objects for axis in range(3)]
        if truth.objects:
            rows[layout.TRUTH_POSITIONS][:, at] = _positions(bag, len(truth.objects), times, read)
    if columns.chunk_rows:
        rows[layout.DEMONSTRATION_ACTIONS] = _chunks(bag, truth, times, read, columns.chunk_rows, grid.fps, profile)
    return rows


def within(phases: Sequence[Phase], segment: Segment) -> Bool[np.ndarray, " n"]:
    """Which frames of a segment are within one of these."""
    times, found = np.array(segment.grid.times_ns()), np.zeros(segment.grid.count, bool)
    for start, stop in phases:
        found |= _passed(start, segment.stretch, times) & ~_passed(stop, segment.stretch, times)
    return found


def _passed(event: Event | None, stretch: int, times: np.ndarray) -> Bool[np.ndarray, " n"]:
    if event is None or event.stretch != stretch:
        return np.full(len(times), event is not None and event.stretch < stretch)
    return times >= event.stamp_ns


def _positions(bag: Bag, count: int, times: np.ndarray, read: tuple[int, int]) -> Float32[np.ndarray, "n d"]:
    """Linear between messages, 0 before the first."""
    found = dict(_stamped(bag, POSES, read))
    if not found:
        return np.zeros((len(times), 3 * count), np.float32)
    stamps = np.array(sorted(found))
    values = np.array([[c for p in found[s].poses for c in (p.position.x, p.position.y, p.position.z)] for s in stamps])
    if values.shape[1] != 3 * count or not np.isfinite(values).all():
        raise BagError(f"{POSES}: not {count} finite positions in every message")
    at, own = times - stamps[0], stamps - stamps[0]
    return np.stack([np.interp(at, own, of, left=0.0) for of in values.T], axis=1).astype(np.float32)


def _chunks(
    bag: Bag, truth: Truth, times: np.ndarray, read: tuple[int, int], rows: int, fps: int, profile: RobotProfile
) -> Float32[np.ndarray, "n d"]:
    """Of the newest chunk at each frame what lies ahead of the frame; an episode without chunks has none."""
    robot = profile.layout
    found = dict(_stamped(bag, CHUNKS, read)) if truth.chunk_s else {}
    if not found:
        raise BagError(f"{CHUNKS}: other recordings have such chunks, this one has none; convert them apart")
    stamps = np.array(sorted(found))
    result = np.empty((len(times), rows, robot.action_size), np.float32)
    for number, time in enumerate(times):
        stamp = int(stamps[max(0, np.searchsorted(stamps, time + 10**8 // fps, side="right") - 1)])  # or a little later
        chunk = found[stamp]
        if tuple(chunk.names) != tuple(robot.joints) or len(chunk.values) != chunk.horizon * len(chunk.names):
            raise BagError(f"{CHUNKS}: a chunk of {', '.join(chunk.names)}; expected {', '.join(robot.joints)}")
        values = np.asarray(chunk.values, np.float32).reshape(chunk.horizon, -1)
        ahead = (time - stamp) * 1e-9 + np.arange(rows) / fps
        own = np.arange(chunk.horizon) * float(chunk.dt)
        result[number] = np.stack([np.interp(ahead, own, of) for of in values.T], axis=1)
    for gripper, column in robot.grippers.items():
        result[..., column] = robot.curves[gripper].command(result[..., column])
    return result.reshape(len(times), -1)


def _stamped(bag: Bag, topic: str, read: tuple[int, int]) -> Iterator[tuple[int, object]]:
    for message in bag.messages({topic}, *read):
        content = bag.deserialize(message)
        yield stamp_ns(content), content
