"""The figures of one episode, by name; NaN where one has no meaning for it.

A name is ``<measure>.<source>``. Sources: ``raw`` (the model's belief), ``filtered`` (the estimator's progress
without memory), ``temporal`` (with the checkpoint's temporal head, if it has one), ``clock`` (somebody who only
looks at the clock).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pi05_progress.estimate.status import Status

from . import metrics, playbacks
from .playbacks import LATE_S
from .predictions import LEVELS, Track
from .truth import Truth

KINDS = ("raw", "filtered")
HIGH = 0.9  # a failed episode must not stay above
END_S = 1.0  # progress at the end is the mean over so long
REFUSED_BELOW = 0.15  # an instruction for something else is refused by progress that ends below, or is unknown
PREMATURE_S = 1.0  # declared so long before it was done is premature
MOMENTS = (0.25, 0.5, 0.75)  # of an episode's duration, at which time remaining is looked at


def episode_figures(
    tracks: Mapping[str, Track],
    truth: Truth,
    fps: float,
    median_s: float | None,
    standstills: Sequence[tuple[int, int]] = (),
) -> dict[str, float]:
    """All figures of an episode.

    Args:
        tracks: by name of the playback, at least the plain one and the one whose end is held.
        median_s: median duration of its task in training; None if training had no such task.
        standstills: first and last frame of each stretch in which the recorded robot stood still.
    """
    track = tracks[playbacks.PLAIN]
    by_clock = np.full(len(track.time_s), np.nan) if median_s is None else metrics.clock(track.time_s, median_s)
    found: dict[str, float] = {"rank": float(truth.rank)}
    held = tracks[playbacks.HELD]
    found |= _reached(track, held, truth) | _declared(held, truth, fps) | _standing(track, standstills)
    found |= _alarms(track, truth, fps, median_s)
    found |= {"latency_median.raw": float(np.median(track.ms)), "latency_p95.raw": float(np.quantile(track.ms, 0.95))}
    if truth.success:
        found |= _order_and_error(track, truth, fps, by_clock)
        found |= _belief(track, truth) | _remaining(track, truth.end_frame / fps, median_s) | _perturbed(tracks, truth)
    return found


def with_memory(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures of tracks that a temporal head made, of the source ``temporal``."""
    own = {name.rpartition("."): value for name, value in figures.items() if name.endswith(".filtered")}
    return {f"{measure}.temporal": value for (measure, *_), value in own.items()}


def _alarms(track: Track, truth: Truth, fps: float, median_s: float | None) -> dict[str, float]:
    """What spoke for a failure when the episode ended or was done, and at half of its task's usual duration."""
    end_s = truth.done_frame / fps if truth.success else track.time_s[-1]
    before = track.time_s <= end_s + 1e-9
    ended = before & (track.time_s >= end_s - END_S)
    found = {"alarm_end.filtered": float(np.mean(track.alarm[ended])) if ended.any() else np.nan}
    if median_s is not None and end_s >= median_s / 2:
        found["alarm_half.filtered"] = float(metrics.last_before(track.time_s, track.alarm, [median_s / 2])[0])
    called = bool((track.status[before] == Status.FAILED).any())
    found[f"called_{'success' if truth.success else 'failure'}.filtered"] = float(called)
    if not truth.success:
        rises = [] if truth.milestone is None else np.flatnonzero(np.diff(truth.milestone) > 0) + 1
        rose_s = float(rises[-1]) / fps if len(rises) else 0.0
        late = track.time_s[(track.status == Status.FAILED) & (track.time_s >= rose_s)]
        found["failure_delay.filtered"] = float(late[0] if len(late) else track.time_s[-1]) - rose_s
    told = np.isfinite(track.done)
    if told.any():
        found["brier.filtered"] = metrics.brier(track.done[told], truth.complete(track.frames[told]))
    return found | {"unlike.filtered": float(np.isnan(track.filtered).mean())}


