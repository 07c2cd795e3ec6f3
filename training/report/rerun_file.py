"""A data set as a recording for the Rerun viewer: videos, joints and progress on one time line per episode."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.files.output_file import output_file
from pi05_progress.files.progress_bar import progress_bar

from ..datasets import layout
from ..datasets.progress_meta import ProgressMeta
from ..datasets.reader import Dataset, Episode

TIME = "time in the episode"


def require() -> None:
    """Raise a ``UserError`` if Rerun is not installed."""
    if find_spec("rerun") is None:
        raise UserError("--rerun needs the package rerun-sdk, which is not installed: pip install rerun-sdk")


def write(
    path: Path, dataset: Dataset, columns: Mapping[str, str], meta: ProgressMeta, wanted: set[int] | None
) -> None:
    """Write the recording of the wanted episodes, or of all; it appears complete or not at all.

    The columns to show are given by what they are called there (``state``, ``progress``, ...).
    """
    import rerun as rr

    with output_file(path) as partial:
        stream = rr.RecordingStream(f"data set {dataset.root.resolve().name}")
        stream.save(str(partial))
        shown = {short: name for short, name in columns.items() if short != "timestamp"}
        logged: set[Path] = set()
        try:
            with progress_bar("rerun", dataset.frame_count, "frames") as advance:
                for episode, values in dataset.frames(list(shown.values()), wanted):
                    root = f"episode_{episode.index:03d}"
                    times = rr.TimeColumn(TIME, duration=np.arange(episode.length) / dataset.fps)
                    for short, name in shown.items():
                        numbers = rr.Scalars.columns(scalars=values[name].astype(np.float64))
                        stream.send_columns(f"{root}/{short}", [times], numbers)
                    _milestones(rr, stream, root, episode, meta, dataset.fps)
                    _videos(rr, stream, root, episode, times, dataset.fps, logged)
                    advance(episode.length)
        finally:
            stream.flush()
            stream.disconnect()


def _milestones(rr: Any, stream: Any, root: str, episode: Episode, meta: ProgressMeta, fps: float) -> None:
    known = meta.episode(episode.index)
    words = [(0, f"{episode.task} ({known.outcome.value.lower()})"), *((m.frame, m.label) for m in known.milestones)]
    times = rr.TimeColumn(TIME, duration=[frame / fps for frame, _ in words])
    stream.send_columns(f"{root}/events", [times], rr.TextLog.columns(text=[text for _, text in words]))


def _videos(rr: Any, stream: Any, root: str, episode: Episode, times: Any, fps: float, logged: set[Path]) -> None:
    """Each file once, and per episode which of its frames is shown when."""
    for camera, span in episode.videos.items():
        asset = f"videos/{camera.removeprefix(layout.IMAGES)}/{span.path.parent.name}/{span.path.stem}"
        if span.path not in logged:
            stream.log(asset, rr.AssetVideo(path=span.path), static=True)
            logged.add(span.path)
        stamps = span.from_s + np.arange(episode.length) / fps
        which = rr.VideoFrameReference.columns(video_reference=[asset] * episode.length)
        columns = [*rr.VideoFrameReference.columns_secs(stamps), *which]
        stream.send_columns(f"{root}/{camera.removeprefix(layout.IMAGES)}", [times], columns)
