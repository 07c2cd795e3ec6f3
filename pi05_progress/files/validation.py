"""What pydantic finds wrong with the contents of a file, in words for people."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import one_line


def problem(error: dict[str, Any]) -> str:
    """What is wrong with a field; ``error`` is one of ``ValidationError.errors()``, whose ``loc`` says which field."""
    if error["type"] == "missing":
        return "is missing"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return "unknown key"
    found = "" if isinstance(error["input"], dict | BaseModel) else f" (found {one_line(repr(error['input']), 200)})"
    return f"{error['msg'].removeprefix('Value error, ')}{found}"


def problems(error: ValidationError) -> str:
    """All that is wrong, each with the dotted name of its field."""
    return "; ".join(
        f"{name}: {problem(one)}" if (name := ".".join(map(str, one["loc"]))) else problem(one)
        for one in error.errors()
    )
