"""Normalisation statistics of data sets, in openpi's format, of numbers as the model sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32

from pi05_progress.robots.layout import Layout, LayoutError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import NormStats, normalize
from pi05_progress.units.transforms import actions_to_model, delta_actions, state_to_model

from . import layout
from .pooled import Extent, Spread
from .reader import Dataset, DatasetError, Episode

BLOCK = 1024  # frames whose chunks are in memory at a time
STILL = 0.005  # rad, or of a command number: a joint whose middle 98 % are closer together hardly ever moves
FAR = 20.0  # normalised: twenty times as far from the middle as the quantiles


def last_row_repeats(length: int, horizon: int) -> Float[np.ndarray, " n"]:
    """How often each frame's action occurs in the chunks of an episode's frames: row ``k`` of frame ``t``'s chunk is
    frame ``min(t + k, length - 1)``."""
    counts = np.minimum(np.arange(1.0, length + 1), horizon)
    counts[-1] = length * horizon - counts[:-1].sum()
    return counts


def delta_chunks(
    state: Float32[np.ndarray, "n s"], actions: Float32[np.ndarray, "n a"], robot: Layout, horizon: int
) -> Iterator[Float32[np.ndarray, "m a"]]:
    """All rows of all chunks of an episode, relative to the state at its start where the layout says
    so; a block at a time."""
    n = len(actions)
    for start in range(0, n, BLOCK):
        frames = np.arange(start, min(start + BLOCK, n))
        rows = np.minimum(frames[:, None] + np.arange(horizon), n - 1)
        yield delta_actions(actions[rows], state[frames], robot).reshape(-1, actions.shape[1])


def compute(
    datasets: Sequence[Dataset],
    profile: RobotProfile,
    *,
    horizon: int,
    relative: bool,
    progress: Callable[[int], None] = lambda frames: None,
    notes: list[str] | None = None,
    far: list[str] | None = None,
) -> dict[str, NormStats]:
    """Statistics of ``state`` and ``actions``, as the model takes them, over data sets, which are read twice.

    Where a number hardly ever changes, its whole range stands in the place of its quantiles: by these the few frames in
    which it does would be scaled up until they outweigh all others.

    Args:
        relative: arms relative to the state.
        progress: called with the number of frames after every episode, in both passes.
        notes: gets a line on numbers that hardly ever change, and on what is done about them.
        far: gets a line on numbers that go far beyond their quantiles.

    Raises:
        DatasetError: damaged, a number that is not finite, states or actions of another robot's layout, or data sets
            of different frame rates.
    """
    if len({dataset.fps for dataset in datasets}) > 1:
        rates = ", ".join(f"{dataset.root}: {dataset.fps}" for dataset in datasets)
        raise DatasetError(f"action chunks would last for different times, frames per second are {rates}")
    extents = {"state": Extent(profile.layout.state_size), "actions": Extent(profile.layout.action_size)}
    _pass(extents, datasets, profile, horizon, relative, progress)
    spreads = {name: Spread(extent) for name, extent in extents.items()}
    _pass(spreads, datasets, profile, horizon, relative, progress)
    found = {}
    for key, names in (("state", profile.layout.state_names), ("actions", profile.layout.joints)):
        found[key], still = _by_range(spreads[key].result(), extents[key])
        if notes is not None and still.any():
            low, high = found[key].q01, found[key].q99
            told = ", ".join(f"{names[i]} ({low[i]:.4g} to {high[i]:.4g})" for i in np.flatnonzero(still))
            notes.append(
                f"{key}: hardly ever changes: {told}; this range normalises instead of the quantiles, by which the few "
                "frames that differ would outweigh all others"
            )
        if far is not None:
            ends = np.stack([extents[key].low, extents[key].high])
            far += far_beyond(key, names, ends, normalize(ends, found[key]))
    return found


def hardly_moves(q01: Float[np.ndarray, " d"], q99: Float[np.ndarray, " d"]) -> Bool[np.ndarray, " d"]:
    """Which numbers are normalised by their range, because their quantiles are too close together."""
    return q99 - q01 < STILL


def _by_range(stats: NormStats, extent: Extent) -> tuple[NormStats, Bool[np.ndarray, " d"]]:
    """The statistics with the range in the place of quantiles where a number hardly ever changes, and where that is."""
    still = hardly_moves(stats.q01, stats.q99)
    middle = (stats.q01 + stats.q99) / 2
    q01 = np.where(still, np.minimum(extent.low, middle - STILL / 2), stats.q01)
    q99 = np.where(still, np.maximum(extent.high, middle + STILL / 2), stats.q99)
    return dataclasses.replace(stats, q01=q01, q99=q99), still


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


def _pass(
    into: dict[str, Extent] | dict[str, Spread],
    datasets: Sequence[Dataset],
    profile: RobotProfile,
    horizon: int,
    relative: bool,
    progress: Callable[[int], None],
) -> None:
    for dataset in datasets:
        for episode, columns in dataset.frames([layout.STATE, layout.ACTION]):
            state, actions = _to_model(dataset, episode, columns, profile)
            into["state"].add(state)
            if relative:
                for rows in delta_chunks(state, actions, profile.layout, horizon):
                    into["actions"].add(rows)
            else:
                into["actions"].add(actions, last_row_repeats(len(actions), horizon))
            progress(episode.length)


def _to_model(
    dataset: Dataset, episode: Episode, columns: dict[str, np.ndarray], profile: RobotProfile
) -> tuple[Float32[np.ndarray, "n s"], Float32[np.ndarray, "n a"]]:
    try:
        state = state_to_model(columns[layout.STATE], profile.layout)
        actions = actions_to_model(columns[layout.ACTION], profile.layout)
    except LayoutError as error:
        raise DatasetError(f"{dataset.root}: {error}") from error
    for name, values in ((layout.STATE, state), (layout.ACTION, actions)):
        if bad := np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
            raise DatasetError(
                f"{dataset.root}: {name} of episode {episode.index} is not finite in {len(bad)} frames, the first is "
                f"{bad[0]}; record or convert the episode anew, or remove it"
            )
    return state, actions
