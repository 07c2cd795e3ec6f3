"""Driven episodes kept as they are finished, so that a run that was stopped goes on where it was.

A file of lines: first the settings that decide about an episode, then an episode each. Episodes of other settings are
never mixed with these.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pi05_progress.errors import UserError
from pi05_progress.files.lock import try_lock

from .closed_loop import DrivenEpisode

SUFFIX = ".episodes.jsonl"
BEGINNING = b'{"settings"'


class EpisodeLog:
    """The finished episodes of a run; use it as a context. One process at a time has the file.

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
        lines = self._file.read().splitlines(keepends=True)
        if len(lines) == 1 and lines[0].startswith(BEGINNING) and not lines[0].endswith(b"\n"):
            lines = []  # killed at once
        known = _parsed(lines[0]).get("settings") if lines else settings
        if lines and not isinstance(known, dict):
            raise UserError(f"{self.path}: is no file of driven episodes; rename it, or choose another --json")
        if known != settings:
            if not overwrite:
                other = sorted(k for k in known.keys() | settings.keys() if known.get(k) != settings.get(k))
                raise UserError(
                    f"{self.path}: episodes of a stopped run are there, but {', '.join(other)} differ; --overwrite "
                    "begins anew"
                )
            lines = []
        kept = 0
        for number, line in enumerate(lines):
            episode = _episode(line) if number else None
            if number and episode is None:
                break  # what a killed process has half written, and nothing is behind it
            self.episodes += [episode] if episode else []
            kept += len(line)
        self._file.truncate(kept)
        if not kept:
            self._write({"settings": settings})

    def add(self, episode: DrivenEpisode) -> None:
        """Keep an episode.

        Raises:
            OSError: it cannot be written.
        """
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.episodes:
            self.remove()
        self._file.close()


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _episode(line: bytes) -> DrivenEpisode | None:
    found = _parsed(line)
    try:
        milestones = tuple((str(name), float(time_s)) for name, time_s in found.pop("milestones"))
        return DrivenEpisode(**found, milestones=milestones)
    except (KeyError, TypeError, ValueError):
        return None
