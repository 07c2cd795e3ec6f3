"""The normalisation statistics of a run: read and held against the data, or computed; never left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pi05_progress.models.config import Pi05Config
from pi05_progress.robots.layout import Layout
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import (
    PER_ROW,
    PROPRIOCEPTION,
    NormStats,
    NormStatsError,
    chunk_stats,
    load_norm_stats,
    normalize,
)
from pi05_progress.units.transforms import delta_actions

from ..datasets import layout
from ..datasets.reader import Dataset
from .config import DataConfig, DataConfigError
from .norm_stats import STILL, far_beyond, hardly_moves, numbers, of_rows
from .rows import Rows

CHUNKS = 4096  # whose rows actions are compared with
# How far statistics may be from the data's, in standard deviations and as a ratio of them. Actions' depend on the
# horizon they were computed for (the last action is repeated), which the file does not say.
NEAR = {"state": (0.05, 1.1), PROPRIOCEPTION: (0.05, 1.1), "actions": (0.5, 2.0)}
# Where q01 may lie (q99: mirrored): between the data's quantiles of these shares, or beyond them by a part of its
# spread. Shares, because a gripper that is shut in 1 % of the frames has its q01 at either end.
NEAR_QUANTILES = {"state": (0.005, 0.02, 0.1), PROPRIOCEPTION: (0.005, 0.02, 0.1), "actions": (0.0, 0.1, 0.5)}
TINY = 1e-3  # rad, or of a command number: less is no difference


def statistics(
    config: DataConfig,
    datasets: Sequence[Dataset],
    rows: Sequence[Rows],
    profile: RobotProfile,
    model: Pi05Config,
) -> tuple[dict[str, NormStats], list[str]]:
    """Statistics of what the model reads and answers, and what is to be said of them: where they are from, what is
    unusual. Those that are not of this data are refused."""
    path = config.norm_stats
    if path is None and len(datasets) == 1 and (datasets[0].root / layout.NORM_STATS).exists():
        path = datasets[0].root / layout.NORM_STATS
    unusual: list[str] = []
    if path is not None:
        stats, source = _read(Path(path).expanduser(), config, rows, profile.layout, model), str(path)
    elif not config.compute_norm_stats:
        where = ", ".join(str(dataset.root) for dataset in datasets)
        raise DataConfigError(
            f"{where}: no {layout.NORM_STATS}; make it: python -m training.compute_norm_stats (several data sets: with "
            "--output, then --data.norm_stats), or let it be computed: --data.compute_norm_stats"
        )
    else:
        options = {"horizon": model.action_horizon, "relative": config.delta_actions, "notes": unusual}
        stats = of_rows(rows, profile.layout, per_row=config.actions_per_row, **options)
        source = f"computed over {len(datasets)} data set{'s' * (len(datasets) > 1)}"
    for dataset, of in zip(datasets, rows, strict=True):
        unusual += _extremes(dataset, of, stats, config, profile.layout)
    return stats, [f"statistics: {source}", *(f"note: {text}" for text in unusual)]


def _extremes(
    dataset: Dataset, rows: Rows, stats: dict[str, NormStats], config: DataConfig, robot: Layout
) -> list[str]:
    """Lines on numbers of a data set that are extreme when they are normalised, looking at chunks' first rows."""

    def where(row: int) -> str:
        episode = rows.episode(row)
        return f" (episode {episode}, frame {row - rows.starts[episode]})"

    actions = rows.actions
    if config.delta_actions:
        actions = delta_actions(actions[:, None], rows.state, robot)[:, 0]
    found = []
    first = stats["actions"]
    if config.actions_per_row:
        first = chunk_stats(stats, True, len(stats[PER_ROW].mean)).of_row(0)
    kinds = ("state", robot.state_names, rows.state, stats["state"]), ("actions", robot.joints, actions, first)
    for key, names, values, of in kinds:
        normalised = normalize(values, of, config.quantiles)
        found += far_beyond(f"{dataset.root}: {key}", names, values, normalised, where)
    return found


