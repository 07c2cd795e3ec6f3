"""Exchanges on disk: every request with its reply, in the order in which they were computed; asked again and compared.

    <folder>/<time of start>/session.json      what was served
                             00000000.exchange  MessagePack: index, time_s, request, reply (both as on the wire)

An exchange appears when it is complete. Replay asks the same requests in the same order, so that the noise is the same.
Pictures of somebody's room are in it: folder and files are for their owner only.
"""

from __future__ import annotations

import errno
import json
import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from ..errors import UserError, one_line
from ..files.json_file import read_json
from ..files.output_file import write_file
from .policy_responder import PolicyResponder
from .wire import AnswerError, RequestError, WireError, unpack

MOST_MISSING = 100_000  # exchanges one after the other
TIMING = ("policy_timing", "server_timing")  # differs from run to run
SESSION, SUFFIX = "session.json", ".exchange"
WAITING_BYTES = 256 * 2**20  # of exchanges that may wait for the disk
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of other parts' making, and gone the next moment
CLOSE_S = 5.0  # for what waits when recording is ended; a disk that hangs must not keep the server
log = logging.getLogger(__name__)


class Exchange(NamedTuple):
    """A request and its reply, as they were on the wire."""

    index: int
    time_s: float  # when the reply was sent, s since 1970
    request: bytes
    reply: bytes


