"""What recorded episodes demonstrate: poses, commands, the moments that matter, and a sample of frames to ask about."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pi05_progress.errors import UserError
from pi05_progress.robots.layout import Layout
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.transforms import actions_to_model

from ..datasets import layout
from ..datasets.progress_meta import ProgressMeta
from ..datasets.reader import Dataset, Episode

AROUND_S = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25)  # frames that are asked about around a moment
MOVES = 0.2  # a gripper whose command numbers, of [0, 1], differ by less is not used


class Event(NamedTuple):
    """A gripper that closes or opens: from this frame on its command is beyond the middle."""

    frame: int
    arm: str
    closes: bool


@dataclass(frozen=True)
class Demonstration:
    """One episode."""

    episode: Episode
    states: Float[np.ndarray, "n v"]  # as recorded
    pose: Float[np.ndarray, "n j"]  # positions of all joints, rad
    commands: Float[np.ndarray, "n j"]  # arm targets in rad and gripper command numbers
    prompts: tuple[str, ...]  # instruction of each frame
    valid: Bool[np.ndarray, " n"]  # whether what is done in a frame is to be imitated
    # the chunks that were right in each frame where others were executed, at the data's rate; None where none were
    right: Float[np.ndarray, "n k j"] | None
    events: tuple[Event, ...]
    moments: tuple[tuple[str, int], ...]  # names and frames of what matters: milestones and events

    def chunk(self, frame: int, offsets: Int[np.ndarray, " h"]) -> Float[np.ndarray, "h j"]:
        """The commands so many frames after a frame; NaN beyond the episode's end and from a mistake on."""
        if self.right is not None:
            rows, at = self.right[frame], offsets
            inside = at < len(rows)
        else:
            rows, at = self.commands, frame + offsets
            mistakes = np.flatnonzero(~self.valid[frame:])
            inside = at < (frame + mistakes[0] if len(mistakes) else len(rows))
        return np.where(inside[:, None], rows[np.where(inside, at, 0)], np.nan)


class Sample(NamedTuple):
    """A frame that the policy is asked about."""

    of: Demonstration
    frame: int
    even: bool  # one of those that are spread evenly; the others lie around moments


def demonstrations(
    dataset: Dataset, meta: ProgressMeta, profile: RobotProfile, wanted: Collection[int]
) -> list[Demonstration]:
    """Episodes of a data set in the order of its files, all numbers finite; those that failed only if all did."""
    found = []
    marks = [name for name in (layout.DEMONSTRATION_VALID, layout.DEMONSTRATION_ACTIONS) if name in dataset.features]
    good = {index for index in wanted if not meta.episode(index).unsuccessful} or set(wanted)
    for episode, of in dataset.frames([layout.STATE, layout.ACTION, "task_index", *marks], good):
        states, commands = of[layout.STATE], actions_to_model(of[layout.ACTION], profile.layout)
        if not (np.isfinite(states).all() and np.isfinite(commands).all()):
            raise UserError(f"{dataset.root}: episode {episode.index} has states or actions that are not finite")
        events = tuple(_events(commands, profile))
        moments = [(f"milestone {m.label}", m.frame) for m in meta.episode(episode.index).milestones]
        moments += [(f"a gripper {'closes' if event.closes else 'opens'}", event.frame) for event in events]
        prompts = tuple(dataset.tasks[index] for index in of["task_index"])
        pose = profile.layout.positions(states)
        valid = np.asarray(of.get(layout.DEMONSTRATION_VALID, np.ones(len(states))), bool)
        right = of.get(layout.DEMONSTRATION_ACTIONS)
        right = None if right is None else right.reshape(len(states), -1, commands.shape[1])
        found.append(Demonstration(episode, states, pose, commands, prompts, valid, right, events, tuple(moments)))
    return found


def closed(commands: Float[np.ndarray, "*b"], profile: RobotProfile) -> Bool[np.ndarray, "*b"]:
    """Whether gripper command numbers close rather than open."""
    return (commands < 0.5) if profile.gripper_closed == 0 else (commands > 0.5)


def _events(commands: np.ndarray, profile: RobotProfile) -> list[Event]:
    found = []
    for arm, column in profile.layout.grippers.items():
        if np.ptp(commands[:, column]) >= MOVES:
            shut = closed(commands[:, column], profile)
            found += [Event(int(at) + 1, arm, bool(shut[at + 1])) for at in np.flatnonzero(np.diff(shut))]
    return sorted(found)


def sample(of: Sequence[Demonstration], count: int, fps: float) -> list[Sample]:
    """About ``count`` frames to imitate, in order of episodes and frames: half of them even, half around moments."""
    every = [(d, frame) for d, one in enumerate(of) for frame in np.flatnonzero(one.valid).tolist()]
    steps = [round(offset_s * fps) for offset_s in AROUND_S]
    near = {(d, frame + step) for d, one in enumerate(of) for _, frame in one.moments for step in steps}
    around = set(_thinned(sorted(near & set(every)), count // 2))
    even = set(_thinned(every, count - len(around)))
    return [Sample(of[d], frame, (d, frame) in even) for d, frame in sorted(even | around)]


def _thinned(items: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    at = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[i] for i in at]


class Following(NamedTuple):
    """How the data's arms follow its commands; distances are means over joints. NaN where others were executed."""

    distance_rad: float  # of a command from the pose of its frame
    lag_s: float  # after what time poses are nearest to commands; negative where commands come after poses
    residual_rad: float  # the distance that is left then
    motion_rad: float  # how far a pose is from that a second later


def following(of: Sequence[Demonstration], robot: Layout, fps: float) -> Following:
    """How the arms follow the commands of all episodes, at lags of up to a second."""
    arms, reach = robot.arm_columns, round(fps)
    if any(d.right is not None for d in of):
        return Following(*[np.nan] * 4)

    def apart(lag: int, before: str = "commands") -> float:
        """Mean distance of poses from the commands, or the poses, so many frames before."""
        late, early, kept = max(lag, 0), max(-lag, 0), [d for d in of if len(d.pose) > abs(lag)]
        gaps = [d.pose[late : len(d.pose) - early] - getattr(d, before)[early : len(d.pose) - late] for d in kept]
        return float(np.abs(np.concatenate(gaps)[:, arms]).mean()) if gaps else np.inf

    lags = sorted(range(-reach, reach + 1), key=abs)
    distances = [apart(lag) for lag in lags]
    best = int(np.argmin(distances))
    return Following(distances[0], lags[best] / fps, distances[best], apart(reach, "pose"))
