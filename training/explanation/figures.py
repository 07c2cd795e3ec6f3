"""Figures about a policy's answers: errors by row, joint and moment, gripper timing, contributions of its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pi05_progress.files.progress_bar import Advance

from .answers import Answers, Asker, Change
from .demonstrations import Demonstration, Following, Sample, arm_columns, closed, following
from .kinematics import fingertips

EVERYWHERE, BEFORE_GRASP = "all frames", "the last second before a gripper closes"
ACTORS = POLICY, NOT_MOVING, MEAN = "policy", "standing still", "mean action"
AT_S = 0.3  # frames so near to a moment count as at it
SHOWN_ROWS, SHARES = 8, (0.125, 0.25, 0.5, 0.75, 1)  # of a chunk that are shown, and that may be executed
Errors = Mapping[str, float]  # by actor, its mean distance from the demonstration: "policy, rad", "policy, mm" ...


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
class Figures:
    """All of them. Errors are over chunks and evenly spread frames if not said otherwise."""

    row_s: Float[np.ndarray, " h"]  # time of each row of a chunk
    by_row: Sequence[Errors]
    by_joint: Mapping[str, Errors]
    by_moment: Mapping[str, tuple[int, Errors]]  # how many frames, and the errors there
    by_rows_executed: Mapping[int, tuple[float, Errors]]  # the jump to the next chunk's first row, errors until then
    first_row: tuple[float, float]  # how far it is from the present pose, rad: the policy's, the data's
    displacement: tuple[float, float]  # share of the demonstrated way that chunks go, and the cosine
    timing: Mapping[str, Timing]
    contributions: Mapping[Change, Contribution]
    span: Contribution  # what another frame altogether changes
    following: Following

    def error(self, actor: str = POLICY) -> float:
        """Of whole chunks, rad."""
        return self.by_moment[EVERYWHERE][1][f"{actor}, rad"]


def rows_to_execute(horizon: int) -> list[int]:
    """How many rows of a chunk may be executed, from one to all."""
    return sorted({1, *(max(1, round(horizon * share)) for share in SHARES)})


def questions(samples: Sequence[Sample], asker: Asker) -> int:
    """How often the policy is asked, at most."""
    return len(samples) * (1 + len(asker.changes)) + len(rows_to_execute(asker.policy.horizon)) * len(samples) // 2


def figures(asker: Asker, of: Sequence[Demonstration], advance: Advance) -> Figures:
    """Ask the policy, and compute everything."""
    policy, robot, samples, fps = asker.policy, asker.profile.layout, asker.samples, asker.fps
    arms, even = arm_columns(robot), np.array([s.even for s in samples])
    row_s = np.arange(policy.horizon) * policy.action_dt_s
    plain = asker.ask(advance)
    truth = np.array([s.of.chunk(s.frame, np.rint(row_s * fps).astype(int)) for s in samples])
    mean = np.concatenate([d.commands for d in of]).mean(axis=0)
    acts = dict(zip(ACTORS, (plain.chunks, plain.shown[:, None], mean[None, None]), strict=True))
    apart = {f"{actor}, rad": (chunks - truth)[..., arms] for actor, chunks in acts.items()}
    if (tips := fingertips(truth, robot)) is not None:
        off = {actor: fingertips(chunks, robot) - tips for actor, chunks in acts.items()}
        apart |= {f"{actor}, mm": 1e3 * np.linalg.norm(gap, axis=-1) for actor, gap in off.items()}

    def errors(frames: Bool[np.ndarray, " n"], rows: slice = slice(None), joint: int | None = None) -> Errors:
        names = [name for name in apart if joint is None or name.endswith("rad")]
        chosen = [apart[name][frames, rows, slice(None) if joint is None else joint] for name in names]
        return {name: _size(values) for name, values in zip(names, chosen, strict=True)}

    at = {EVERYWHERE: even, **_moments(samples, fps)}
    motion, wanted = ((chunks - plain.shown[:, None])[even][..., arms] for chunks in (plain.chunks, truth))
    motion, wanted = motion[np.isfinite(wanted)], wanted[np.isfinite(wanted)]
    way = float(motion @ wanted), max(float(wanted @ wanted), 1e-12), max(float(motion @ motion), 1e-12)
    jumps = {rows: _jump(asker, plain, rows, advance) for rows in rows_to_execute(policy.horizon)}
    partner = asker.partner
    other = Answers(plain.chunks[partner], plain.shown[partner], plain.progress[partner])
    grippers = list(robot.grippers.values())
    return Figures(
        row_s=row_s,
        by_row=[errors(even, slice(row, row + 1)) for row in range(policy.horizon)],
        by_joint={robot.joints[column]: errors(even, joint=i) for i, column in enumerate(arms)},
        by_moment={name: (int(frames.sum()), errors(frames)) for name, frames in at.items() if frames.any()},
        by_rows_executed={rows: (jump, errors(even, slice(rows))) for rows, jump in jumps.items()},
        first_row=tuple(_size((c[:, 0] - plain.shown)[even][:, arms]) for c in (plain.chunks, truth)),
        displacement=(way[0] / way[1], way[0] / math.sqrt(way[1] * way[2])),
        timing=_timing(asker, plain),
        contributions={c: _contribution(plain, asker.ask(advance, c), arms, grippers) for c in asker.changes},
        span=_contribution(plain, other, arms, grippers),
        following=following(of, robot, fps),
    )


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
    return _size((new - plain.chunks[kept, rows])[:, arm_columns(asker.profile.layout)])


def _contribution(plain: Answers, other: Answers, arms: np.ndarray, grippers: Sequence[int]) -> Contribution:
    change = other.chunks - plain.chunks
    motion = change - (other.shown - plain.shown)[:, None]
    arm = min(_size(of[..., arms]) for of in (change, motion))
    return Contribution(arm, _size(change[..., grippers]), _size(other.progress - plain.progress))


def _timing(asker: Asker, plain: Answers) -> dict[str, Timing]:
    """From frames whose chunk could hold an event, or that come shortly after one, where it may be late."""
    dt_s, duration_s = asker.policy.action_dt_s, asker.policy.horizon * asker.policy.action_dt_s
    late: dict[str, list[float]] = {}
    seen: dict[str, list[bool]] = {}
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
            late.setdefault(name, []).extend([said_s - due_s] * bool(due_s > 0 or said_s > 0))
            seen.setdefault(name, []).extend([bool(len(done))] * (due_s > 0))
    return {
        name: Timing(float(np.median(of)), _size(np.array(seen[name], float)), len(of))
        for name, of in late.items()
        if of
    }
