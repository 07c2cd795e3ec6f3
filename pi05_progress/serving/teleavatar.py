"""A robot's requests and replies, from both sides: openpi's keys for the Teleavatar, this package's data types.

A request holds ``observation/state`` (of a Teleavatar 48 or 62 numbers), ``observation/images/<camera>`` (uint8
(h, w, 3) RGB, cropped and turned as in data sets) and ``prompt``, and may hold ``noise_seed``. A reply holds
``actions`` float32 (horizon, n; of a Teleavatar n is 16), ``progress``, ``progress_lower`` and ``progress_upper``
(numbers or nil, never arrays: openpi's clients cut every array into steps) and ``policy_timing``; of a policy with a
temporal head ``progress_features`` and ``progress_belief``, too, as bytes of float32 for the same reason. Other keys of
a request are ignored, as openpi ignores them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..errors import one_line
from ..observation import CONFIDENCE_LEVEL, PolicyOutput, RobotFrame
from ..policy import NOISE_SEEDS
from ..robots.profile import RobotProfile
from ..units.transforms import resize_with_pad
from .wire import RequestError, form

STATE, IMAGES, PROMPT, NOISE_SEED = "observation/state", "observation/images/", "prompt", "noise_seed"
SIDES_PX = (8, 8192)  # shortest and longest side of a picture
LONGEST_PROMPT = 10_000  # characters; what the model takes is far less, and it says so itself


def read_request(request: Mapping[str, Any], profile: RobotProfile, default_prompt: str = "") -> tuple[RobotFrame, str]:
    """The frame and the instruction that a request holds; a ``RequestError`` names a key that is missing or wrong.

    Pictures may also come as openpi's clients send LeRobot's: floats in [0, 1], channels first.
    """
    needed = [STATE, *(IMAGES + camera for camera in profile.cameras)]
    if missing := [key for key in needed if key not in request]:
        found = ", ".join(sorted(str(key[:80] if isinstance(key, str | bytes) else key) for key in request)[:20])
        told = f"the request has {found or 'nothing'}; {profile.name} needs them all"
        raise RequestError(f"{', '.join(missing)}: missing; {told}")
    images = {camera: _picture(IMAGES + camera, request[IMAGES + camera]) for camera in profile.cameras}
    return RobotFrame(images, _state(request[STATE], profile.layout.vector_sizes)), _prompt(request, default_prompt)


def read_noise_seed(request: Mapping[str, Any]) -> int | None:
    """The seed of the noise that actions start from, see ``Policy.prepare``; None if the request names none, a
    ``RequestError`` if it is no such number."""
    seed, (least, most) = _scalar(request.get(NOISE_SEED)), NOISE_SEEDS
    if seed is not None and (type(seed) is not int or not least <= seed <= most):
        raise RequestError(
            f"{NOISE_SEED} is {shown(seed)}; expected a whole number from 0 to {most}, or {least} for noise of zeros"
        )
    return seed


def _scalar(value: Any) -> Any:
    """NumPy's scalars as Python's: openpi's transforms allow them, too."""
    return value.item() if isinstance(value, np.ndarray | np.generic) and value.ndim == 0 else value


def _prompt(request: Mapping[str, Any], default: str) -> str:
    prompt = _scalar(request.get(PROMPT, default))
    if not isinstance(prompt, str):
        raise RequestError(f"{PROMPT} is {form(prompt)}; expected text")
    if not prompt.strip():
        raise RequestError(f"{PROMPT} is missing or empty; give an instruction, such as 'stack the cubes'")
    if len(prompt) > LONGEST_PROMPT:
        raise RequestError(f"{PROMPT} has {len(prompt)} characters; expected an instruction")
    return prompt


def _state(value: Any, sizes: Sequence[int]) -> np.ndarray:
    expected = f"expected {' or '.join(map(str, sizes))} numbers"
    # Of other lists NumPy makes arrays far larger than they are: all texts as long as the longest.
    if isinstance(value, list | tuple) and not all(isinstance(item, float | int | np.number) for item in value):
        kinds = sorted({type(item).__name__ for item in value})
        raise RequestError(f"{STATE} is a list of {', '.join(kinds[:5])}; {expected}")
    if not isinstance(value, list | tuple | np.ndarray):
        raise RequestError(f"{STATE} is {form(value)}; {expected}")
    state = np.asarray(value)
    if state.dtype.kind not in "fiu" or state.ndim != 1 or state.shape[0] not in sizes:
        raise RequestError(f"{STATE} is {form(state)}; {expected}")
    state = state.astype(np.float32)
    if not np.isfinite(state).all():
        first = int(np.argmin(np.isfinite(state)))
        raise RequestError(f"{STATE}[{first}] is {state[first]}; expected finite numbers")
    return state


