"""A policy's answers to sampled frames, as they were recorded and with one input taken away or exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from jaxtyping import Float, Int

from pi05_progress.errors import UserError
from pi05_progress.files.progress_bar import Advance
from pi05_progress.observation import ObservationError, RobotFrame
from pi05_progress.policy import Policy
from pi05_progress.robots.layout import LayoutError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.transforms import resize_with_pad

from ..evaluation.predictions import robot_frames
from .demonstrations import Sample

STATE_NOISE = 0.005  # rad, standard deviation: what a joint sensor, a load or a latency may well do
BLACK, EXCHANGED, NOISY, SEED = "black", "another frame's", "5 mrad of noise", "another seed"
STATE, NOISE = "state", "noise of the sampler"
Change = tuple[str, str]  # an input, and by what it is replaced


@dataclass(frozen=True)
class Answers:
    """What a policy would do at each sampled frame, in the data's units."""

    chunks: Float[np.ndarray, "n h j"]  # arm targets in rad and gripper command numbers
    shown: Float[np.ndarray, "n j"]  # positions of all joints that it was shown, rad
    progress: Float[np.ndarray, " n"]  # NaN without a head


class Asker:
    """Shows a policy sampled frames, with the same noise for the same frame, so that answers can be compared."""

    def __init__(self, policy: Policy, profile: RobotProfile, samples: Sequence[Sample], fps: float) -> None:
        self.policy, self.profile, self.samples, self.fps = policy, profile, samples, fps
        # another frame for each, far from it, whose inputs are shown in place of its own
        self.partner: Int[np.ndarray, " n"] = np.roll(np.arange(len(samples)), len(samples) // 2)
        self._frames: list[RobotFrame] = []
        for _, group in groupby(samples, key=lambda s: s.of.episode.index):
            (of, *_), frames, _ = zip(*group, strict=True)
            self._frames += map(self._small, robot_frames(of.episode, of.states, profile, fps, frames))

    @property
    def changes(self) -> list[Change]:
        """What can be taken away or exchanged."""
        cameras = [(camera, how) for camera in self.profile.cameras for how in (BLACK, EXCHANGED)]
        return [*cameras, (STATE, EXCHANGED), (STATE, NOISY), (NOISE, SEED)]

    def ask(self, advance: Advance, change: Change | None = None) -> Answers:
        """Answers to all frames."""
        robot, outputs, shown = self.profile.layout, [], []
        for i, sample in enumerate(self.samples):
            frame = self._changed(i, *change) if change else self._frames[i]
            where = f"episode {sample.of.episode.index}, frame {sample.frame}"
            self.policy.restart(i + len(self.samples) * (change == (NOISE, SEED)))
            try:
                output = self.policy.infer(frame, sample.of.prompts[sample.frame])
            except (ObservationError, LayoutError) as error:
                raise UserError(f"{where}: {error}") from error
            if problem := output.problem(self.policy.horizon, robot.action_size):
                raise UserError(f"{where}: the policy's {problem}")
            outputs.append(output)
            shown.append(robot.positions(frame.state))
            advance(1)
        chunks = np.array([output.actions for output in outputs], float)
        for gripper, column in robot.grippers.items():
            chunks[..., column] = robot.curves[gripper].command(chunks[..., column])
        progress = [np.nan if output.progress is None else output.progress for output in outputs]
        return Answers(chunks, np.array(shown), np.array(progress, float))

    def _changed(self, i: int, what: str, how: str) -> RobotFrame:
        frame, other = self._frames[i], self._frames[self.partner[i]]
        if what == NOISE:
            return frame
        if what == STATE and how == NOISY:
            state, arms = frame.state.copy(), self.profile.layout.arm_columns
            state[arms] += np.random.default_rng(i).normal(0, STATE_NOISE, len(arms)).astype(np.float32)
            return replace(frame, state=state)
        if what == STATE:
            return replace(frame, state=other.state)
        picture = np.zeros_like(frame.images[what]) if how == BLACK else other.images[what]
        return replace(frame, images={**frame.images, what: picture})

    def _small(self, frame: RobotFrame) -> RobotFrame:
        """With pictures of the size that the policy reads, so that all frames fit into memory."""
        if (size := self.policy.image_size) is None:
            return frame
        return replace(frame, images={key: resize_with_pad(image, *size) for key, image in frame.images.items()})
