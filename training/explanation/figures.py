"""Figures about a policy's answers: errors by row, joint and moment, gripper timing, contributions of its inputs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pi05_progress.files.progress_bar import Advance
from pi05_progress.robots.kinematics import fingertips

from .answers import EXCHANGED, Answers, Asker, Change
from .demonstrations import Demonstration, Following, Sample, closed, following

EVERYWHERE, BEFORE_GRASP = "all frames", "the last second before a gripper closes"
ACTORS = POLICY, NOT_MOVING, MEAN = "policy", "standing still", "mean action"
AT_S = 0.3  # frames so near to a moment count as at it
SHOWN_ROWS, SHARES = 8, (0.125, 0.25, 0.5, 0.75, 1)  # of a chunk that are shown, and that may be executed


class Contribution(NamedTuple):
    """By how much the answer changes when an input is changed, mean over rows; NaN of what there is not."""

    rad: float  # of the arms' joints, or of their distance from the pose shown where that changes less
    gripper: float  # of the command number
    progress: float


class Timing(NamedTuple):
    """When the policy would close or open grippers, against when the demonstration does."""

    late_s: float  # median; negative is early
    seen: float  # share of the chunks in which the demonstration does it that do it at any row
    frames: int


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings that say their units."""

    title: str
    note: str
    headings: tuple[str, ...]
    rows: Sequence[Sequence[str | float | int]]

    def known(self) -> list[list[str | float | int | None]]:
        """The rows with None for what is not known."""
        return [[cell if isinstance(cell, str) or math.isfinite(cell) else None for cell in of] for of in self.rows]

    def shown(self) -> list[list[str]]:
        """The cells as text; what is not known is empty."""
        digits = [1 if heading.endswith("mm") else 3 for heading in self.headings]

        def text(cell: str | float | int | None, digits: int) -> str:
            return f"{cell:.{digits}f}" if isinstance(cell, float) else "" if cell is None else str(cell)

        return [list(map(text, cells, digits)) for cells in self.known()]


@dataclass(frozen=True)
class Figures:
    """What findings are made of, and tables of everything. Errors are over chunks and evenly spread frames."""

    row_s: Float[np.ndarray, " h"]  # time of each row of a chunk
    error: Mapping[str, float]  # of the arms by actor, rad
    by_row: Mapping[str, Float[np.ndarray, " h"]]  # the same of each row
    grasp_mm: float  # how far the policy's fingertips are off before a grasp; NaN if that is not known
    first_row: tuple[float, float]  # how far it is from the present pose, rad: the policy's, the data's
    displacement: tuple[float, float]  # share of the demonstrated way that chunks go, and the cosine
    timing: Mapping[str, Timing]
    contributions: Mapping[Change, Contribution]
    span: Contribution  # what another frame altogether changes
    following: Following
    tables: Sequence[Table]  # the most telling ones first


def rows_to_execute(horizon: int) -> list[int]:
    """How many rows of a chunk may be executed, from one to all."""
    return sorted({1, *(max(1, round(horizon * share)) for share in SHARES)})


def questions(samples: Sequence[Sample], asker: Asker) -> int:
    """How often the policy is asked, at most."""
    return len(samples) * (1 + len(asker.changes)) + len(rows_to_execute(asker.policy.horizon)) * len(samples) // 2


