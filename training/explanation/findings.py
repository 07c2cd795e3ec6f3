"""What is wrong with a policy or its data, in words: found by rules over the figures, the largest effect first.

The measure of every effect is the error of arms that do not move: 1 costs as much as standing still. A rule compares
figures of one policy and one data set with each other, so that it means the same on any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pi05_progress.checkpoints.description import CheckpointInfo

from .answers import BLACK, EXCHANGED, NOISE, NOISY, SEED, STATE, STATE_NOISE
from .figures import BEFORE_GRASP, MEAN, NOT_MOVING, Contribution, Figures

JUMP = 0.02  # rad: a first row so much farther from the present pose than the data's is a jump
USED = 0.1  # of what another frame altogether changes: an input that changes less is not used ...
GRIPPER_USED = 0.05  # ... unless it changes the grippers' command numbers so much
AMPLIFIED = 3.0  # times the noise on the state, and at least half of what another frame's state changes
LATE_S = 0.2  # a gripper that closes so much later or earlier misses
FEW = 4  # frames: of fewer nothing is said about grippers
SEEN = 0.6  # of the chunks in which a gripper should move: fewer that do are too few
HESITANT = 0.5  # of the demonstrated way: chunks that go less hardly move
DITHER = 0.25  # of the error of standing still
FOLLOWED = 0.25  # of a second's motion: commands that poses come no nearer to were not followed
LAG_S = 0.3  # arms that follow so late are elsewhere when they are looked at
MEAN_OF_NOISE = STATE_NOISE * math.sqrt(2 / math.pi)  # rad, its absolute value


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: str  # in a word or two
    text: str  # with the figures that show it
    remedy: str
    effect: float  # on the actions; 1 is as much as standing still


def findings(figures: Figures, info: CheckpointInfo | None, cameras: Sequence[str]) -> list[Finding]:
    """What is wrong, the largest effect first; empty if no rule finds anything.

    Args:
        info: what the checkpoint says of itself; None for a policy that says nothing.
        cameras: those that the policy was shown.
    """
    scale = max(figures.error(NOT_MOVING), 1e-6)
    found = [*_first_row(figures, info, scale), *_state(figures, info, scale), *_cameras(figures, cameras, scale),
             *_motion(figures, scale), *_grippers(figures), *_data(figures, scale)]  # fmt: skip
    return sorted(found, key=lambda finding: -finding.effect)


def verdict(figures: Figures) -> str:
    """How good the actions are, in a few sentences."""
    error, still = figures.error(), figures.error(NOT_MOVING)
    how = "worse than standing still" if error > still else f"{error / max(still, 1e-9):.2f} of standing still"
    text = (
        f"The arms' actions are {error:.3f} rad per joint off over chunks of {figures.row_s[-1]:.1f} s: {how} "
        f"({still:.3f}). The data's mean action is {figures.error(MEAN):.3f} off."
    )
    _, grasp = figures.by_moment.get(BEFORE_GRASP, (0, {}))
    if "policy, mm" in grasp:
        text += f" In {BEFORE_GRASP} the fingertips are {grasp['policy, mm']:.0f} mm off; some 8 mm let it grasp."
    return text


def _first_row(figures: Figures, info: CheckpointInfo | None, scale: float) -> Iterator[Finding]:
    ours, data = figures.first_row
    if ours < max(data + JUMP, 2 * data):
        return
    kind = "absolute actions" if info is not None and not info.delta_actions else "first row"
    remedy = "train relative actions, which begin at the present pose: --data.delta_actions --data.actions_per_row"
    if info is not None and info.delta_actions:
        remedy = "the actions are relative already: look for statistics of other data, or of another robot"
        remedy = remedy if info.actions_per_row else "normalise every row by its own spread: --data.actions_per_row"
    text = f"{kind}: the first row is {ours:.3f} rad away from the present pose, the data's {data:.3f}"
    yield Finding(kind, text, remedy, (ours - data) / scale)


def _state(figures: Figures, info: CheckpointInfo | None, scale: float) -> Iterator[Finding]:
    noisy, other = (figures.contributions[STATE, how] for how in (NOISY, EXCHANGED))
    as_words = info is not None and info.model.discrete_state and not info.model.state_token
    remedy = "give the model the state as numbers, not as words alone: state_token of the model"
    if noisy.rad > max(AMPLIFIED * MEAN_OF_NOISE, other.rad / 2):
        kind = "state as words" if as_words else "state"
        text = (
            f"the state {'reaches the model as words' if as_words else 'is read without order'}: 5 mrad of noise "
            f"changes the actions by {noisy.rad:.3f} rad, another frame's state by {other.rad:.3f}"
        )
        if not as_words:
            remedy = "look at the statistics of joints that hardly move, and train with noise on the state"
        yield Finding(kind, text, remedy, (noisy.rad - MEAN_OF_NOISE) / scale)
    elif not _used(other, figures) and figures.displacement[0] > HESITANT:
        text = f"the state is not used: another frame's changes the actions by {other.rad:.3f} rad"
        yield Finding("unused state", text, remedy, min(figures.span.rad, figures.error()) / scale)


def _used(contribution: Contribution, figures: Figures) -> bool:
    return contribution.rad > USED * figures.span.rad or contribution.gripper > GRIPPER_USED


def _cameras(figures: Figures, cameras: Sequence[str], scale: float) -> Iterator[Finding]:
    """One finding, of all cameras that are not used: what they are worth is not known, at most what is used most."""
    texts = []
    for camera in cameras:
        black, other = (figures.contributions[camera, how] for how in (BLACK, EXCHANGED))
        if not (_used(black, figures) or _used(other, figures)):
            progress = "" if math.isnan(black.progress) else f" and progress by {black.progress:.3f}"
            texts.append(
                f"camera {camera} is not used: black changes actions by {black.rad:.3f} rad{progress}, another frame's "
                f"picture by {other.rad:.3f} rad"
            )
    if texts:
        most = max(contribution.rad for contribution in figures.contributions.values())
        remedy = "drop cameras out in training (--augmentation.camera_dropout), show them larger, or leave this one out"
        yield Finding("unused camera", "; ".join(texts), remedy, min(most, figures.error()) / scale)


def _motion(figures: Figures, scale: float) -> Iterator[Finding]:
    share, cosine = figures.displacement
    if share < HESITANT:
        text = f"it hardly moves: chunks go {100 * share:.0f} % of the demonstrated way (cosine {cosine:.2f})"
        remedy = "train longer, leave pauses out of the action loss, and execute more rows of a chunk"
        yield Finding("stands still", text, remedy, 1 - share)
    change, error = figures.contributions[NOISE, SEED].rad, figures.error()
    own = change / math.sqrt(2)  # of one answer; the difference of two has the parts of both
    if own > DITHER * scale:
        text = f"it dithers: with another noise the same frame's actions are {change:.3f} rad elsewhere"
        remedy = "keep the noise for an episode or take none, execute more rows of a chunk, and train longer"
        yield Finding("dithers", text, remedy, (error - math.sqrt(max(error**2 - own**2, 0))) / scale)


def _grippers(figures: Figures) -> Iterator[Finding]:
    for what, (late_s, seen, frames) in figures.timing.items():
        if frames >= FEW and (abs(late_s) > LATE_S or seen < SEEN):
            when = f"{abs(late_s):.2f} s {'early' if late_s < 0 else 'late'}" if abs(late_s) > LATE_S else "seldom"
            text = (
                f"a gripper {what} {when} (median of {frames} frames); of the chunks in which the demonstration's "
                f"does, {100 * seen:.0f} % do it"
            )
            remedy = "show the model the grippers' positions, and train more on frames around their moving"
            effect = max(abs(late_s) / float(figures.row_s[-1] + 1e-9), 0.0 if math.isnan(seen) else (1 - seen) / 2)
            yield Finding(f"gripper {what}", text, remedy, min(effect, 1.0))


def _data(figures: Figures, scale: float) -> Iterator[Finding]:
    data = figures.following
    if data.residual_rad > FOLLOWED * data.motion_rad:
        text = (
            f"the data's arms do not follow its actions: at best (after {data.lag_s:.2f} s) they are "
            f"{data.residual_rad:.3f} rad apart, and move {data.motion_rad:.3f} rad in a second"
        )
        remedy = "check that actions are what moved these arms, in rad and in the order of the joints"
        yield Finding("data", text, remedy, data.residual_rad / scale)
    elif data.lag_s <= 0:
        text = f"the data's actions do not lead its states (by {data.lag_s:.2f} s): they are poses, not commands"
        yield Finding("data", text, "record the operator's commands, or take states of some frames later", 1.0)
    elif data.lag_s > LAG_S:
        text = f"the data's arms follow its actions {data.lag_s:.2f} s late"
        remedy = "check the clocks of commands and states, and the arms' controllers"
        yield Finding("data", text, remedy, min(data.lag_s / float(figures.row_s[-1] + 1e-9), 1.0))