def _read(
    path: Path, config: DataConfig, rows: Sequence[Rows], robot: Layout, model: Pi05Config
) -> dict[str, NormStats]:
    """Statistics from a file, held against the data unless they are allowed to be others'."""
    remedy = (
        "compute them anew: python -m training.compute_norm_stats --overwrite"
        f"{' --delta-actions' * config.delta_actions}{' --actions-per-row' * config.actions_per_row}"
        f"{' --proprioception' * model.state_token} --horizon {model.action_horizon}"
    )
    try:
        stats = load_norm_stats(path)
    except NormStatsError as error:
        raise DataConfigError(f"{error}; {remedy}") from error
    sizes = {"state": robot.state_size, "actions": robot.action_size}
    sizes |= {PER_ROW: robot.action_size} if config.actions_per_row else {}
    sizes |= {PROPRIOCEPTION: len(robot.proprioception_columns)} if model.state_token else {}
    for key, size in sizes.items():
        if key not in stats:
            raise DataConfigError(f"{path}: no statistics of {key}, only of {', '.join(stats)}; {remedy}")
        if (found := stats[key].mean.shape[-1]) < size:
            raise DataConfigError(f"{path}: {key}.mean has {found} numbers, the robot has {size}; {remedy}")
        if config.quantiles and (stats[key].q01 is None or stats[key].q99 is None):
            raise DataConfigError(f"{path}: {key} has no quantiles (q01, q99), which normalise; {remedy}")
    try:
        chunk_stats(stats, config.actions_per_row, model.action_horizon)
    except NormStatsError as error:
        raise DataConfigError(f"{path}: {error}; {remedy}") from error
    if config.foreign_norm_stats:
        return stats
    horizon = model.action_horizon
    chunks = _some_chunks(rows, robot, horizon, config.delta_actions)
    data = {**numbers(rows), "actions": chunks.reshape(-1, chunks.shape[-1])}
    for key, values in data.items():
        if not (problem := _differs(key, stats[key], values, config.quantiles)):
            continue
        other = _some_chunks(rows, robot, horizon, not config.delta_actions).reshape(-1, chunks.shape[-1])
        if key == "actions" and not _differs(key, stats[key], other, False):
            kinds = ("absolute", "relative to the state")[:: -1 if config.delta_actions else 1]
            raise DataConfigError(
                f"{path}: actions are statistics of those {kinds[1]}, the model is trained on those {kinds[0]} "
                f"(--data.delta_actions); {remedy}"
            )
        raise DataConfigError(
            f"{path}: {key} {problem}: these are statistics of other data; {remedy}, or take them nevertheless: "
            "--data.foreign_norm_stats"
        )
    for row in range(horizon if config.actions_per_row else 0):
        # Without quantiles: among so many columns one is at the edge of hardly ever changing.
        if problem := _differs("actions", stats[PER_ROW].of_row(row), chunks[:, row], False):
            raise DataConfigError(
                f"{path}: {PER_ROW}, row {row}: {problem}: these are statistics of other data; {remedy}"
            )
    return stats


def _differs(key: str, stats: NormStats, values: Float[np.ndarray, "n d"], quantiles: bool) -> str:
    """In what statistics are not those of the values: the first column that differs, and how; empty if in nothing."""
    size = values.shape[1]
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    means, ratio = NEAR[key]
    known = stats.std[:size]
    far = np.abs(stats.mean[:size] - mean) > means * std + TINY
    far |= (known > ratio * std + TINY) | (std > ratio * known + TINY)
    if far.any():
        i = int(far.argmax())
        return f"{i} has mean {stats.mean[i]:.4f} and deviation {known[i]:.4f}, the data {mean[i]:.4f} and {std[i]:.4f}"
    if not quantiles:
        return ""
    low_share, high_share, part = NEAR_QUANTILES[key]
    shares = [low_share, 0.01, high_share, 1 - high_share, 0.99, 1 - low_share]
    lowest, q01, low, high, q99, highest = np.quantile(values, shares, axis=0)
    slack, still = part * (q99 - q01) + STILL / 2, hardly_moves(q01, q99)
    if (same := ~still & (stats.q01[:size] == stats.q99[:size])).any():
        i = int(same.argmax())
        return f"{i} has q01 and q99 {stats.q01[i]:.4f}, the data goes from {q01[i]:.4f} to {q99[i]:.4f}"
    start, end = np.where(still, values.min(axis=0), lowest), np.where(still, values.max(axis=0), highest)
    for name, known, first, own, last in (("q01", stats.q01, start, q01, low), ("q99", stats.q99, high, q99, end)):
        if (far := (known[:size] < first - slack) | (known[:size] > last + slack)).any():
            i = int(far.argmax())
            return f"{i} has {name} {known[i]:.4f}, the data {own[i]:.4f}"
    return ""


def _some_chunks(rows: Sequence[Rows], robot: Layout, horizon: int, relative: bool) -> Float[np.ndarray, "n h a"]:
    """Chunks of frames evenly spread over all data."""
    total = sum(len(of.state) for of in rows)
    found = []
    for of in rows:
        count = max(1, CHUNKS * len(of.state) // total)
        frames = np.unique(np.linspace(0, len(of.state) - 1, count).round().astype(int))
        last = of.starts[np.searchsorted(of.starts, frames, side="right")] - 1
        chunks = of.actions[np.minimum(frames[:, None] + np.arange(horizon), last[:, None])]
        found.append(delta_actions(chunks, of.state[frames], robot) if relative else chunks)
    return np.concatenate(found)
