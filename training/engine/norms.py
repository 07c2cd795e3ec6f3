"""Norms of gradients and parameters, which tell in the logs whether training goes well."""

from __future__ import annotations

import re

from jaxtyping import Array, Float

from pi05_progress.models.lora import LLM, of_action_expert
from pi05_progress.models.parameters import HEAD

from .optimizer import global_norm
from .state import Parameters

VISION = "PaliGemma/img/"
# What openpi leaves out of the norm of parameters, beside everything with one axis.
NO_KERNEL = re.compile(r".*/(bias|scale|pos_embedding|input_embedding)")


def group_of(path: str) -> str:
    """The part of the model a parameter belongs to, for the norms of gradients."""
    if path.startswith(VISION):
        return "vision"
    if path.startswith(LLM):
        return "action_expert" if of_action_expert(path) else "language"
    return "progress_head" if path.startswith(HEAD) else "projections"


def gradient_norms(gradients: Parameters) -> dict[str, Float[Array, ""]]:
    """Norm of all gradients, and of each group's that is trained."""
    groups: dict[str, list[Array]] = {}
    for path, leaf in gradients.items():
        groups.setdefault(group_of(path), []).append(leaf)
    own = {f"grad_norm/{name}": global_norm(leaves) for name, leaves in groups.items()}
    return {"grad_norm": global_norm(gradients)} | own


def parameter_norm(parameters: Parameters) -> Float[Array, ""]:
    """Norm of the kernels, as openpi logs it: without biases, scales, and the two tables of embeddings."""
    return global_norm([p for path, p in parameters.items() if p.ndim > 1 and not NO_KERNEL.fullmatch(path)])
