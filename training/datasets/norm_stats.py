"""Normalisation statistics of data sets, in openpi's format, of numbers as the model sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32

from pi05_progress.robots.layout import Layout, LayoutError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import PER_ROW, PROPRIOCEPTION, NormStats, normalize
from pi05_progress.units.transforms import actions_to_model, delta_actions, proprioception_to_model, state_to_model

from . import layout
from .pooled import Extent, Spread
from .reader import Dataset, DatasetError, Episode

BLOCK = 1024  # frames whose chunks are in memory at a time
STILL = 0.005  # rad, or of a command number: a joint whose middle 98 % are closer together hardly ever moves
TO_MODEL = {  # key of statistics: the data set's feature, and what the model takes of it
    "state": (layout.STATE, state_to_model),
    "actions": (layout.ACTION, actions_to_model),
    PROPRIOCEPTION: (layout.STATE, proprioception_to_model),
}
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


def of_rows(
    episodes: Sequence[Mapping[str, Float32[np.ndarray, "n _"]]], robot: Layout, horizon: int, relative: bool
) -> NormStats:
    """Statistics (horizon, a) of each row of all chunks; quantiles are exact, and the range where a number hardly ever
    changes."""
    found = []
    for row in range(horizon):
        parts = []
        for of in episodes:
            actions = of["actions"][np.minimum(np.arange(row, row + len(of["actions"])), len(of["actions"]) - 1)]
            parts.append(delta_actions(actions[:, None], of["state"], robot)[:, 0] if relative else actions)
        values = np.concatenate(parts)
        q01, q99 = np.quantile(values, (0.01, 0.99), axis=0, method="inverted_cdf").astype(np.float64)
        moments = (np.mean(values, axis=0, dtype=np.float64), np.std(values, axis=0, dtype=np.float64))
        found.append(_by_range(NormStats(*moments, q01, q99), values.min(axis=0), values.max(axis=0))[0])
    return NormStats(*(np.stack(parts) for parts in zip(*(vars(of).values() for of in found), strict=True)))


def compute(
    datasets: Sequence[Dataset],
    profile: RobotProfile,
    *,
    horizon: int,
    relative: bool,
    per_row: bool = False,
    proprioception: bool = False,
    progress: Callable[[int], None] = lambda frames: None,
    notes: list[str] | None = None,
    far: list[str] | None = None,
) -> dict[str, NormStats]:
    """Statistics of ``state`` and ``actions``, as the model takes them, over data sets, which are read twice.

    Where a number hardly ever changes, its whole range stands in the place of its quantiles: by these the few frames in
    which it does would be scaled up until they outweigh all others.

    Args:
        relative: arms relative to the state.
        per_row: also of each row of the chunks (``actions_per_row``); all states and actions are kept in memory.
        proprioception: also of what a state token is made of.
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
    robot, names_of = profile.layout, {"state": profile.layout.state_names, "actions": profile.layout.joints}
    if proprioception:
        names_of[PROPRIOCEPTION] = robot.proprioception_names
    kept: list[Mapping[str, np.ndarray]] = []
    extents = {key: Extent(len(names)) for key, names in names_of.items()}
    _pass(extents, datasets, profile, horizon, relative, progress, kept.append if per_row else lambda of: None)
    spreads = {name: Spread(extent) for name, extent in extents.items()}
    _pass(spreads, datasets, profile, horizon, relative, progress)
    found = {}
    for key, names in names_of.items():
        found[key], still = _by_range(spreads[key].result(), extents[key].low, extents[key].high)
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
    if per_row:
        found[PER_ROW] = of_rows(kept, robot, horizon, relative)
    return found


def hardly_moves(q01: Float[np.ndarray, " d"], q99: Float[np.ndarray, " d"]) -> Bool[np.ndarray, " d"]:
    """Which numbers are normalised by their range, because their quantiles are too close together."""
    return q99 - q01 < STILL


def _by_range(
    stats: NormStats, low: Float[np.ndarray, " d"], high: Float[np.ndarray, " d"]
) -> tuple[NormStats, Bool[np.ndarray, " d"]]:
    """The statistics with the range in the place of quantiles where a number hardly ever changes, and where that is."""
    still = hardly_moves(stats.q01, stats.q99)
    middle = (stats.q01 + stats.q99) / 2
    q01 = np.where(still, np.minimum(low, middle - STILL / 2), stats.q01)
    q99 = np.where(still, np.maximum(high, middle + STILL / 2), stats.q99)
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
    keep: Callable[[Mapping[str, np.ndarray]], None] = lambda of: None,
) -> None:
    for dataset in datasets:
        for episode, columns in dataset.frames([layout.STATE, layout.ACTION]):
            of = _to_model(dataset, episode, columns, profile, into)
            for key in into.keys() - {"actions"}:
                into[key].add(of[key])
            if relative:
                for rows in delta_chunks(of["state"], of["actions"], profile.layout, horizon):
                    into["actions"].add(rows)
            else:
                into["actions"].add(of["actions"], last_row_repeats(len(of["actions"]), horizon))
            keep(of)
            progress(episode.length)


def _to_model(
    dataset: Dataset, episode: Episode, columns: Mapping[str, np.ndarray], profile: RobotProfile, keys: Iterable[str]
) -> dict[str, Float32[np.ndarray, "n _"]]:
    found = {}
    for key in keys:
        name, to_model = TO_MODEL[key]
        try:
            found[key] = to_model(columns[name], profile.layout)
        except LayoutError as error:
            raise DatasetError(f"{dataset.root}: {error}") from error
        if bad := np.flatnonzero(~np.isfinite(found[key]).all(axis=1)).tolist():
            raise DatasetError(
                f"{dataset.root}: {name} of episode {episode.index} is not finite in {len(bad)} frames, the first is "
                f"{bad[0]}; record or convert the episode anew, or remove it"
            )
    return found
