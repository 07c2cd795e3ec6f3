"""Normalisation statistics of data sets, in openpi's format, of numbers as the model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from pi05_progress.robots.layout import Layout
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import PER_ROW, PROPRIOCEPTION, NormStats, moments, normalize
from pi05_progress.units.transforms import delta_actions

from ..datasets.reader import Dataset, DatasetError
from .rows import Rows, load_rows

STILL = 0.005  # rad, or of a command number: a joint whose middle 98 % are closer together hardly ever moves
FAR = 20.0  # normalised: twenty times as far from the middle as the quantiles


def compute(
    datasets: Sequence[Dataset],
    profile: RobotProfile,
    *,
    proprioception: bool = False,
    progress: Callable[[int], None] = lambda frames: None,
    **options: Any,
) -> dict[str, NormStats]:
    """Statistics of ``state`` and ``actions`` over data sets, whose numbers are held in memory, as training holds them.

    Args:
        proprioception: also of what a state token is made of.
        progress: called with the number of frames after every episode.
        options: of ``of_rows``.
    """
    if len({dataset.fps for dataset in datasets}) > 1:
        rates = ", ".join(f"{dataset.root}: {dataset.fps}" for dataset in datasets)
        raise DatasetError(f"action chunks would last for different times, frames per second are {rates}")
    rows = [load_rows(of, profile, "", proprioception=proprioception, progress=progress) for of in datasets]
    return of_rows(rows, profile.layout, **options)


def numbers(rows: Sequence[Rows]) -> dict[str, Float32[np.ndarray, "n _"]]:
    """What has statistics, as the model takes it, of all frames by key of statistics."""
    keys = [key for key in ("state", "actions", PROPRIOCEPTION) if getattr(rows[0], key) is not None]
    return {key: np.concatenate([getattr(of, key) for of in rows]) for key in keys}


def of_rows(
    rows: Sequence[Rows],
    robot: Layout,
    *,
    horizon: int,
    relative: bool,
    per_row: bool = False,
    notes: list[str] | None = None,
    far: list[str] | None = None,
) -> dict[str, NormStats]:
    """Statistics of numbers as the model takes them; quantiles are exact.

    Beside the numbers those of one column in all chunks are held in memory. Where a number hardly ever changes, its
    whole range stands in the place of its quantiles: by these the few frames in which it does would be scaled up until
    they outweigh all others.

    Args:
        relative: arms relative to the state.
        per_row: also of each row of the chunks (``actions_per_row``).
        notes: gets a line on numbers that hardly ever change, and on what is done about them.
        far: gets a line on numbers that go far beyond their quantiles.
    """
    names_of = {"state": robot.state_names, "actions": robot.joints, PROPRIOCEPTION: robot.proprioception_names}
    values, lengths = numbers(rows), np.concatenate([np.diff(of.starts) for of in rows])
    found, by_row = {}, []
    for key, of in values.items():
        names, columns = names_of[key], of.T
        if key == "actions":
            columns = _columns_of_chunks(values, lengths, robot, horizon, relative)
        whole = []
        for column in columns:
            whole.append(moments(column.ravel()))
            by_row += [moments(column)] if key == "actions" and per_row else []
        found[key], still, ends = _by_range(whole)
        if notes is not None and still.any():
            low, high = found[key].q01, found[key].q99
            told = ", ".join(f"{names[i]} ({low[i]:.4g} to {high[i]:.4g})" for i in np.flatnonzero(still))
            notes.append(
                f"{key}: hardly ever changes: {told}; this range normalises instead of the quantiles, by which the few "
                "frames that differ would outweigh all others"
            )
        if far is not None:
            far += far_beyond(key, names, ends, normalize(ends, found[key]))
    if by_row:
        found[PER_ROW], _, _ = _by_range(by_row)
    return found


def _columns_of_chunks(
    values: Mapping[str, np.ndarray], lengths: Sequence[int], robot: Layout, horizon: int, relative: bool
) -> Iterator[Float32[np.ndarray, "horizon n"]]:
    """Number after number of an action, in all rows of all frames' chunks; these repeat their episode's last action."""
    actions, last = values["actions"], np.repeat(np.cumsum(lengths) - 1, lengths)
    origin = np.zeros_like(actions)
    if relative:
        origin = delta_actions(origin[:, None], values["state"], robot)[:, 0]
    for column, start in zip(actions.T, origin.T, strict=True):
        yield np.stack([column[np.minimum(np.arange(row, row + len(last)), last)] + start for row in range(horizon)])


def hardly_moves(q01: Float[np.ndarray, "*d"], q99: Float[np.ndarray, "*d"]) -> Bool[np.ndarray, "*d"]:
    """Which numbers are normalised by their range, because their quantiles are too close together."""
    return q99 - q01 < STILL


def _by_range(
    columns: Sequence[Float[np.ndarray, " m *b"]],
) -> tuple[NormStats, Bool[np.ndarray, "*b d"], Float[np.ndarray, " e *b d"]]:
    """From columns' ``moments`` their statistics, with the range in the place of quantiles where a number hardly ever
    changes, where that is, and the range."""
    mean, std, q01, q99, low, high = np.stack(columns, axis=-1)
    still, middle = hardly_moves(q01, q99), (q01 + q99) / 2
    narrow = np.where(still, np.minimum(low, middle - STILL / 2), q01)
    wide = np.where(still, np.maximum(high, middle + STILL / 2), q99)
    return NormStats(mean, std, narrow, wide), still, np.stack([low, high])


def far_beyond(
    key: str,
    names: Sequence[str],
    values: Float[np.ndarray, "n d"],
    normalised: Float[np.ndarray, "n d"],
    where: Callable[[int], str] = lambda row: "",
) -> list[str]:
    """A line on numbers that are far from -1 to 1 when they are normalised, if there are any.

    ``values`` are in the robot's units; ``where`` says of a row which frame it is.
    """
    rows = np.abs(normalised).argmax(axis=0)
    far = [(i, row) for i, row in enumerate(rows) if abs(normalised[row, i]) > FAR]
    told = [f"{names[i]} {values[row, i]:.4g} is {normalised[row, i]:.3g}{where(row)}" for i, row in far]
    return [
        f"{key}: extreme when normalised: {', '.join(told)}; usual is -1 to 1. Such frames are trained on as they "
        "are, and a few of them outweigh all others in the loss: look at them, and remove episodes that are wrong"
    ][: len(told)]
