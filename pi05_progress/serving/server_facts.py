"""What a policy server says of itself and of its answers, checked before a robot relies on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .core import RequestError

LONGEST_STEP_S = 1.0
LONGEST_CHUNK = 1000  # rows
SHORTEST_SIDE, LONGEST_SIDE = 8, 8192  # of pictures, pixels


@dataclass(frozen=True)
class ServerFacts:
    """The part of a server's metadata that decides how its answers are used.

    Attributes:
        model_id: what is served.
        robot: whose observations it reads.
        action_horizon: rows of a chunk.
        action_dt_s: between rows, s.
        image_size: (height, width) that the model reads; None if it does not say.
        confidence_level: nominal probability that the interval of progress holds the truth.
    """

    model_id: str
    robot: str
    action_horizon: int
    action_dt_s: float
    image_size: tuple[int, int] | None
    confidence_level: float


def read_facts(metadata: Mapping[str, Any], default_level: float) -> ServerFacts:
    """The facts in a server's metadata.

    Args:
        metadata: as it came.
        default_level: the confidence level of servers that tell none.

    Raises:
        RequestError: one of them is missing, of another type or out of range; the message names it.
    """
    needed = ("model_id", "robot", "action_horizon", "action_dt_s")
    if missing := [key for key in needed if key not in metadata]:
        raise RequestError(f"the server does not tell {', '.join(missing)}: is it python -m pi05_progress.serving?")
    for key in ("model_id", "robot"):
        if not isinstance(metadata[key], str) or not metadata[key].strip():
            raise _wrong(key, metadata[key], "text")
    horizon = metadata["action_horizon"]
    if not is_integer(horizon) or not 1 <= horizon <= LONGEST_CHUNK:
        raise _wrong("action_horizon", horizon, f"a whole number of rows from 1 to {LONGEST_CHUNK}")
    dt_s = metadata["action_dt_s"]
    if not is_number(dt_s) or not 0 < dt_s <= LONGEST_STEP_S:
        raise _wrong("action_dt_s", dt_s, f"seconds above 0, at most {LONGEST_STEP_S:g}")
    return ServerFacts(
        metadata["model_id"],
        metadata["robot"],
        horizon,
        float(dt_s),
        _image_size(metadata.get("image_size")),
        confidence_level(metadata, default_level),
    )


def confidence_level(metadata: Mapping[str, Any], default: float) -> float:
    """The level of the intervals of progress.

    Raises:
        RequestError: it is no number between 0 and 1.
    """
    level = metadata.get("confidence_level", default)
    if not is_number(level) or not 0 < level < 1:
        raise _wrong("confidence_level", level, "a number between 0 and 1")
    return float(level)


def _image_size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(is_integer(side) and SHORTEST_SIDE <= side <= LONGEST_SIDE for side in size)
    ):
        raise _wrong("image_size", size, f"nil, or height and width of {SHORTEST_SIDE} to {LONGEST_SIDE} pixels")
    return size[0], size[1]


def is_integer(value: Any) -> bool:
    """Whether it is an integer; a truth value is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; a truth value is none."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def shown(value: Any) -> str:
    """A value from elsewhere as it may stand in a message: short, on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _wrong(key: str, value: Any, expected: str) -> RequestError:
    return RequestError(f"the server tells {key} {shown(value)}; expected {expected}")
