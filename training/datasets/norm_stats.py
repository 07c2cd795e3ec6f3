"""Normalisation statistics of data sets, in openpi's format, of numbers as the model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float32

from pi05_progress.robots.layout import Layout, LayoutError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.normalize import NormStats
from pi05_progress.units.transforms import actions_to_model, delta_actions, state_to_model

from . import layout
from .pooled import Extent, Spread
from .reader import Dataset, DatasetError, Episode

BLOCK = 1024  # frames whose chunks are in memory at a time


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
) -> dict[str, NormStats]:
    """Statistics of ``state`` and ``actions``, as the model takes them, over data sets, which are read twice.

    Args:
        datasets: opened.
        profile: of the robot.
        horizon: rows of a chunk.
        relative: arms relative to the state.
        progress: called with the number of frames after every episode, in both passes.

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
    return {name: spread.result() for name, spread in spreads.items()}


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
