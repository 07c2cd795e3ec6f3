"""Numbers that JSON does not have: NaN and infinities become null, and are named beside it."""

from __future__ import annotations

import math
from typing import Any

NOTE = "not_finite"


def noted(values: dict[str, Any]) -> dict[str, Any]:
    """The same, with null in place of numbers that are not finite, and the paths of those under ``not_finite``."""
    found: list[str] = []
    cleaned = _cleaned(values, "", found)
    return cleaned | ({NOTE: found} if found else {})


def _cleaned(value: Any, path: str, found: list[str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        found.append(f"{path} is {value}")
        return None
    if isinstance(value, dict):
        return {key: _cleaned(item, f"{path}/{key}".lstrip("/"), found) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item, f"{path}/{i}", found) for i, item in enumerate(value)]
    return value
