"""Pictures of progress over held-out episodes: what the model believes, and what the labels say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from .validation import Trace

MOST = 9  # episodes in a picture
COLUMNS = 3
SIZE_IN, DPI = (3.2, 2.0), 100


def chosen(traces: Sequence[Trace]) -> list[Trace]:
    """At most ``MOST`` episodes, evenly spread; the same ones every time."""
    indices = np.linspace(0, len(traces) - 1, min(MOST, len(traces))).round().astype(int)
    return [traces[i] for i in indices]


def draw(
    path: Path, traces: Sequence[Trace], title: str, name: Callable[[Trace], str], frame_s: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Write a PNG file with a panel per episode; returns its pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(traces) / COLUMNS)
    columns = min(COLUMNS, len(traces))
    figure = Figure(figsize=(SIZE_IN[0] * max(columns, 2), SIZE_IN[1] * rows + 0.5), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for number, trace in enumerate(traces):
        axes = figure.add_subplot(rows, columns, number + 1)
        time_s = trace.frames * frame_s
        axes.plot(time_s, trace.label, "--", color="0.5", label="label")
        axes.plot(time_s, trace.predicted, color="C0", label="predicted")
        axes.set_title(name(trace), fontsize=8)
        axes.set_ylim(-0.05, 1.05)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if number == 0:
            axes.legend(fontsize=7, loc="upper left")
        if number + columns >= len(traces):
            axes.set_xlabel("s", fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
    return np.asarray(canvas.buffer_rgba())[..., :3]
