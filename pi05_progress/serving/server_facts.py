"""What a policy server says of itself and of its answers, checked before a robot relies on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..errors import one_line
from ..observation import CONFIDENCE_LEVEL
from .core import RequestError


def _line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("not a line of text")
    return text


def _numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError("not numbers")
    return array


Line = Annotated[str, Field(max_length=200, description="a short line of text"), AfterValidator(_line)]
Side = Annotated[int, Field(strict=True, ge=8, le=8192)]  # of pictures, pixels
Milliseconds = Annotated[float | None, Field(ge=0, allow_inf_nan=False)]
Progress = Annotated[float | None, Field(description="a number in [0, 1], or nil")]  # which are for OutputChecker


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, arbitrary_types_allowed=True)


class Confidence(_Told):
    """The nominal probability that an interval of progress holds the truth; servers that tell none have ours."""

    confidence_level: float = Field(CONFIDENCE_LEVEL, gt=0, lt=1, description="a number between 0 and 1")


class ServerFacts(Confidence):
    """The part of a server's metadata that decides how its answers are used."""

    model_id: Line
    robot: Line  # whose observations it reads
    action_horizon: int = Field(ge=1, le=1000, description="a whole number of rows from 1 to 1000")
    action_dt_s: float = Field(gt=0, le=1, description="seconds above 0, at most 1")
    image_size: tuple[Side, Side] | None = Field(  # (height, width) that the model reads
        None, strict=False, description="nil, or height and width of 8 to 8192 pixels"
    )


class Timing(_Told):
    """How long the parts of an answer took."""

    transforms_ms: Milliseconds = None
    model_ms: Milliseconds = None


class Reply(_Told):
    """A policy's answer; whether its numbers can be used is for ``OutputChecker`` to decide."""

    actions: Annotated[np.ndarray, Field(description="an array of numbers"), AfterValidator(_numbers)]
    progress: Progress = None
    progress_lower: Progress = None
    progress_upper: Progress = None
    policy_timing: Timing | None = Field(None, description="nil, or milliseconds")


def read[Told: _Told](kind: type[Told], given: Any, what: str) -> Told:
    """What a server has told.

    Args:
        kind: what it should be.
        given: as it came.
        what: it is, for the message, such as "the server tells".

    Raises:
        RequestError: something is missing, of another type or out of range; the message names it.
    """
    if not isinstance(given, Mapping):
        raise RequestError(f"{what} {shown(given)}; expected a dictionary")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        missing = [str(e["loc"][0]) for e in error.errors() if e["type"] == "missing" and len(e["loc"]) == 1]
        if missing:
            raise RequestError(
                f"{what} no {', no '.join(missing)}: is it python -m pi05_progress.serving? It tells {shown([*given])}"
            ) from None
        key = str(error.errors()[0]["loc"][0])
        expected = kind.model_fields[key].description
        raise RequestError(f"{what} {key} {shown(given[key])}; expected {expected}") from None


def shown(value: Any) -> str:
    """A value from elsewhere as it may stand in a message: short, on one line."""
    return form(value) if isinstance(value, np.ndarray) else one_line(repr(value), 80)


def form(value: Any) -> str:
    """What a value is, whatever is in it."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return "nil" if value is None else type(value).__name__
