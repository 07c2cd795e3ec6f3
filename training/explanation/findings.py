"""What is wrong with a policy or its data, in words: found by rules over the figures, the largest effect first; and
the page that says so.

The measure of every effect is the error of arms that do not move: 1 costs as much as standing still. A rule compares
figures of one policy and one data set with each other, so that it means the same on any of them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pi05_progress.checkpoints.description import CheckpointInfo

from ..report.charts import Curve, curves
from ..report.html_page import html_page, key, row, table
from .answers import BLACK, EXCHANGED, NOISE, NOISY, SEED, STATE, STATE_NOISE
from .figures import BEFORE_GRASP, MEAN, NOT_MOVING, POLICY, Contribution, Figures, Table

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
STYLE = """
.policy { fill:none; stroke:var(--accent); stroke-width:2.4 }
.nobody { fill:none; stroke:var(--second); stroke-width:2 }
"""
AS_NUMBERS = "give the model the state as numbers, not as words alone: state_token of the model"
FIRST_ROW = {  # remedies by whether arm actions are relative, and whether every row has statistics of its own
    (False, False): "train relative actions, which begin at the present pose: --data.delta_actions "
    "--data.actions_per_row",
    (True, False): "normalise every row by its own spread: --data.actions_per_row",
    (True, True): "the actions are relative already: look for statistics of other data, or of another robot",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: str  # in a word or two
    text: str  # with the figures that show it
    remedy: str
    effect: float  # on the actions; 1 is as much as standing still


def findings(figures: Figures, info: CheckpointInfo | None, cameras: Sequence[str]) -> list[Finding]:
    """What is wrong, the largest effect first; empty if no rule finds anything. The policy was shown these cameras, and
    its checkpoint says ``info`` of itself, or nothing."""
    f, changed, (ours, data), (share, cosine) = figures, figures.contributions, figures.first_row, figures.displacement
    still, error, chunk_s, follow = max(f.error[NOT_MOVING], 1e-6), f.error[POLICY], f.row_s[-1] + 1e-9, f.following
    noisy, other, seed = (changed[of] for of in ((STATE, NOISY), (STATE, EXCHANGED), (NOISE, SEED)))
    relative = info is not None and info.delta_actions
    kind = "absolute actions" if info is not None and not relative else "first row"
    words = info is not None and info.model.discrete_state and not info.model.state_token
    steep = noisy.rad > max(AMPLIFIED * MEAN_OF_NOISE, other.rad / 2)
    unused = [camera for camera in cameras if not any(_used(changed[camera, how], f) for how in (BLACK, EXCHANGED))]
    own = seed.rad / math.sqrt(2)  # of one answer; the difference of two has the parts of both
    astray = follow.residual_rad > FOLLOWED * follow.motion_rad
    rules = [
        (ours >= max(data + JUMP, 2 * data), kind,
         f"{kind}: the first row is {ours:.3f} rad away from the present pose, the data's {data:.3f}",
         FIRST_ROW[relative, relative and info.actions_per_row], (ours - data) / still),
        (steep, "state as words" if words else "state",
         f"the state {'reaches the model as words' if words else 'is read without order'}: 5 mrad of noise changes "
         f"the actions by {noisy.rad:.3f} rad, another frame's state by {other.rad:.3f}",
         AS_NUMBERS if words else
         "look at the statistics of joints that hardly move, and train with noise on the state",
         (noisy.rad - MEAN_OF_NOISE) / still),
        (not steep and not _used(other, f) and share > HESITANT, "unused state",
         f"the state is not used: another frame's changes the actions by {other.rad:.3f} rad", AS_NUMBERS,
         min(f.span.rad, error) / still),
        # what cameras that are not used are worth is not known: at most what is used most
        (bool(unused), "unused camera",
         "; ".join(_camera(camera, changed[camera, BLACK], changed[camera, EXCHANGED]) for camera in unused),
         "drop cameras out in training (--augmentation.camera_dropout), show them larger, or leave this one out",
         min(max(of.rad for of in changed.values()), error) / still),
        (share < HESITANT, "stands still",
         f"it hardly moves: chunks go {100 * share:.0f} % of the demonstrated way (cosine {cosine:.2f})",
         "train longer, leave pauses out of the action loss, and execute more rows of a chunk", 1 - share),
        (own > DITHER * still, "dithers",
         f"it dithers: with another noise the same frame's actions are {seed.rad:.3f} rad elsewhere",
         "keep the noise for an episode or take none, execute more rows of a chunk, and train longer",
         (error - math.sqrt(max(error**2 - own**2, 0))) / still),
        *((of.frames >= FEW and (abs(of.late_s) > LATE_S or of.seen < SEEN), f"gripper {what}",
           f"a gripper {what} {_when(of.late_s)} (median of {of.frames} frames); of the chunks in which the "
           f"demonstration's does, {100 * of.seen:.0f} % do it",
           "show the model the grippers' positions, and train more on frames around their moving",
           min(max(abs(of.late_s) / chunk_s, 0.0 if math.isnan(of.seen) else (1 - of.seen) / 2), 1.0))
          for what, of in f.timing.items()),
        (astray, "data",
         f"the data's arms do not follow its actions: at best (after {follow.lag_s:.2f} s) they are "
         f"{follow.residual_rad:.3f} rad apart, and move {follow.motion_rad:.3f} rad in a second",
         "check that actions are what moved these arms, in rad and in the order of the joints",
         follow.residual_rad / still),
        (not astray and follow.lag_s <= 0, "data",
         f"the data's actions do not lead its states (by {follow.lag_s:.2f} s): they are poses, not commands",
         "record the operator's commands, or take states of some frames later", 1.0),
        (not astray and follow.lag_s > LAG_S, "data",
         f"the data's arms follow its actions {follow.lag_s:.2f} s late",
         "check the clocks of commands and states, and the arms' controllers", min(follow.lag_s / chunk_s, 1.0)),
    ]  # fmt: skip
    return sorted((Finding(*what) for holds, *what in rules if holds), key=lambda finding: -finding.effect)


def _used(contribution: Contribution, figures: Figures) -> bool:
    return contribution.rad > USED * figures.span.rad or contribution.gripper > GRIPPER_USED


def _camera(name: str, black: Contribution, other: Contribution) -> str:
    progress = "" if math.isnan(black.progress) else f" and progress by {black.progress:.3f}"
    said = f"camera {name} is not used: black changes actions by {black.rad:.3f} rad{progress}"
    return f"{said}, another frame's picture by {other.rad:.3f} rad"


def _when(late_s: float) -> str:
    return f"{abs(late_s):.2f} s {'early' if late_s < 0 else 'late'}" if abs(late_s) > LATE_S else "seldom"


def verdict(figures: Figures) -> str:
    """How good the actions are, in a few sentences."""
    error, still, grasp_mm = figures.error[POLICY], figures.error[NOT_MOVING], figures.grasp_mm
    how = "worse than standing still" if error > still else f"{error / max(still, 1e-9):.2f} of standing still"
    text = (
        f"The arms' actions are {error:.3f} rad per joint off over chunks of {figures.row_s[-1]:.1f} s: {how} "
        f"({still:.3f}). The data's mean action is {figures.error[MEAN]:.3f} off."
    )
    if math.isfinite(grasp_mm):
        text += f" In {BEFORE_GRASP} the fingertips are {grasp_mm:.0f} mm off; some 8 mm let it grasp."
    return text


def page(facts: Mapping[str, str], verdict: str, findings: Sequence[Finding], figures: Figures) -> str:
    """The whole page: what is wrong, then every figure, with facts about the run at its end."""
    title = f"Actions: {facts['data set']}"
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(verdict)}</p>", "<h2>What is wrong</h2>"]
    for number, finding in enumerate(findings, 1):
        parts.append(
            f"<section class='card'><h3>{number}. {html.escape(finding.text)}</h3><p>{html.escape(finding.remedy)}</p>"
            f"<p class='soft'>effect {finding.effect:.2f}, where standing still is 1</p></section>"
        )
    parts += [] if findings else ["<p>No rule found anything.</p>"]
    shown = {"policy": figures.by_row[POLICY], "nobody": figures.by_row[NOT_MOVING]}
    most = max(errors.max() for errors in shown.values())
    lines = [Curve(figures.row_s, errors / max(most, 1e-9), kind) for kind, errors in shown.items()]
    said = f"Mean error per joint over the time of a chunk; 1 is {most:.3f} rad."
    parts += ["<h2>Error over the chunk</h2>", key({"accent": POLICY, "second": NOT_MOVING}, said)]
    parts.append(curves(lines, float(figures.row_s[-1]), "error over the chunk"))
    for of in [*figures.tables, Table("Run", "", ("what", "which"), list(facts.items()))]:
        cells = [row((html.escape(first), *(("number", html.escape(c)) for c in rest))) for first, *rest in of.shown()]
        parts += [f"<h2>{of.title}</h2><p class='soft'>{of.note}</p>", table([row(of.headings, "th"), *cells])]
    return html_page(title, parts, STYLE)
