"""JSON files that anybody may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """The data of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, no UTF-8, or too deeply nested.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("values are too deeply nested") from error
