"""What the head's arrays are before the network is trained: projection, centroids, scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.vq import kmeans2

from pi05_progress.estimate.temporal import GROUPS, LEVELS, project

from .streams import Stream

FEATURES, CENTROIDS = 32, 256
MOST_ROWS = 20_000  # that centroids are made of


def prepared(streams: Sequence[Stream]) -> dict[str, np.ndarray]:
    """Arrays from the streams that are trained on; calibration changes nothing yet."""
    pooled = np.concatenate([stream.answers.features for stream in streams]).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(pooled.T))
    count = min(FEATURES, len(values))
    chunks = np.concatenate([s.answers.actions - s.answers.actions[:, :1] for s in streams])
    arrays = {
        "centre": pooled.mean(axis=0), "projection": vectors[:, -count:] / np.sqrt(np.maximum(values[-count:], 1e-9)),
        "residual": np.sqrt(np.maximum(values[:-count], 0).sum()) + 1e-6,
        "action_scale": chunks.std(axis=(0, 1)) + 1e-3, "platt": np.array([[1.0, 0.0], [1.0, 0.0]]),
        **dict.fromkeys(("progress_levels", "ratio_levels"), np.tile(LEVELS, (GROUPS, 1))),
    }  # fmt: skip
    features = project(arrays, pooled)
    rows = np.random.default_rng(0).permutation(len(features))[:MOST_ROWS]
    arrays["centroids"], _ = kmeans2(features[rows], min(CENTROIDS, len(rows) // 8 + 1), minit="++", seed=0, iter=10)
    return {name: np.asarray(value, np.float32) for name, value in arrays.items()}
