"""The folder beside a data set in which it is made, so that a conversion that was killed goes on with what is missing.

Everything is written under ``<output>.partial``: episodes in ``work``, one folder each, which appears complete or not
at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pi05_progress.files.json_file import read_json
from pi05_progress.files.output_file import write_file
from pi05_progress.files.output_folder import OutputFolderError, Pending, check_target, claim, finish
from training.datasets import layout

WORK, SCRATCH, SETTINGS = "work", "scratch", "conversion.json"
RESULT = "result.json"
REPLACES, ASSEMBLED = "_replaces", "_assembled"  # in the settings' file, no settings themselves


@dataclass
class Workplace:
    """The folder in which a data set is made; see ``workplace``."""

    folder: Path
    assembled: bool = False  # whether the data set in it is complete, and only its way into place is left
    pending: Pending | None = None  # the hold on the folder; None where nothing is kept, as in a dry run

    @property
    def work(self) -> Path:
        """Where episodes are kept."""
        return self.folder / WORK

    @property
    def scratch(self) -> Path:
        """Where compressed recordings are unpacked."""
        return self.folder / SCRATCH


@contextmanager
def workplace(output: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Workplace]:
    """Prepare the folder beside ``output`` and hold it against a second conversion; what is in it stays."""
    pending = claim(output)
    try:
        place = _prepared(pending, output, settings, resume, overwrite)
        try:
            yield place
        except BaseException:
            if not place.assembled and not any(place.work.glob(f"*/{RESULT}")):
                pending.abandon()  # nothing in it is worth going on with
            raise
    finally:
        pending.release()


def _prepared(pending: Pending, output: Path, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> Workplace:
    """The folder cleared or as it was left; whatever is decided in here is decided under its lock."""
    folder = pending.path
    try:
        begun = dict(read_json(folder / SETTINGS)) if (folder / SETTINGS).exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise OutputFolderError(f"{folder / SETTINGS}: cannot be read: {error}; remove {folder}") from error
    replaces = layout.MARKERS if overwrite or (resume and begun.get(REPLACES)) else None
    try:
        check_target(output, replaces)
    except OutputFolderError:
        if not begun:
            pending.abandon()
        raise
    if begun and not resume and not overwrite:
        raise OutputFolderError(
            f"{folder}: an unfinished conversion is there; go on with --resume, or begin again with --overwrite"
        )
    if begun and resume:
        now = json.loads(json.dumps(settings))
        if different := [key for key in {**begun, **now} if key[0] != "_" and begun.get(key) != now.get(key)]:
            raise OutputFolderError(
                f"--resume: {folder} was begun with other {', '.join(sorted(different))}; give the same as then, or "
                "begin again with --overwrite"
            )
    else:
        begun = {}
        pending.clear()
        _write_json(folder / SETTINGS, {**settings, REPLACES: overwrite})
    place = Workplace(folder, bool(begun.get(ASSEMBLED)), replace(pending, replaces=replaces))
    place.work.mkdir(exist_ok=True)
    for leftover in place.work.glob("*.partial"):
        shutil.rmtree(leftover)
    return place


def finish_workplace(place: Workplace) -> None:
    """Leave only the data set in the folder, and move it into place.

    That it is complete is written down first: killed in here, the conversion needs nothing but the rest of this.
    """
    settings = json.loads((place.folder / SETTINGS).read_text(encoding="utf-8"))
    _write_json(place.folder / SETTINGS, {**settings, ASSEMBLED: True})
    shutil.rmtree(place.work, ignore_errors=True)
    shutil.rmtree(place.scratch, ignore_errors=True)
    finish(place.pending)
    (place.pending.folder / SETTINGS).unlink(missing_ok=True)


def _write_json(path: Path, data: object) -> None:
    """Write a file that work goes on from."""
    write_file(path, json.dumps(data, indent=1) + "\n", durable=True)