def figures(asker: Asker, of: Sequence[Demonstration], advance: Advance) -> Figures:
    """Ask the policy, and compute everything."""
    policy, robot, samples, fps, partner = asker.policy, asker.profile.layout, asker.samples, asker.fps, asker.partner
    arms, even, grippers = robot.arm_columns, np.array([s.even for s in samples]), list(robot.grippers.values())
    row_s = np.arange(policy.horizon) * policy.action_dt_s
    plain = asker.ask(advance)
    truth = np.array([s.of.chunk(s.frame, np.rint(row_s * fps).astype(int)) for s in samples])
    mean = np.concatenate([d.commands for d in of]).mean(axis=0)
    acts = dict(zip(ACTORS, (plain.chunks, plain.shown[:, None], mean[None, None]), strict=True))
    rad = {actor: (chunks - truth)[..., arms] for actor, chunks in acts.items()}
    apart = {f"{actor}, rad": gap for actor, gap in rad.items()}  # by heading
    if (tips := fingertips(truth, robot)) is not None:
        off = {actor: fingertips(chunks, robot) - tips for actor, chunks in acts.items()}
        apart |= {f"{actor}, mm": 1e3 * np.linalg.norm(gap, axis=-1) for actor, gap in off.items()}

    def errors(frames: Bool[np.ndarray, " n"] = even, rows: slice | int = slice(None)) -> list[float]:
        return [_size(gap[frames, rows]) for gap in apart.values()]

    at = {EVERYWHERE: even, **_moments(samples, fps)}
    motion, wanted = ((chunks - plain.shown[:, None])[even][..., arms] for chunks in (plain.chunks, truth))
    motion, wanted = motion[np.isfinite(wanted)], wanted[np.isfinite(wanted)]
    way = float(motion @ wanted), max(float(wanted @ wanted), 1e-12), max(float(motion @ motion), 1e-12)
    first = tuple(_size((c[:, 0] - plain.shown)[even][:, arms]) for c in (plain.chunks, truth))
    went = way[0] / way[1], way[0] / math.sqrt(way[1] * way[2])
    changed = {change: _contribution(plain, asker.ask(advance, change), arms, grippers) for change in asker.changes}
    other = Answers(plain.chunks[partner], plain.shown[partner], plain.progress[partner])
    span, timing, follow = _contribution(plain, other, arms, grippers), _timing(asker, plain), following(of, robot, fps)
    picked = np.unique(np.linspace(0, policy.horizon - 1, SHOWN_ROWS).round().astype(int))
    executed = rows_to_execute(policy.horizon)
    values = {
        "first row's distance from the present pose: policy, rad": first[0],
        "first row's distance from the present pose: data, rad": first[1],
        "share of the demonstrated way that chunks go": went[0],
        "cosine of the predicted and the demonstrated way": went[1],
        "data: distance of actions from the states of their frame, rad": follow.distance_rad,
        "data: arms follow actions after, s": follow.lag_s,
        "data: distance that is left then, rad": follow.residual_rad,
        "data: motion of the arms in a second, rad": follow.motion_rad,
    }
    tables = [
        Table("Moments", "Mean error of chunks, per joint of the arms and at the fingertips (forward kinematics).",
              ("moment", "frames", *apart),
              [(name, int(frames.sum()), *errors(frames)) for name, frames in at.items() if frames.any()]),
        Table("What the answer is made of", "By how much the answer changes if one input does; gripper commands and "
              "progress are in [0, 1]. What the pose shown adds to relative actions does not count.",
              ("input", "replaced by", "arms, rad", "grippers", "progress"),
              [(*name, *c) for name, c in {**changed, ("everything", EXCHANGED): span}.items()]),
        Table("Rows of a chunk", "Error by the time from the chunk's beginning.", ("time, s", *apart),
              [(float(row_s[row]), *errors(rows=row)) for row in picked]),
        Table("Rows to execute", "Error if so many rows are executed before the next chunk, from demonstrated states; "
              "jump: from where the chunk would have gone on to the first row of the one that replaces it.",
              ("rows", "time, s", *apart, "jump, rad"),
              [(n, n * policy.action_dt_s, *errors(rows=slice(n)), _jump(asker, plain, n, advance)) for n in executed]),
        Table("Joints", "Mean error of chunks.", ("joint", *apart)[: 1 + len(rad)],
              [(robot.joints[j], *(_size(gap[even][..., i]) for gap in rad.values())) for i, j in enumerate(arms)]),
        Table("Grippers", "When chunks close or open a gripper, against when the demonstration does.",
              ("what", "median delay, s", "share that do within the chunk", "frames"),
              [(name, *when) for name, when in timing.items()]),
        Table("Motion and data", "", ("figure", "value"), list(values.items())),
    ]  # fmt: skip
    error = {actor: _size(gap[even]) for actor, gap in rad.items()}
    by_row = {actor: np.array([_size(row) for row in gap[even].swapaxes(0, 1)]) for actor, gap in rad.items()}
    grasp_mm = _size(apart.get(f"{POLICY}, mm", np.full((len(samples), 1), np.nan))[at[BEFORE_GRASP]])
    return Figures(row_s, error, by_row, grasp_mm, first, went, timing, changed, span, follow, tables)


