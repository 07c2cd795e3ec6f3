"""Several observations as one batch of the model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from ..models.observation import Observation


def one_batch(observations: Sequence[Observation]) -> Observation:
    """Observations of the same cameras as one batch; their prompts are padded to the longest."""
    if len(observations) == 1:
        return observations[0]
    length = max(observation.tokenized_prompt.shape[1] for observation in observations)

    def padded(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, length - array.shape[1])))

    observations = [
        replace(
            observation,
            tokenized_prompt=padded(observation.tokenized_prompt),
            tokenized_prompt_mask=padded(observation.tokenized_prompt_mask),
        )
        for observation in observations
    ]
    return jax.tree.map(lambda *rows: np.concatenate(rows), *observations)
