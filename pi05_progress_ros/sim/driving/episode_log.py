"""Driven episodes kept as they are finished, so that a run that was stopped goes on where it was.

A file of lines: first the settings that decide about an episode, then an episode each. Episodes of other settings are
never mixed with these.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from pi05_progress.errors import UserError
from pi05_progress.files.lock import try_lock

from .closed_loop import DrivenEpisode

EPISODE = TypeAdapter(DrivenEpisode)
SUFFIX = ".episodes.jsonl"
BEGINNING = b'{"settings"'


class EpisodeLog:
    """The finished episodes of a run; use it as a context. One process at a time has the file.

    With ``overwrite`` episodes of other settings are thrown away.

    Raises:
        UserError: the file is another run's, or no file of episodes.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        self.path, self.episodes = path, []
        self._file: IO[bytes] = path.open("a+b", buffering=0)  # what could not be written is not tried again
        try:
            self._take(json.loads(json.dumps(dict(settings))), overwrite)
        except BaseException:
            self._file.close()
            raise

    def _take(self, settings: dict[str, Any], overwrite: bool) -> None:
        if not try_lock(self._file):
            raise UserError(f"{self.path}: another process is writing there; wait for it")
        self._file.seek(0)
        raw, known = self._file.read(), settings
        lines = [line for line in raw.splitlines(keepends=True) if line.endswith(b"\n")]
        if lines or (raw and not raw.startswith(BEGINNING)):  # else there is none, or it was killed at once
            try:
                known = json.loads(lines[0])["settings"]
            except (IndexError, ValueError, TypeError, KeyError):
                raise UserError(
                    f"{self.path}: is no file of driven episodes; rename it, or choose another --json"
                ) from None
        if known != settings:
            if not overwrite:
                other = sorted(k for k in known.keys() | settings.keys() if known.get(k) != settings.get(k))
                raise UserError(
                    f"{self.path}: episodes of a stopped run are there, but {', '.join(other)} differ; --overwrite "
                    "begins anew"
                )
            lines = []
        with suppress(ValidationError):  # what a killed process has half written, and nothing is behind it
            self.episodes.extend(map(EPISODE.validate_json, lines[1:]))
        self._file.truncate(sum(map(len, lines[: 1 + len(self.episodes)])))
        if not lines:
            self._write({"settings": settings})

    def add(self, episode: DrivenEpisode) -> None:
        """Keep an episode; an OSError if it cannot be written."""
        self._write(asdict(episode))
        self.episodes.append(episode)

    def _write(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def remove(self) -> None:
        """The episodes are elsewhere now."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> EpisodeLog:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.episodes:
            self.remove()
        self._file.close()