def _order_and_error(track: Track, truth: Truth, fps: float, by_clock: np.ndarray) -> dict[str, float]:
    found = {}
    for kind, values in {"raw": track.raw, "filtered": track.filtered, "clock": by_clock}.items():
        if truth.falls:
            found[f"order_undone.{kind}"] = metrics.spearman(values, truth.milestone[track.frames])
        elif kind != "clock":
            found[f"voc.{kind}"] = metrics.spearman(values, track.time_s)
            found[f"kendall.{kind}"] = metrics.kendall(values, track.time_s)
            found[f"drops.{kind}"] = metrics.sum_of_drops(values)
        for name, course in (("linear", truth.linear), ("milestone", truth.milestone)):
            known = np.nan if course is None else metrics.mean_error(values, course[track.frames])
            found[f"mae_{name}.{kind}"] = known
        errors = [abs(e) for e in boundary_errors(track, values, truth, fps).values() if np.isfinite(e)]
        found[f"boundary.{kind}"] = float(np.mean(errors)) if errors else np.nan
    return found


def boundary_errors(track: Track, values: np.ndarray, truth: Truth, fps: float) -> dict[str, float]:
    """Per milestone the newest value when it was reached, minus the progress there; NaN if there was no value yet."""
    moments = np.array([frame / fps for _, frame, _ in truth.boundaries])
    seen = metrics.last_before(track.time_s, values, moments)
    return {name: float(v - at) for (name, _, at), v in zip(truth.boundaries, seen, strict=True)}


def _reached(track: Track, held: Track, truth: Truth) -> dict[str, float]:
    """How far it went, of failures above all; a failure that ends high stays high, so its end is held."""
    found = {}
    last = track.time_s >= track.time_s[-1] - END_S
    for kind in KINDS:
        values = track.values(kind)
        end, high = float(values[last].mean()), float(values.max())
        found[f"end.{kind}"] = end
        if not truth.success:
            found[f"failure_end.{kind}"], found[f"failure_high.{kind}"] = end, high
            found[f"failure_above.{kind}"] = metrics.longest_above(held.time_s, held.values(kind), HIGH)
            if truth.milestone is not None:
                found[f"failure_excess.{kind}"] = end - float(truth.milestone[-1])
    return found


def _standing(track: Track, standstills: Sequence[tuple[int, int]]) -> dict[str, float]:
    """How far progress went from where it was when a recorded standstill began; of several the farthest."""
    found = {}
    for kind in KINDS:
        inside = [(first <= track.frames) & (track.frames <= last) for first, last in standstills]
        drifts = [metrics.excursion(track.values(kind)[during]) for during in inside if during.sum() > 1]
        if drifts:
            found[f"standstill_drift.{kind}"] = max(drifts)
    return found


def _declared(track: Track, truth: Truth, fps: float) -> dict[str, float]:
    """When the status said SUCCEEDED; the end is held, because it takes a second to be sure."""
    at, done = track.declared_s(), truth.done_frame / fps
    declared = bool(np.isfinite(at))
    found = {"declared.filtered": float(declared)}
    if truth.success:
        found["premature.filtered"] = float(declared and at < done - PREMATURE_S)
        found["late.filtered"] = float(declared and at > done + LATE_S)
        found["missed.filtered"] = float(not declared)
        found["delay.filtered"] = at - done
    else:
        found["false_alarm.filtered"] = float(declared)
    return found


