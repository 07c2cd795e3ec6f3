"""Recorded requests asked again, and how far the new replies are from the recorded ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, one_line
from .core import AnswerError, RequestError, Responder
from .recording import find_session, read_exchanges, read_session
from .wire import WireError, unpack

MOST_MISSING = 100_000  # exchanges one after the other
TIMING = ("policy_timing", "server_timing")  # differs from run to run


@dataclass
class Comparison:
    """What a replay found.

    Attributes:
        session: what was served when it was recorded.
        exchanges: how many were asked again.
        settings: what is served otherwise now, in words.
        missing: indices that were not recorded; the noise of later ones was drawn all the same.
        largest: per key the largest absolute difference of its numbers.
        worst: per key the exchange where that was.
        problems: what cannot be compared, in words, one per exchange and key.
    """

    session: Mapping[str, Any]
    settings: list[str] = field(default_factory=list)
    exchanges: int = 0
    missing: list[int] = field(default_factory=list)
    largest: dict[str, float] = field(default_factory=dict)
    worst: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def same(self, tolerance: float) -> bool:
        """Whether nothing differs by more than the tolerance."""
        return not self.problems and all(value <= tolerance for value in self.largest.values())

    def table(self, tolerance: float) -> str:
        """For people."""
        lines = [f"{self.exchanges} exchanges, recorded with {one_line(str(self.session.get('model_id', '?')))}"]
        lines += [f"{setting} (served otherwise than recorded)" for setting in self.settings]
        if self.missing:
            lines.append(f"{len(self.missing)} were not recorded, their noise was passed over")
        for key, value in sorted(self.largest.items()):
            verdict = "ok" if value <= tolerance else f"DIFFERENT (tolerance {tolerance:g})"
            lines.append(f"{key:<16} largest difference {value:.3g}, in exchange {self.worst[key]}: {verdict}")
        return "\n".join([*lines, *self.problems[:20]])


def replay(folder: Path, responder: Responder, session: Mapping[str, Any] | None = None) -> Comparison:
    """Ask a recording's requests one by one and compare.

    Where an exchange is missing the request after it is asked twice: its first answer uses up the noise of the missing
    one.

    Args:
        folder: see ``find_session``.
        responder: as new, so that noise begins where it did.
        session: what is served now, to be told where it is not what was recorded.

    Raises:
        UserError: no recording, an empty one, or a request that is refused now.
    """
    folder = find_session(folder)
    found, following = Comparison(read_session(folder)), 0
    found.settings = _changed(found.session, session or {})
    for exchange in read_exchanges(folder):
        where = f"{folder}: exchange {exchange.index}"
        if exchange.index - following > MOST_MISSING:
            raise UserError(
                f"{where}: the {exchange.index - following} before it are missing, more than can be passed over"
            )
        try:
            recorded = _dictionary(exchange.reply)
            prepared = responder.prepare(_dictionary(exchange.request))
            for index in range(following, exchange.index):
                responder.answer([prepared])
                found.missing.append(index)
            [reply] = responder.answer([prepared])
        except (RequestError, WireError) as error:
            raise UserError(f"{where} is refused: {one_line(str(error))}") from error
        following, found.exchanges = exchange.index + 1, found.exchanges + 1
        if isinstance(reply, AnswerError):
            found.problems.append(f"exchange {exchange.index}: {reply}")
        else:
            _compare(found, exchange.index, recorded, reply)
    if not found.exchanges:
        raise UserError(f"{folder}: no exchanges were recorded")
    return found


def _dictionary(data: bytes) -> Mapping[str, Any]:
    value = unpack(data)
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise RequestError("requests and replies are dictionaries with texts as keys, which this is not")
    return value


def _changed(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """What differs of that which both tell; older recordings tell less."""
    present = json.loads(json.dumps(present))  # tuples become lists, as in the file
    keys = [key for key in recorded if key in present and recorded[key] != present[key]]
    return [f"{one_line(key)} was {_short(recorded[key])} and is {_short(present[key])}" for key in keys]


def _compare(found: Comparison, index: int, recorded: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
    keys = [key for key in (set(recorded) | set(reply)) if key not in TIMING]
    for key in sorted(keys):
        old, new, key = recorded.get(key), reply.get(key), one_line(key, 80)
        if (difference := _difference(old, new)) is None:
            found.problems.append(f"exchange {index}: {key} was {_short(old)} and is {_short(new)}")
        elif difference >= found.largest.get(key, -1.0):
            found.largest[key], found.worst[key] = difference, index


def _difference(old: Any, new: Any) -> float | None:
    """The largest absolute difference of two values; None if they cannot be compared."""
    numbers = [isinstance(value, float | np.ndarray) for value in (old, new)]
    if not any(numbers):
        return 0.0 if repr(old) == repr(new) else None
    if not all(numbers) or np.shape(old) != np.shape(new):
        return None
    try:
        difference = np.max(np.abs(np.asarray(old, float) - np.asarray(new, float)), initial=0.0)
    except (TypeError, ValueError):  # not numbers
        return None
    return float(difference) if np.isfinite(difference) else None


def _short(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)[:60]
