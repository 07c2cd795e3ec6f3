"""What of a model is trained: everything, adapters, or the progress head alone, but for what is frozen by its path.

The adapters themselves are part of the experts (``gemma.py``); whether an expert has them is in its configuration.
"""

from __future__ import annotations

import difflib
import re
from typing import Literal, NamedTuple

import numpy as np
from flax import nnx

from .config import GemmaConfig, ModelConfigError, Pi05Config
from .parameters import HEAD, parameter_paths, parameter_shapes

Trained = Literal["everything", "adapters", "head"]
LLM, EXPERT = "PaliGemma/llm/", "_1"


def is_adapter(path: str) -> bool:
    """Whether a parameter, by its path joined with "/", belongs to an adapter."""
    return "lora" in path


def is_trained(config: Pi05Config, trained: Trained, path: str) -> bool:
    """Whether a parameter, by its path joined with "/", is trained.

    ``adapters`` is openpi's freeze filter: of every expert that has adapters, all but these stay as they are, the
    table of embeddings and the norms included. The vision tower, the projections of actions and time, the progress
    head, and an expert without adapters are trained. A ``ModelConfigError``: adapters or a head are to be trained where
    there are none.
    """
    if trained == "everything":
        return True
    if trained == "head":
        if config.progress.kind == "none":
            raise ModelConfigError("the head is to be trained, but progress.kind is 'none': there is no head")
        return path.startswith(HEAD)
    if trained != "adapters":
        raise ModelConfigError(f"unknown set of parameters to train {trained!r}; known: everything, adapters, head")
    if not (has_adapters(config.paligemma) or has_adapters(config.expert)):
        raise ModelConfigError(
            f"adapters are to be trained, but the configuration {config.name} has none: see pi05_lora"
        )
    if is_adapter(path) or not path.startswith(LLM):
        return True
    return not has_adapters(config.expert if of_action_expert(path) else config.paligemma)


def trained_paths(config: Pi05Config, trained: Trained, freeze: tuple[str, ...] = ()) -> frozenset[str]:
    """Paths of the parameters that are trained: those of ``trained`` without those that ``freeze`` matches.

    These are regular expressions; each must match the whole path of a parameter, such as ``PaliGemma/img/.*``. A
    ``ModelConfigError``: as of ``is_trained``, one is no expression or matches nothing, or nothing is left to train.
    """
    paths = list(parameter_shapes(config))
    found = {path for path in paths if is_trained(config, trained, path)}
    for pattern in freeze:
        try:
            frozen = set(filter(re.compile(pattern).fullmatch, paths))
        except re.error as error:
            raise ModelConfigError(f"freeze: {pattern!r} is no regular expression: {error}") from error
        if not frozen:
            near = difflib.get_close_matches(pattern, paths, n=4, cutoff=0.2) or paths[:4]
            raise ModelConfigError(
                f"freeze: {pattern!r} matches the whole path of no parameter of {config.name}; near it are "
                f"{', '.join(near)}"
            )
        found -= frozen
    if not found:
        raise ModelConfigError(f"freeze: {', '.join(freeze)} leaves nothing of {trained!r} to train")
    return frozenset(found)


def has_adapters(config: GemmaConfig) -> bool:
    """Whether an expert has adapters anywhere."""
    return config.lora is not None or config.feed_forward_lora is not None


def of_action_expert(path: str) -> bool:
    """Whether a parameter of the language model belongs to its second expert."""
    return any(part.endswith(EXPERT) for part in path.removeprefix(LLM).split("/"))


class Counts(NamedTuple):
    """Numbers of parameters."""

    total: int
    trained: int


def count_parameters(
    model: nnx.Module, config: Pi05Config, trained: Trained = "everything", freeze: tuple[str, ...] = ()
) -> Counts:
    """How many parameters there are, of a model that may be only shapes; raises as ``trained_paths``."""
    sizes = {path: int(np.prod(value.shape, dtype=np.int64)) for path, value in parameter_paths(model).items()}
    return Counts(sum(sizes.values()), sum(sizes[path] for path in trained_paths(config, trained, freeze)))
