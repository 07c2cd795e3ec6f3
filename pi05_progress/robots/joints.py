"""Joint values by name, and within their ranges. Messages are duck-typed; no ROS and no JAX in here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class MessageError(ValueError):
    """A message does not hold what it should; the text names the topic and what was found."""


class JointValues(NamedTuple):
    """Positions (rad), velocities (rad/s) and efforts (N m) in the order asked for, float32 (n,) each."""

    position: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray


def joint_order(names: Sequence[str], count: int, expected: Sequence[str], what: str) -> list[int]:
    """Where each expected joint stands in a message of ``count`` values; a ``MessageError`` if these are too few,
    joints are missing, or one is named twice.

    Without names the values must be exactly the expected ones, in order. More joints than expected may be named.
    """
    if not names:
        if count != len(expected):
            raise MessageError(f"{what}: {count} values without names, expected {len(expected)}")
        return list(range(count))
    if len(names) != count:
        raise MessageError(f"{what}: {len(names)} names for {count} values")
    if twice := sorted({name for name in expected if list(names).count(name) > 1}):
        raise MessageError(f"{what}: {', '.join(twice)} named more than once")
    if missing := [name for name in expected if name not in names]:
        raise MessageError(f"{what}: joints {', '.join(missing)} are missing; it names {', '.join(names)}")
    return [list(names).index(name) for name in expected]


def joint_values(message: Any, expected: Sequence[str], what: str, required: str = "position") -> JointValues:
    """Values of a ``JointState`` by name, in the order of ``expected``; fields other than ``required`` may be empty:
    they are then 0.

    A ``MessageError``: as of ``joint_order``, a field has another length, or a number is not finite.
    """
    count = len(getattr(message, required))
    order = joint_order(message.name, count, expected, what)
    fields = []
    for field in JointValues._fields:
        values = getattr(message, field)
        if len(values) == 0 and field != required:
            fields.append(np.zeros(len(expected), np.float32))
            continue
        if len(values) != count:
            raise MessageError(f"{what}: {len(values)} values of {field}, expected {count}")
        with np.errstate(over="ignore"):  # what float32 cannot hold is not finite, either
            array = np.asarray(values, np.float64)[order].astype(np.float32)
        if not np.isfinite(array).all():
            bad = [name for name, value in zip(expected, array, strict=True) if not math.isfinite(value)]
            remedy = "" if field == required else f"; a driver that measures none must leave {field} empty, which is 0"
            raise MessageError(f"{what}: {field} of {', '.join(bad)} is not finite{remedy}")
        fields.append(array)
    return JointValues(*fields)


def ordered(names: Sequence[str], values: Sequence[float], expected: Sequence[str], what: str) -> np.ndarray:
    """Values in the order of ``expected``, float64 (n,); a ``MessageError`` if they are not as many, not finite, or
    named otherwise than exactly the expected joints in any order."""
    if len(values) != len(expected):
        raise MessageError(f"{what} needs {len(expected)} values, got {len(values)}")
    if not all(math.isfinite(v) for v in values):
        raise MessageError(f"{what} has values that are not finite: {list(values)}")
    return np.asarray(values, dtype=float)[joint_order(names, len(values), expected, what)]


def clipped(values: np.ndarray, ranges: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Values within ``ranges`` (n, 2), and a description of each that was not."""
    inside = np.clip(values, ranges[:, 0], ranges[:, 1])
    notes = [f"{n} {v:.3f} -> {c:.3f}" for n, v, c in zip(names, values, inside, strict=True) if abs(v - c) > 1e-9]
    return inside, notes