class Recorder:
    """Writes exchanges in a thread of its own, into a new folder in ``folder``; the server does not wait for the disk.

    ``session`` is what is served, for ``session.json``. Recording ends when ``limit_bytes`` were written;
    ``waiting_bytes`` may wait for the disk, further exchanges are lost.
    """

    def __init__(
        self, folder: Path, session: Mapping[str, Any], limit_bytes: int, waiting_bytes: int = WAITING_BYTES
    ) -> None:
        self.folder = Path(folder) / time.strftime("%Y%m%dT%H%M%S")  # of this run
        self._limit, self._most_waiting = limit_bytes, waiting_bytes
        self.lost = 0  # exchanges that were not written
        self.on_lost: Callable[[int], None] = lambda count: None  # called with further ones, by any thread
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700)
            write_file(self.folder / SESSION, json.dumps(session, indent=2) + "\n", private=True)
        except OSError as error:
            raise UserError(f"--record: {self.folder} cannot be made: {error.strerror}") from error
        self._queue: queue.SimpleQueue[Exchange | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # for the four below and lost
        self._waiting = self._written = 0  # bytes
        self._unfinished = 0  # exchanges that wait
        self._behind = False  # said already
        self._stopped = ""
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def add(self, exchange: Exchange) -> None:
        """Have an exchange written; it is lost if the disk is behind or recording has ended."""
        size = _size(exchange)
        with self._lock:
            full = self._waiting > 0 and self._waiting + size > self._most_waiting
            if not self._stopped and not full:
                self._waiting, self._unfinished = self._waiting + size, self._unfinished + 1
                self._queue.put(exchange)
                return
        why = "" if self._stopped else f"{exchange.index} and further ones are not recorded: the disk is too slow"
        self._lose(1, why)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what waits, as far as that is possible in time."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("recording: the disk has not taken everything within %g s, the rest is lost", timeout_s)
            self._lose(self._unfinished)
        log.info("recorded to %s%s", self.folder, f", without {self.lost} exchanges" if self.lost else "")

    def _run(self) -> None:
        while (exchange := self._queue.get()) is not None:
            self._write(exchange)
            with self._lock:
                self._waiting, self._unfinished = self._waiting - _size(exchange), self._unfinished - 1

    def _write(self, exchange: Exchange) -> None:
        if self._stopped:
            return self._lose(1)
        data = msgpack.packb(exchange._asdict())
        try:
            self.folder.stat()  # a folder made anew would be a recording without its beginning
            write_file(self.folder / f"{exchange.index:08d}{SUFFIX}", data, private=True)
        except OSError as error:
            if error.errno in PASSING:
                return self._lose(1, f"{exchange.index} is not recorded: {error.strerror}")
            self._stop(f"cannot write to {self.folder}: {error.strerror}")
            return self._lose(1)
        if self._behind and self._waiting <= self._most_waiting / 2:
            log.warning("recording goes on; %d exchanges are lost so far", self.lost)
            self._behind = False
        self._written += len(data)
        if self._written >= self._limit:
            self._stop(f"the limit of {self._limit / 1e9:g} GB is reached")

    def _lose(self, count: int, why: str = "") -> None:
        """Count exchanges that are not written, and say the first time why."""
        with self._lock:
            self.lost += count
            if why and not self._behind:
                log.warning("exchange %s", why)
                self._behind = True
        self.on_lost(count)

    def _stop(self, why: str) -> None:
        self._stopped = why
        log.warning("recording has ended: %s; the server goes on", why)


def _size(exchange: Exchange) -> int:
    return len(exchange.request) + len(exchange.reply)


def check_folder(folder: Path) -> None:
    """Make the folder for recordings if it is not there; a ``UserError`` if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--record: {folder} cannot be written: {error.strerror}") from error


def find_session(folder: Path) -> Path:
    """The folder of one run: this one, or the only one in it; a ``UserError`` if there is none, or several."""
    if (folder / SESSION).is_file():
        return folder
    found = sorted(path.parent for path in folder.glob(f"*/{SESSION}"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{folder}: no recording of one run; recordings in it: {names}; give the folder of one")
    return found[0]


def read_exchanges(folder: Path) -> Iterator[Exchange]:
    """The exchanges of a run in order; a ``UserError`` if one is damaged."""
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: (len(path.name), path.name)):
        try:
            exchange = Exchange(**unpack(path.read_bytes()))
        except (OSError, WireError, TypeError) as error:
            raise UserError(f"{path}: not a recorded exchange: {error}") from error
        if not (isinstance(exchange.request, bytes) and isinstance(exchange.reply, bytes)):
            raise UserError(f"{path}: not a recorded exchange: request and reply are not as on the wire")
        if path.name != f"{exchange.index!s:0>8}{SUFFIX}" or type(exchange.index) is not int:
            raise UserError(f"{path}: not a recorded exchange: it says that it is {exchange.index!r:.20}")
        yield exchange


@dataclass
class Comparison:
    """What a replay found."""

    session: Mapping[str, Any]  # what was served when it was recorded
    settings: list[str] = field(default_factory=list)  # what is served otherwise now, in words
    exchanges: int = 0  # how many were asked again
    missing: list[int] = field(default_factory=list)  # not recorded; the noise of later ones was drawn all the same
    largest: dict[str, float] = field(default_factory=dict)  # per key the largest absolute difference of its numbers
    worst: dict[str, int] = field(default_factory=dict)  # per key the exchange where that was
    problems: list[str] = field(default_factory=list)  # what cannot be compared, in words, one per exchange and key

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


def replay(folder: Path, responder: PolicyResponder, session: Mapping[str, Any] | None = None) -> Comparison:
    """Ask a recording's requests one by one and compare; a ``UserError`` if it is none, is empty, or one is refused.

    Where an exchange is missing the request after it is asked twice: its first answer uses up the noise of the missing
    one. The responder is as new, so that noise begins where it did; ``session`` is what is served now, to be told where
    it is not what was recorded.
    """
    folder = find_session(folder)
    try:
        recorded_session = read_json(folder / SESSION)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / SESSION}: cannot be read: {error}") from error
    if not isinstance(recorded_session, dict):
        raise UserError(f"{folder / SESSION}: expected what was served as keys and values")
    found, following = Comparison(recorded_session, _changed(recorded_session, session or {})), 0
    for exchange in read_exchanges(folder):
        where = f"{folder}: exchange {exchange.index}"
        if (missing := exchange.index - following) > MOST_MISSING:
            raise UserError(f"{where}: the {missing} before it are missing, more than can be passed over")
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
    both = isinstance(old, bytes) and isinstance(new, bytes) and len(old) == len(new) and len(old) % 4 == 0
    old, new = (np.frombuffer(value, "<f4") for value in (old, new)) if both else (old, new)  # as replies have them
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
