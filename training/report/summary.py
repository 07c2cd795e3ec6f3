"""What is worth knowing of an episode, from its numbers alone: courses, standstills, jumps, clipping, labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from pi05_progress.robots.layout import Layout

from ..datasets.progress_meta import EpisodeMeta, Outcome
from ..datasets.reader import Episode
from ..labels import methods
from ..labels.milestones import falls

POINTS = 300  # of a curve on the page
# When something is worth a look
STANDSTILL_SPEED = 0.02  # joints slower than this stand still, rad/s
STANDSTILL_S = 2.0  # standstills from this length on are told
JUMP_SPEED = 10.0  # arm joints faster than this jump, rad/s; about what no joint of the robot does
LIMIT_MARGIN = 1e-3  # nearer than this to a joint limit counts as being at it, rad
BEYOND_LIMIT = 0.05  # farther than this outside the joint limits is told, rad
CLIPPING_SHARE = 0.02  # of an episode's frames, from which on being at a limit is told
DURATION_RATIO = 2.0  # how often the median duration of its task an episode may last, or the other way round
TIMESTAMP_FRAMES = 0.5  # by how much a time stamp may miss its frame, in frames


@dataclass(frozen=True)
class Finding:
    """Something worth a look. ``severity`` orders: 1 is about what one would want to see at all.

    ``usual`` marks what most episodes of the data set have, too; see ``with_usual_ones_marked``.
    """

    kind: str
    text: str
    severity: float
    usual: bool = False


@dataclass(frozen=True)
class EpisodeSummary:
    """One episode on the page."""

    episode: Episode  # what the data set says of it
    meta: EpisodeMeta  # outcome and milestones
    duration_s: float  # from the first to the last frame
    standstills: tuple[tuple[float, float], ...] = ()  # (from, to) in seconds, those that are told
    jumps: tuple[float, ...] = ()  # when joints jump, seconds
    # times, progress: points of the labels' curve, NaN where unlabelled; empty without labels
    times: np.ndarray = field(default_factory=lambda: np.zeros(0))
    progress: np.ndarray = field(default_factory=lambda: np.zeros(0))
    # how many labelled frames fall into each twentieth of [0, 1]
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(20, int))
    labelled: int = 0  # frames with a label
    findings: tuple[Finding, ...] = ()  # the worst first

    @property
    def severity(self) -> float:
        """Of all findings together; what is usual in the data set counts a tenth."""
        return sum(finding.severity * (0.1 if finding.usual else 1.0) for finding in self.findings)

    @property
    def suspicious(self) -> bool:
        """Whether there is anything that is not usual in the data set."""
        return any(not finding.usual for finding in self.findings)

    def with_findings(self, more: Sequence[Finding]) -> EpisodeSummary:
        """With further findings, the worst first."""
        findings = sorted([*self.findings, *more], key=lambda f: (f.usual, -f.severity))
        return replace(self, findings=tuple(findings))


def summarise(
    episode: Episode,
    meta: EpisodeMeta,
    columns: Mapping[str, np.ndarray],
    fps: float,
    robot: Layout | None,
) -> EpisodeSummary:
    """Look at one episode.

    Args:
        columns: joint positions of ``state`` and ``action`` (n, p) where the data set has them, ``timestamp`` (n,);
            with labels ``progress`` and ``valid`` (n,).
        robot: whose arm joints and limits these are, if the state has a known layout.
    """
    n = episode.length
    findings: list[Finding] = []
    standstills: tuple[tuple[float, float], ...] = ()
    jumps: tuple[float, ...] = ()
    vectors = {name: columns[name] for name in ("state", "action") if name in columns}
    for name, positions in vectors.items():
        if not np.isfinite(positions).all():
            bad = int((~np.isfinite(positions)).any(axis=1).sum())
            findings.append(Finding("numbers", f"{name} is not finite in {bad} frames", 10))
    finite = {name: positions for name, positions in vectors.items() if np.isfinite(positions).all()}
    if "state" in finite:
        standstills = _standstills(finite["state"], fps)
        findings += _standstill_finding(standstills, n / fps)
    for name, positions in finite.items():
        where, finding = _jumps(positions, name, fps, robot)
        jumps += where
        findings += finding
    if robot is not None:
        findings += _limits(finite, robot)
    findings += _timestamps(columns["timestamp"], fps)
    times, curve, histogram, labelled = np.zeros(0), np.zeros(0), np.zeros(20, int), 0
    if "progress" in columns:
        valid = columns["valid"] if "valid" in columns else np.ones(n, bool)
        findings += _labels(columns["progress"], valid, meta)
        picked = np.unique(np.linspace(0, n - 1, min(n, POINTS)).round().astype(int))
        times, curve = picked / fps, np.where(valid, columns["progress"], np.nan)[picked]
        usable = columns["progress"][valid & np.isfinite(columns["progress"])]
        histogram, labelled = np.histogram(usable, bins=20, range=(0, 1))[0], int(valid.sum())
    if meta.outcome is Outcome.FAILURE:
        findings.append(Finding("failure", "failed" + (f": {meta.note}" if meta.note else ""), 0.5))
    if meta.ended_early:
        findings.append(Finding("cut off", f"{meta.note}; its last frame is not the task's end", 0.5))
    summary = EpisodeSummary(episode, meta, (n - 1) / fps, standstills, jumps, times, curve, histogram, labelled)
    return summary.with_findings(findings)


def _standstills(positions: Float[np.ndarray, "n p"], fps: float) -> tuple[tuple[float, float], ...]:
    speed = methods.speeds(positions, fps)
    still = ~methods.moving(speed, fps, STANDSTILL_SPEED, STANDSTILL_S)
    stretches = ((start, stop) for start, stop in methods.runs(still) if (stop - start) / fps >= STANDSTILL_S)
    return tuple((max(start - 1, 0) / fps, (stop - 1) / fps) for start, stop in stretches)


def _standstill_finding(standstills: Sequence[tuple[float, float]], duration_s: float) -> list[Finding]:
    if not standstills:
        return []
    total, longest = sum(b - a for a, b in standstills), max(standstills, key=lambda s: s[1] - s[0])
    text = f"stands still for {total:.1f} s, longest {longest[1] - longest[0]:.1f} s from {longest[0]:.1f} s on"
    return [Finding("standstill", text, 0.5 + 3 * total / duration_s)]


def _jumps(
    positions: Float[np.ndarray, "n p"], name: str, fps: float, robot: Layout | None
) -> tuple[tuple[float, ...], list[Finding]]:
    columns = np.arange(positions.shape[1]) if robot is None else robot.arm_columns
    names = [f"number {c}" if robot is None else robot.joints[c] for c in columns]
    steps = np.abs(np.diff(positions[:, columns].astype(float), axis=0))
    frames = np.flatnonzero((steps * fps > JUMP_SPEED).any(axis=1))
    if not len(frames):
        return (), []
    frame, column = np.unravel_index(int(steps.argmax()), steps.shape)
    text = (
        f"{name} jumps in {len(frames)} frames, the farthest by {steps.max():.2f} rad "
        f"({names[column]} at {(frame + 1) / fps:.1f} s)"
    )
    return tuple(float((f + 1) / fps) for f in frames[:50]), [Finding("jump", text, 2 + min(len(frames), 10) / 5)]


def _limits(vectors: Mapping[str, Float[np.ndarray, "n p"]], robot: Layout) -> list[Finding]:
    """Joints outside their limits, and those that are at them for long; of state and action together."""
    arms = robot.arm_columns
    low, high = robot.limits[arms].T
    outside, clipped, most = [], [], 0.0
    over = {}  # positive outside
    for name, positions in vectors.items():
        values = positions[:, arms].astype(float)
        over[name] = np.maximum(low - values, values - high)
    for j, joint in enumerate(robot.joints[arm] for arm in arms):
        far = {name: of[:, j].max() for name, of in over.items() if of[:, j].max() > BEYOND_LIMIT}
        share = {name: float((of[:, j] > -LIMIT_MARGIN).mean()) for name, of in over.items()}
        if far:
            outside.append(f"{joint} by {max(far.values()):.2f} rad ({', '.join(far)})")
        elif max(share.values(), default=0.0) > CLIPPING_SHARE:
            clipped.append(f"{joint} ({', '.join(f'{name} {100 * of:.0f} %' for name, of in share.items())})")
            most = max(most, *share.values())
    found = []
    if outside:
        found.append(Finding("limits", f"outside joint limits: {', '.join(outside)}", 2 + 0.2 * len(outside)))
    if clipped:
        found.append(Finding("clipping", f"at a joint limit: {', '.join(clipped)} of the frames", 1 + most))
    return found


def _timestamps(times: Float[np.ndarray, " n"], fps: float) -> list[Finding]:
    off = np.abs(np.asarray(times, float) * fps - np.arange(len(times)))
    if not np.isfinite(off).all() or off.max() > TIMESTAMP_FRAMES:
        text = f"time stamps miss their frames, by up to {off.max():.1f} frames (number {int(off.argmax())})"
        return [Finding("time", text, 3)]
    return []


def _labels(progress: Float[np.ndarray, " n"], valid: Bool[np.ndarray, " n"], meta: EpisodeMeta) -> list[Finding]:
    labelled = progress[valid]
    if not len(labelled):
        expected = meta.outcome is Outcome.FAILURE or meta.ended_early
        return [] if expected else [Finding("labels", "no frame is labelled", 1)]
    if not np.isfinite(progress).all():
        return [Finding("labels", f"labels are not finite in {int((~np.isfinite(progress)).sum())} frames", 10)]
    found = []
    if labelled.min() < 0 or labelled.max() > 1:
        found.append(Finding("labels", f"labels reach from {labelled.min():.2f} to {labelled.max():.2f}", 5))
    if not falls(meta.milestones) and (down := np.flatnonzero(np.diff(labelled) < -1e-6)).size:
        found.append(Finding("labels", f"progress falls in {len(down)} frames, first at frame {down[0] + 1}", 1))
    steps = np.diff(labelled)
    if len(steps) > 10 and steps.max() > 0.2:
        at = int(steps.argmax()) + 1
        found.append(Finding("labels", f"progress jumps by {steps.max():.2f} at frame {at}", 1))
    if meta.outcome is not Outcome.FAILURE and not meta.ended_early and labelled[-1] < 0.9:
        found.append(Finding("labels", f"ends at progress {labelled[-1]:.2f} without being a failure", 1))
    return found


def duration_findings(summaries: Sequence[EpisodeSummary]) -> dict[int, list[Finding]]:
    """Episodes much shorter or longer than the median of their task, by index; the median needs three episodes."""
    by_task: dict[str, list[EpisodeSummary]] = {}
    for summary in summaries:
        by_task.setdefault(summary.episode.task, []).append(summary)
    found: dict[int, list[Finding]] = {}
    for of_task in by_task.values():
        median = float(np.median([s.duration_s for s in of_task]))
        if len(of_task) < 3 or median == 0:
            continue
        for summary in of_task:
            ratio = summary.duration_s / median
            if not 1 / DURATION_RATIO <= ratio <= DURATION_RATIO:
                word = "short" if ratio < 1 else "long"
                text = f"{word}: {summary.duration_s:.1f} s, the median of its task is {median:.1f} s"
                found[summary.episode.index] = [Finding(word, text, min(3.0, abs(np.log2(max(ratio, 1 / 8)))))]
    return found


def with_usual_ones_marked(summaries: Sequence[EpisodeSummary]) -> list[EpisodeSummary]:
    """Findings of a kind that more than half of the episodes have tell about the data set, not about an episode.

    They stay, but no longer make an episode suspicious. With fewer than four episodes nothing is usual, and failures
    never are.
    """
    counts = Counter(kind for summary in summaries for kind in {f.kind for f in summary.findings})
    usual = {kind for kind, count in counts.items() if count > len(summaries) / 2 and kind != "failure"}
    if len(summaries) < 4:
        return list(summaries)
    return [
        replace(s, findings=()).with_findings([replace(f, usual=f.kind in usual) for f in s.findings])
        for s in summaries
    ]


def picture_findings(pictures: Mapping[str, Sequence[np.ndarray]], moves: bool) -> list[Finding]:
    """Cameras that are dark or show the same picture, uint8 (h, w, 3), all the time although the robot moves."""
    found = []
    for camera, of_camera in pictures.items():
        if of_camera and max(float(picture.mean()) for picture in of_camera) < 3:
            found.append(Finding("picture", f"{camera} is black", 3))
        elif moves and len(of_camera) > 2:
            first = of_camera[0].astype(np.int16)
            if all(np.abs(picture - first).max() <= 2 for picture in of_camera[1:]):
                found.append(Finding("picture", f"{camera} shows the same picture all the time", 3))
    return found