def _belief(track: Track, truth: Truth) -> dict[str, float]:
    """Intervals and bins against what is known best."""
    known, found = truth.reference[track.frames], {}
    if track.intervals:
        inside = metrics.covered(track.intervals[LEVELS[-1]], known)
        tenth = np.minimum(10 * track.frames // (truth.end_frame + 1), 9)
        told = np.isfinite(track.filtered) & (track.frames <= truth.end_frame)
        for k in range(10):
            if (of := told & (tenth == k)).any():
                found[f"tenth_{k}.filtered"] = float(inside[of].mean())
    for level in LEVELS:
        intervals = {"filtered": track.intervals.get(level)}
        if track.bins is not None:
            intervals["raw"] = metrics.central_interval(track.bins, level)
        for kind, interval in intervals.items():
            if interval is not None:
                told = np.isfinite(interval[:, 0])
                of, width = metrics.covered(interval, known)[told], np.diff(interval, axis=1)[told]
                found[f"coverage_{100 * level:.0f}.{kind}"] = float(of.mean()) if len(of) else np.nan
                found[f"width_{100 * level:.0f}.{kind}"] = float(width.mean()) if len(of) else np.nan
    if track.bins is not None:
        found["crps.raw"] = float(metrics.crps(track.bins, known).mean())
    return found


def _remaining(track: Track, end: float, median_s: float | None) -> dict[str, float]:
    """Time remaining at a quarter, half and three quarters of the time until ``end``, s, when progress is 1.

    Compared at the same moments: the clock, and (``raw``) what the model believes is left of the median duration.
    """
    found: dict[str, float] = {}
    told: list[float] = []
    for moment in MOMENTS:
        index = int(np.searchsorted(track.time_s, moment * end + 1e-9, side="right")) - 1
        true_s = end - float(track.time_s[index])
        expected, low, high = track.remaining_s[index]
        name = f"{100 * moment:.0f}"
        found[f"remaining_{name}.filtered"] = float(abs(expected - true_s))
        told.append(float(np.isfinite(expected)))
        if np.isfinite(expected):
            found[f"remaining_covered_{name}.filtered"] = float(low - 1e-9 <= true_s <= high + 1e-9)
        if np.isfinite(expected) and median_s is not None:
            found[f"remaining_{name}.clock"] = abs(max(0.0, median_s - float(track.time_s[index])) - true_s)
            found[f"remaining_{name}.raw"] = abs(median_s * (1 - float(track.raw[index])) - true_s)
    found["remaining_told.filtered"] = float(np.mean(told))
    return found


def _perturbed(tracks: Mapping[str, Track], truth: Truth) -> dict[str, float]:
    """What perturbations do to the prediction."""
    found, original = {}, tracks[playbacks.PLAIN]
    for name in (n for n in tracks if n not in (playbacks.PLAIN, playbacks.HELD)):
        track = tracks[name]
        for kind in KINDS:
            values = track.values(kind)
            match name:
                case playbacks.PAUSE:
                    first = int(np.flatnonzero(np.diff(track.frames) == 0)[0])
                    during = values[first : first + int((np.diff(track.frames) == 0).sum()) + 1]
                    found[f"pause_drift.{kind}"] = metrics.excursion(during)
                case playbacks.REVERSED:
                    found[f"reversed_voc.{kind}"] = metrics.spearman(values, track.time_s)
                case playbacks.HALF | playbacks.DOUBLE | playbacks.BLACK:
                    found[f"{name}_mae.{kind}"] = metrics.mean_error(values, truth.reference[track.frames])
                    before = np.interp(track.frames, original.frames, original.values(kind))
                    found[f"{name}_change.{kind}"] = metrics.mean_error(values, before)
                case playbacks.WRONG:
                    last = track.time_s >= track.time_s[-1] - END_S
                    found[f"wrong_end.{kind}"] = float(values[last].mean())
                    found[f"wrong_change.{kind}"] = metrics.mean_error(values, original.values(kind))
                case playbacks.PARAPHRASE:
                    found[f"paraphrase_change.{kind}"] = metrics.mean_error(values, original.values(kind))
                case playbacks.REFUSED:
                    last = values[track.time_s >= track.time_s[-1] - END_S]
                    end = float(np.mean(last[np.isfinite(last)])) if np.isfinite(last).any() else np.nan
                    found[f"refused_end.{kind}"] = end
                    found[f"refused.{kind}"] = float(not end >= REFUSED_BELOW)
    return found
