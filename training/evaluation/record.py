"""An evaluation as JSON: what was run, every figure with its interval, and every episode. Unknown numbers are null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .bootstrap import CONFIDENCE, Figure
from .evaluation import EpisodeResult, Evaluation
from .playbacks import PLAIN
from .summary import MEASURES

VERSION = 1


def record(evaluation: Evaluation, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is worth keeping."""
    return {
        "version": VERSION,
        "run": dict(facts),
        "confidence": CONFIDENCE,
        "measures": {m.key: {"title": m.title, "unit": m.unit, "better": m.better} for m in MEASURES},
        "notes": list(evaluation.notes),
        "stages_from": dict(evaluation.stages_from),
        "wrong_instructions": dict(evaluation.wrong),
        "total": _figures(evaluation.total),
        "by_task": {task: _figures(of) for task, of in evaluation.by_task.items()},
        "at_milestones": {
            task: {name: {key: _number(v) for key, v in of.items()} for name, of in errors.items()}
            for task, errors in evaluation.milestones.items()
        },
        "episodes": [_episode(result) for result in evaluation.episodes],
    }


def _figures(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {
        name: {"value": f.value, "low": f.low, "high": f.high, "episodes": f.episodes} for name, f in figures.items()
    }


def _episode(result: EpisodeResult) -> dict[str, Any]:
    track = result.tracks[PLAIN]
    return {
        "episode_index": result.episode.index,
        "task": result.episode.task,
        "outcome": str(result.meta.outcome),
        "source": result.meta.source,
        "figures": {name: _number(value) for name, value in result.figures.items()},
        "time_s": _numbers(track.time_s),
        "raw": _numbers(track.raw),
        "filtered": _numbers(track.filtered),
        "status": track.status.tolist(),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_number(round(float(value), 5)) for value in values]
