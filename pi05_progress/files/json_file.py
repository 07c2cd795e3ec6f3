"""JSON files that anybody may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """The data of a file; an ``OSError`` if it cannot be read, a ``ValueError`` if it is no JSON, no UTF-8, too
    deep."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("values are too deeply nested") from error
