"""Answers of a policy kept on disk, one file per episode, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

import pi05_progress
from pi05_progress.files.fingerprint import files_in, fingerprint
from pi05_progress.files.output_file import output_file

from .playbacks import Playback
from .predictions import Answers

PARTS = tuple(part.name for part in fields(Answers))
VERSION = 2  # of the files, and of what decides an answer
FOLDER = Path("~/.cache/pi05_progress/evaluation")
# parts of the package that answer nothing here; what projects features does
UNUSED = ("serving", "checkpoints/foreign", "estimate/estimator", "estimate/status")
# what the policy is shown, and how
OWN = ("datasets/frames.py", "evaluation/playbacks.py", "evaluation/predictions.py")


def code_digest(package: Path = Path(pi05_progress.__file__).parent, own: Path = Path(__file__).parents[1]) -> str:
    """A hash of all code that decides an answer: another model, transform or noise must not meet kept answers."""
    files = [p for p in sorted(package.rglob("*.py")) if not p.relative_to(package).as_posix().startswith(UNUSED)]
    digest = hashlib.sha256()
    for path in (*files, *(own / name for name in OWN)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def fingerprint_of_answers(folders: Sequence[Path], settings: Mapping[str, object]) -> str:
    """A name for everything that decides the answers: settings, and names, sizes and times of all files of folders."""
    files = [file for folder in folders for file in files_in(folder)]
    return fingerprint([VERSION, [str(folder.resolve()) for folder in folders], files, dict(settings)])


class AnswerCache:
    """Answers by episode, in a folder; without one nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, episode: int, playbacks: Sequence[Playback]) -> dict[str, Answers] | None:
        """Answers to exactly these playbacks; None if there are none, or the file is of other ones or damaged."""
        if self._folder is None or not (path := self._path(episode)).exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {}
                for playback in playbacks:
                    name = playback.name
                    if f"{name}/views" not in file.files or str(file[f"{name}/views"]) != _described(playback):
                        return None
                    kept = {part: file[f"{name}/{part}"] for part in PARTS if f"{name}/{part}" in file.files}
                    found[name] = Answers(**{"bins": None, **kept})
                return found
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            return None  # it is made again

    def save(self, episode: int, playbacks: Sequence[Playback], answers: Mapping[str, Answers]) -> None:
        """Keep answers; the file appears when it is complete."""
        if self._folder is None:
            return
        arrays: dict[str, np.ndarray] = {}
        for playback in playbacks:
            name, of = playback.name, answers[playback.name]
            arrays |= {f"{name}/views": np.array(_described(playback))}
            arrays |= {f"{name}/{part}": getattr(of, part) for part in PARTS if getattr(of, part) is not None}
        with output_file(self._path(episode), shared=True) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def _path(self, episode: int) -> Path:
        return self._folder / f"episode_{episode:06d}.npz"


def _described(playback: Playback) -> str:
    return json.dumps([astuple(view) for view in playback.views])
