"""The normalisation statistics of a run: read and held against the data, or computed; never left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pi05_progress.files.progress_bar import progress_bar
from pi05_progress.robots.layout import Layout
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import BINS, NormStats, NormStatsError, load_norm_stats
from pi05_progress.units.transforms import delta_actions

from ..datasets import layout
from ..datasets.norm_stats import compute
from ..datasets.reader import Dataset
from .config import DataConfig, DataConfigError
from .rows import Rows

CHUNKS = 4096  # whose rows actions are compared with
# How far statistics may be from the data's, in standard deviations and as a ratio of them. Actions' depend on the
# horizon they were computed for (the last action is repeated), which the file does not say.
NEAR = {"state": (0.05, 1.1), "actions": (0.5, 2.0)}
# Where q01 may lie (q99: mirrored): between the data's quantiles of these shares, or beyond them by a part of its
# spread. Shares, because a gripper that is shut in 1 % of the frames has its q01 at either end.
NEAR_QUANTILES = {"state": (0.005, 0.02, 0.1), "actions": (0.0, 0.1, 0.5)}
TINY = 1e-3  # rad, or of a command number: less is no difference


def statistics(
    config: DataConfig,
    datasets: Sequence[Dataset],
    rows: Sequence[Rows],
    profile: RobotProfile,
    horizon: int,
) -> tuple[dict[str, NormStats], str]:
    """Statistics of ``state`` and ``actions``, and where they are from.

    Args:
        config: which file, or whether to compute.
        datasets: opened.
        rows: of the data sets.
        profile: of the robot.
        horizon: rows of a chunk.

    Raises:
        DataConfigError: there are none and they are not to be computed, or they are not of this data.
    """
    path = config.norm_stats
    if path is None and len(datasets) == 1 and (datasets[0].root / layout.NORM_STATS).exists():
        path = datasets[0].root / layout.NORM_STATS
    if path is not None:
        return _read(Path(path).expanduser(), config, rows, profile.layout, horizon), str(path)
    if not config.compute_norm_stats:
        where = ", ".join(str(dataset.root) for dataset in datasets)
        raise DataConfigError(
            f"{where}: no {layout.NORM_STATS}; make it: python -m training.compute_norm_stats (several data sets: with "
            "--output, then --data.norm_stats), or let it be computed: --data.compute_norm_stats"
        )
    frames = sum(dataset.frame_count for dataset in datasets)
    with progress_bar("statistics", 2 * frames, "frames (twice)") as advance:
        stats = compute(datasets, profile, horizon=horizon, relative=config.delta_actions, progress=advance)
    return stats, f"computed over {len(datasets)} data set{'s' * (len(datasets) > 1)}"


def _read(path: Path, config: DataConfig, rows: Sequence[Rows], robot: Layout, horizon: int) -> dict[str, NormStats]:
    remedy = (
        "compute them anew: python -m training.compute_norm_stats --overwrite"
        f"{' --delta-actions' * config.delta_actions}"
    )
    try:
        stats = load_norm_stats(path)
    except NormStatsError as error:
        raise DataConfigError(f"{error}; {remedy}") from error
    for key, size in (("state", robot.state_size), ("actions", robot.action_size)):
        if key not in stats:
            raise DataConfigError(f"{path}: no statistics of {key}, only of {', '.join(stats)}; {remedy}")
        if (found := len(stats[key].mean)) < size:
            raise DataConfigError(f"{path}: {key}.mean has {found} numbers, the robot has {size}; {remedy}")
        if config.quantiles and (stats[key].q01 is None or stats[key].q99 is None):
            raise DataConfigError(f"{path}: {key} has no quantiles (q01, q99), which normalise; {remedy}")
        _check_ordered(path, key, stats[key], remedy)
    if not config.foreign_norm_stats:
        _check_own(path, stats, config, rows, robot, horizon, remedy)
    return stats


def _check_own(
    path: Path,
    stats: Mapping[str, NormStats],
    config: DataConfig,
    rows: Sequence[Rows],
    robot: Layout,
    horizon: int,
    remedy: str,
) -> None:
    """Refuse statistics that are not those of the data."""
    state = np.concatenate([of.state for of in rows])
    data = {"state": state, "actions": _some_actions(rows, robot, horizon, config.delta_actions)}
    for key, values in data.items():
        if (column := _differs(stats[key], values, *NEAR[key])) is None:
            continue
        other = _some_actions(rows, robot, horizon, not config.delta_actions)
        if key == "actions" and _differs(stats[key], other, *NEAR[key]) is None:
            kinds = ("absolute", "relative to the state")[:: -1 if config.delta_actions else 1]
            raise DataConfigError(
                f"{path}: actions are statistics of those {kinds[1]}, the model is trained on those {kinds[0]} "
                f"(--data.delta_actions); {remedy}"
            )
        raise DataConfigError(
            f"{path}: {key} {column} has mean {stats[key].mean[column]:.4f} and deviation "
            f"{stats[key].std[column]:.4f}, the data {values[:, column].mean():.4f} and {values[:, column].std():.4f}: "
            f"these are statistics of other data; {remedy}, or take them nevertheless: --data.foreign_norm_stats"
        )
    if config.quantiles:
        for key, values in data.items():
            _check_quantiles(path, key, stats[key], values, remedy)


def _check_ordered(path: Path, key: str, stats: NormStats, remedy: str) -> None:
    if stats.q01 is None or stats.q99 is None or not len(wrong := np.flatnonzero(stats.q01 > stats.q99)):
        return
    low, high = stats.q01[wrong[0]], stats.q99[wrong[0]]
    raise DataConfigError(f"{path}: {key} {wrong[0]} has q01 {low:.4f}, which is above its q99 {high:.4f}; {remedy}")


def _check_quantiles(path: Path, key: str, stats: NormStats, values: Float[np.ndarray, "n d"], remedy: str) -> None:
    """Refuse quantiles that are not those of the data, or that are equal where the data is not constant."""
    size = values.shape[1]
    low_share, high_share, part = NEAR_QUANTILES[key]
    shares = [low_share, 0.01, high_share, 1 - high_share, 0.99, 1 - low_share]
    lowest, q01, low, high, q99, highest = np.quantile(values, shares, axis=0)
    slack = part * (q99 - q01) + np.ptp(values, axis=0) / BINS + TINY  # BINS: a quantile is right within one bin
    remedy += ", or take them nevertheless: --data.foreign_norm_stats"
    for name, known, start, own, end in (("q01", stats.q01, lowest, q01, low), ("q99", stats.q99, high, q99, highest)):
        far = (known[:size] < start - slack) | (known[:size] > end + slack)
        if far.any():
            column = int(np.flatnonzero(far)[0])
            raise DataConfigError(
                f"{path}: {key} {column} has {name} {known[column]:.4f}, the data {own[column]:.4f}: these are not the "
                f"data's quantiles, which normalise; {remedy}"
            )
    same = (stats.q01[:size] == stats.q99[:size]) & (q99 - q01 > np.ptp(values, axis=0) / BINS + TINY)
    if same.any():
        column = int(np.flatnonzero(same)[0])
        raise DataConfigError(
            f"{path}: {key} {column} has q01 and q99 {stats.q01[column]:.4f}, as if it were constant, but the data "
            f"goes from {q01[column]:.4f} to {q99[column]:.4f}; {remedy}"
        )


def _differs(stats: NormStats, values: Float[np.ndarray, "n d"], means: float, ratio: float) -> int | None:
    """The first column whose mean or deviation is too far from that of the values; None if there is none."""
    size = values.shape[1]
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    known = stats.std[:size]
    far = np.abs(stats.mean[:size] - mean) > means * std + TINY
    far |= (known > ratio * std + TINY) | (std > ratio * known + TINY)
    return int(np.flatnonzero(far)[0]) if far.any() else None


def _some_actions(rows: Sequence[Rows], robot: Layout, horizon: int, relative: bool) -> Float[np.ndarray, "n a"]:
    """Rows of the chunks of frames evenly spread over all data."""
    total = sum(len(of.state) for of in rows)
    found = []
    for of in rows:
        frames = np.unique(
            np.linspace(0, len(of.state) - 1, max(1, CHUNKS * len(of.state) // total)).round().astype(int)
        )
        last = of.starts[np.searchsorted(of.starts, frames, side="right")] - 1
        chunks = of.actions[np.minimum(frames[:, None] + np.arange(horizon), last[:, None])]
        chunks = delta_actions(chunks, of.state[frames], robot) if relative else chunks
        found.append(chunks.reshape(-1, chunks.shape[-1]))
    return np.concatenate(found)
