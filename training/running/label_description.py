"""What a checkpoint says of the labels it learnt from: how they were made, stages, and how long episodes took."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..labels.durations import DURATIONS, STAGES, durations_s
from ..loading.loader import TrainLoader


def label_description(loader: TrainLoader) -> dict[str, Any]:
    """Plain values for JSON.

    Returns:
        ``method`` and ``arguments`` (under ``methods`` by data set, if they differ), ``stages`` by task, and
        ``median_durations_s`` by task over episodes that were trained on and did not fail.
    """
    seconds: dict[str, list[float]] = {}
    stages: dict[str, list[dict[str, Any]]] = {}
    methods: dict[str, dict[str, Any]] = {}
    for dataset, meta, held_out in zip(loader.datasets, loader.progress_meta, loader.held_out, strict=True):
        for task, durations in durations_s(dataset, meta, held_out).items():
            seconds.setdefault(task, []).extend(durations)
        if meta.labels is not None:
            methods[dataset.root.name] = {"method": meta.labels.method, "arguments": dict(meta.labels.arguments)}
            stages |= {
                task: [{"name": stage.name, "share": stage.share} for stage in of_task]
                for task, of_task in meta.labels.stages.items()
            }
    different = {json.dumps(method, sort_keys=True) for method in methods.values()}
    how = next(iter(methods.values())) if len(different) == 1 else {"methods": methods}
    return {**how, STAGES: stages, DURATIONS: {task: float(np.median(of)) for task, of in seconds.items()}}
