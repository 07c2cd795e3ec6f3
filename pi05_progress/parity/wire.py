"""Golden bytes of the wire: a packed message with what it decodes to, and a JSON list of a session's frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..serving.wire import WireError, pack, unpack
from .checks import Check, is_list_of, read_json, same, skip


def _message_file(file: Path) -> Path | None:
    """The JSON of a packed message, for itself and for its bytes."""
    key = file.with_suffix(".json")
    if file.suffix not in (".json", ".bin") or not key.is_file():
        return None
    content = read_json(key)
    return key if isinstance(content, dict) and {"hex", "decoded"} <= set(content) else None


def check_message(path: Path) -> Iterator[Check]:
    """A packed message is read as recorded, and packed again to the same bytes."""
    recorded = read_json(path)
    data = bytes.fromhex(recorded["hex"])
    if (binary := path.with_suffix(".bin")).is_file():
        yield same(f"{binary.name}: bytes", binary.read_bytes(), data)
    value = unpack(data)
    yield same("packed again", pack(value), data)
    yield same("keys", list(value), list(recorded["decoded"]))
    for key, description in recorded["decoded"].items():
        yield same(f"decoded {key}", describe(value.get(key)), description)


def describe(value: Any) -> dict:
    """A decoded value in the words of the recording."""
    if isinstance(value, np.ndarray):
        values = {"shape": list(value.shape), "values": value.tolist(), "writeable": bool(value.flags.writeable)}
        return {"type": "ndarray", "dtype": str(value.dtype), **values}
    if isinstance(value, np.generic):  # as NumPy 1 wrote it
        name = "bool_" if isinstance(value, np.bool_) else type(value).__name__
        return {"type": name, "repr": str(value)}
    return {"type": type(value).__name__, "repr": repr(value)}


def check_session(path: Path) -> Iterator[Check]:
    """Every frame of a session is read, and packed again to the same bytes."""
    for i, frame in enumerate(read_json(path)):
        name = f"frame {i} {frame['dir']}"
        if frame["type"] != "bytes":
            yield skip(name, f"a {frame['type']} frame carries no packed message")
            continue
        data = bytes.fromhex(frame["hex"])
        try:
            yield same(name, pack(unpack(data)).hex(), data.hex())
        except WireError as error:
            yield same(name, str(error), "a message")


KINDS = [
    ("message", _message_file, check_message),
    ("session", lambda file: is_list_of(file, {"dir", "type", "hex"}), check_session),
]
