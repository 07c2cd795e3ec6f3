"""An evaluation as JSON: what was run, every figure with its interval, and every episode. Unknown numbers are null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .bootstrap import CONFIDENCE
from .evaluation import EpisodeResult, Evaluation
from .playbacks import PLAIN
from .summary import MEASURES

VERSION = 1


def record(evaluation: Evaluation, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is worth keeping, after the facts about the run: checkpoint, data set, settings."""
    return {
        "version": VERSION,
        "run": dict(facts),
        "confidence": CONFIDENCE,
        "measures": {m.key: {"title": m.title, "unit": m.unit, "better": m.better} for m in MEASURES},
        "notes": list(evaluation.notes),
        "stages_from": dict(evaluation.stages_from),
        "wrong_instructions": dict(evaluation.wrong),
        "total": {name: asdict(figure) for name, figure in evaluation.total.items()},
        "by_task": {task: {name: asdict(f) for name, f in of.items()} for task, of in evaluation.by_task.items()},
        "at_milestones": _known(evaluation.milestones),
        "episodes": [_episode(result) for result in evaluation.episodes],
    }


def _episode(result: EpisodeResult) -> dict[str, Any]:
    track = result.tracks[PLAIN]
    return {
        "episode_index": result.episode.index,
        "task": result.episode.task,
        "outcome": str(result.meta.outcome),
        "source": result.meta.source,
        "figures": _known(result.figures),
        **{name: _known(getattr(track, name).round(5).tolist()) for name in ("time_s", "raw", "filtered")},
        "status": track.status.tolist(),
    }


def _known(value: Any) -> Any:
    """The same with None in place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: _known(of) for name, of in value.items()}
    if isinstance(value, list):
        return [_known(of) for of in value]
    return float(value) if math.isfinite(value) else None