def _picture(key: str, value: Any) -> np.ndarray:
    expected = "expected uint8 (h, w, 3) RGB, or float in [0, 1]"
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.dtype.kind not in "uf":
        raise RequestError(f"{key} is {form(value)}; {expected}")
    if value.shape[0] == 3 and value.shape[-1] != 3:
        value = value.transpose(1, 2, 0)
    low, high = SIDES_PX
    if value.shape[-1] != 3 or (value.dtype.kind == "u" and value.dtype != np.uint8):
        raise RequestError(f"{key} is {form(value)}; {expected}")
    if not low <= min(value.shape[:2]) <= max(value.shape[:2]) <= high:
        raise RequestError(f"{key} is {form(value)}; expected sides of {low} to {high} pixels")
    if value.dtype == np.uint8:
        return value
    if not np.isfinite(value).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
        raise RequestError(f"{key}{list(first)} is {value[first]}; expected finite numbers")
    if value.min() < 0 or value.max() > 1:
        raise RequestError(f"{key} has values from {value.min():g} to {value.max():g}; {expected}")
    return (255 * value).astype(np.uint8)  # as openpi


def make_reply(output: PolicyOutput, remembered: bool = False) -> dict[str, Any]:
    """The reply that tells a policy's output; with what a temporal head reads where it is ``remembered``."""
    read = {"progress_features": output.progress_features, "progress_belief": output.progress_belief}
    lower, upper = output.progress_interval or (None, None)
    timing = {f"{part}_ms": float(ms) for part, ms in output.timing.items()}
    return {
        "actions": np.ascontiguousarray(output.actions, np.float32),
        **{
            key: None if number is None else float(number)
            for key, number in (("progress", output.progress), ("progress_lower", lower), ("progress_upper", upper))
        },
        "policy_timing": {"infer_ms": sum(timing.values()), **timing},
        **{key: np.asarray(of, "<f4").tobytes() for key, of in read.items() if remembered and of is not None},
    }


def make_request(
    frame: RobotFrame, prompt: str, size: tuple[int, int] | None, noise_seed: int | None = None
) -> dict[str, Any]:
    """The request that tells a frame and an instruction.

    Pictures are brought to the ``size`` (height, width) that the model reads as the policy itself would, so that the
    answer is the same and less is sent; None leaves them. A ``noise_seed`` of None is not sent.
    """
    pictures = {
        IMAGES + key: np.ascontiguousarray(image if size is None else resize_with_pad(image, *size))
        for key, image in frame.images.items()
    }
    request = {STATE: np.asarray(frame.state, np.float32), **pictures, PROMPT: prompt}
    return request if noise_seed is None else request | {NOISE_SEED: noise_seed}


def _line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("not a line of text")
    return text


def _numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError("not numbers")
    return array


def _floats(data: bytes | None) -> bytes | None:
    if data is not None and len(data) % 4:
        raise ValueError("not float32")
    return data


Line = Annotated[str, Field(max_length=200, description="a short line of text"), AfterValidator(_line)]
Side = Annotated[int, Field(strict=True, ge=8, le=8192)]  # of pictures, pixels
Milliseconds = Annotated[float | None, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Floats = Annotated[bytes | None, Field(description="bytes of float32"), AfterValidator(_floats)]
Progress = Annotated[float | None, Field(description="a number in [0, 1], or nil")]  # which are for OutputChecker


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, arbitrary_types_allowed=True)


class AboutProgress(_Told):
    """What an estimate needs: the level of intervals, ours if it is not told, what tasks usually take, s, and what it
    remembers by."""

    confidence_level: float = Field(CONFIDENCE_LEVEL, gt=0, lt=1, description="a number between 0 and 1")
    durations_s: dict[str, Seconds] = Field({}, description="seconds above 0 by instruction")
    temporal_head: bytes = Field(b"", description="bytes of a temporal head", repr=False)


class ServerFacts(AboutProgress):
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
    progress_features: Floats = None
    progress_belief: Floats = None


def read[Told: _Told](kind: type[Told], given: Any, what: str) -> Told:
    """What a server has told, as a ``kind``; ``what`` begins the message if it is wrong, such as "the server tells".

    A ``RequestError`` names what is missing, of another type or out of range.
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


def read_reply(given: Any, confidence_level: float) -> PolicyOutput:
    """The policy's output that a reply tells, see ``Reply``; a ``RequestError`` if it is no reply of this kind."""
    reply = read(Reply, given, "the server's reply has")
    lower, upper = reply.progress_lower, reply.progress_upper
    timing = reply.policy_timing.model_dump(exclude_none=True) if reply.policy_timing else {}
    return PolicyOutput(
        actions=reply.actions,
        progress=reply.progress,
        progress_interval=None if lower is None or upper is None else (lower, upper),
        timing={part.removesuffix("_ms"): ms for part, ms in timing.items()},
        confidence_level=confidence_level,
        progress_features=_array(reply.progress_features),
        progress_belief=_array(reply.progress_belief),
    )


def _array(data: bytes | None) -> np.ndarray | None:
    return None if data is None else np.frombuffer(data, "<f4")