def _size(values: np.ndarray) -> float:
    """Mean absolute value of what is known; NaN if nothing is."""
    known = values[np.isfinite(values)]
    return float(np.abs(known).mean()) if known.size else math.nan


def _moments(samples: Sequence[Sample], fps: float) -> dict[str, Bool[np.ndarray, " n"]]:
    """Which samples are at each moment, and which lie before a grasp."""
    names = list(dict.fromkeys(name for s in samples for name, _ in s.of.moments))
    grasps = [any(e.closes and 0 <= e.frame - s.frame <= fps for e in s.of.events) for s in samples]
    near = [{name for name, at in s.of.moments if abs(at - s.frame) <= AT_S * fps} for s in samples]
    return {BEFORE_GRASP: np.array(grasps)} | {name: np.array([name in of for of in near]) for name in names}


def _jump(asker: Asker, plain: Answers, rows: int, advance: Advance) -> float:
    """From where a chunk would go on after so many rows to the first row of the chunk that replaces it, rad."""
    policy, steps = asker.policy, max(1, round(rows * asker.policy.action_dt_s * asker.fps))
    kept = [i for i, s in enumerate(asker.samples) if s.even and s.frame + steps < len(s.of.states)]
    if rows == policy.horizon or not kept:
        return math.nan
    later = [asker.samples[i]._replace(frame=asker.samples[i].frame + steps) for i in kept]
    new = Asker(policy, asker.profile, later, asker.fps).ask(advance).chunks[:, 0]
    return _size((new - plain.chunks[kept, rows])[:, asker.profile.layout.arm_columns])


def _contribution(plain: Answers, other: Answers, arms: np.ndarray, grippers: Sequence[int]) -> Contribution:
    change = other.chunks - plain.chunks
    motion = change - (other.shown - plain.shown)[:, None]
    arm = min(_size(of[..., arms]) for of in (change, motion))
    return Contribution(arm, _size(change[..., grippers]), _size(other.progress - plain.progress))


def _timing(asker: Asker, plain: Answers) -> dict[str, Timing]:
    """From frames whose chunk could hold an event, or that come shortly after one, where it may be late."""
    dt_s, duration_s = asker.policy.action_dt_s, asker.policy.horizon * asker.policy.action_dt_s
    late, seen = defaultdict(list), defaultdict(list)
    for s, chunk in zip(asker.samples, plain.chunks, strict=True):
        for event in s.of.events:
            due_s = (event.frame - s.frame) / asker.fps  # from the chunk's beginning
            if not -duration_s / 2 <= due_s < duration_s:
                continue
            name = "closes" if event.closes else "opens"
            commands = chunk[:, asker.profile.layout.grippers[event.arm]]
            done = np.flatnonzero(closed(commands, asker.profile) == event.closes)
            # done from the first row on is early by what is left, or says nothing if it is over; never is late by at
            # least what is left of the chunk
            said_s = done[0] * dt_s if len(done) else duration_s
            late[name] += [said_s - due_s] * bool(due_s > 0 or said_s > 0)
            seen[name] += [bool(len(done))] * (due_s > 0)
    return {k: Timing(float(np.median(of)), _size(np.array(seen[k], float)), len(of)) for k, of in late.items() if of}
