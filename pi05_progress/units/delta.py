"""Actions relative to the present state, and which of their columns are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def delta_mask(*counts: int) -> Bool[np.ndarray, " n"]:
    """A mask from run lengths, positive for relative columns: ``delta_mask(6, -1)`` is six True and one False."""
    return np.concatenate([np.full(abs(count), count > 0) for count in counts]) if counts else np.zeros(0, bool)


def delta_actions(
    actions: Float[np.ndarray, "*b h d"], state: Float[np.ndarray, "*b s"], mask: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "*b h d"]:
    """Actions minus the state in the columns that ``mask`` marks; the whole chunk refers to the same state.

    Args:
        actions: absolute, in the robot's units; columns beyond the mask are left as they are.
        state: not normalised; the columns of actions and state correspond.
        mask: of the first ``n`` columns.

    Returns:
        New arrays; openpi's transform writes into the old ones.

    Raises:
        ValueError: actions or state are narrower than the mask.
    """
    return _shifted(actions, state, mask, -1.0)


def absolute_actions(
    actions: Float[np.ndarray, "*b h d"], state: Float[np.ndarray, "*b s"], mask: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "*b h d"]:
    """The inverse of ``delta_actions``."""
    return _shifted(actions, state, mask, 1.0)


def _shifted(actions: np.ndarray, state: np.ndarray, mask: np.ndarray, sign: float) -> np.ndarray:
    n = len(mask)
    if actions.shape[-1] < n or state.shape[-1] < n:
        raise ValueError(
            f"the mask has {n} columns, actions have {actions.shape[-1]} and the state {state.shape[-1]}: "
            "it must not have more than either"
        )
    offset = np.where(mask, state[..., :n], 0).astype(state.dtype)[..., None, :]
    shifted = actions[..., :n] - offset if sign < 0 else actions[..., :n] + offset
    return np.concatenate([shifted, actions[..., n:]], axis=-1)
