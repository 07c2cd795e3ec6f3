"""Opens the files of a recording: split or not, compressed or not, with or without metadata, damaged ones as far as
they can be read."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from backports import zstd

from pi05_progress.files.output_file import output_file
from pi05_progress.files.yaml_text import load_yaml
from training.datasets.reader import LFS_REMEDY, is_lfs_pointer

from .faults import BagError, bag_errors_naming, explained
from .mcap import McapFile
from .sqlite import SqliteFile

METADATA = "metadata.yaml"
READERS = {".mcap": McapFile, ".db3": SqliteFile}
JOURNALS = ("-wal", "-journal")  # of a killed recorder's database: they hold rows that the file itself lacks
StorageFile = McapFile | SqliteFile


def plain_name(name: str) -> str:
    """A file's name without what says that it is compressed as a whole."""
    return re.sub(r"\.zstd?$", "", name, flags=re.IGNORECASE)


def storage_suffix(path: Path) -> str:
    """``.mcap`` or ``.db3`` for a file of a recording, also one compressed as a whole; else nothing."""
    suffix = Path(plain_name(path.name)).suffix.lower()
    return suffix if suffix in READERS else ""


def storage_files(folder: Path) -> list[Path]:
    """The files of recordings in a folder, in natural order; one that lies there twice is taken as it was recorded."""
    found = sorted((p for p in folder.iterdir() if storage_suffix(p) and p.is_file()), key=natural_order)
    return list({plain_name(file.name): file for file in reversed(found)}.values())[::-1]  # x.mcap before x.mcap.zstd


def natural_order(path: Path) -> list[Any]:
    """Key by which ``bag_2`` comes before ``bag_10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def number_in_series(path: Path) -> tuple[str, int] | None:
    """What a recorder that splits its files calls all of them, and this one's number; None for another file."""
    parts = re.fullmatch(r"(.+)_(\d+)\.\w+", plain_name(path.name))
    return (parts[1], int(parts[2])) if parts else None


class Opening:
    """Opens one recording, and says what is odd about its files.

    Attributes:
        notes: what is odd, for the report.
        cut_off: why the recording's beginning or end are known to be missing; empty if they are not.
    """

    def __init__(self, path: Path, scratch: Path, stack: ExitStack) -> None:
        self._path, self._scratch, self._stack = path, scratch, stack
        self.notes: list[str] = []
        self.cut_off = ""

    def files(self) -> list[StorageFile]:
        """The recording's files, at least one, in the order of their messages; whoever uses them closes nothing."""
        if not self._path.is_dir():
            return self._opened([self._path], [])
        found = {plain_name(file.name): file for file in storage_files(self._path)}
        if not found:
            raise BagError(f"{self._path}: no .mcap or .db3 file in it")
        named, counted = self._metadata()
        if missing := [name for name in named if name not in found]:
            self.notes.append(f"files named in {METADATA} are missing: {', '.join(missing)}")
        series = {of[0] for name in named if (of := number_in_series(Path(name)))}
        more = [n for n in found if n not in named and (not named or (number_in_series(found[n]) or [""])[0] in series)]
        if named and more:
            self.notes.append(f"{METADATA} does not name {', '.join(more)}, which is read all the same")
        if other := [name for name in found if name not in (*named, *more)]:
            self.notes.append(f"{METADATA} does not name {', '.join(other)}, which is not read")
        names = [*named, *more]
        if not counted and storage_suffix(Path(names[-1])) == ".db3":  # MCAP files say themselves if they were ended
            self.cut_off = f"no complete {METADATA}, which a recorder writes when it ends"
        opened = self._opened([found[name] for name in names if name in found], names)
        counts = [file.count for file in opened]
        if len(opened) == len(names) and not self.cut_off and None not in counts and sum(counts) < counted:
            self.cut_off = f"{METADATA} counts {counted} messages, of which {counted - sum(counts)} are not there"
            self.notes.append(f"{self.cut_off}; were all files copied, a .db3 with the -wal beside it?")
        return opened

    def _metadata(self) -> tuple[list[str], int]:
        """Names of the files as the metadata say, not compressed, and the number of messages, which a recorder writes
        when it ends; 0 if it did not."""
        path = self._path / METADATA
        if not path.exists():
            self.notes.append(f"no {METADATA}; its files are read in the order of their names")
            return [], 0
        try:
            facts = load_yaml(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
            # Names of files are text in the locale's way, those in the metadata UTF-8.
            names = [plain_name(Path(os.fsdecode(str(n).encode())).name) for n in facts["relative_file_paths"]]
            return list(dict.fromkeys(names)), int(facts["message_count"])
        except (OSError, LookupError, TypeError, ValueError) as error:
            self.notes.append(
                f"{METADATA} cannot be used ({explained(error)}); its files are read in the order of their names"
            )
            return [], 0

    def _opened(self, files: Sequence[Path], names: Sequence[str]) -> list[StorageFile]:
        """Those files that can be read; what is the matter with others goes into the notes."""
        opened: dict[str, StorageFile] = {}
        problems = []
        for file in files:
            try:
                with bag_errors_naming(file, "cannot be read"):
                    opened[plain_name(file.name)] = self._open(file)
            except BagError as error:
                problems.append(str(error))
        if not opened:
            raise BagError("; ".join(problems) or f"{self._path}: none of its files is there")
        self.notes += [*problems, *(file.note for file in opened.values() if file.note)]
        self.cut_off = _why_cut_off(names or [*opened], opened) or self.cut_off
        return list(opened.values())

    def _open(self, file: Path) -> StorageFile:
        if not file.stat().st_size:
            raise BagError(f"{file}: the file is empty")
        if is_lfs_pointer(file):
            raise BagError(f"{file}: {LFS_REMEDY}")
        suffix, journals = storage_suffix(file), [file.with_name(file.name + ending) for ending in JOURNALS]
        if plain_name(file.name) != file.name:
            file = self._copied(file, _decompress)
        elif suffix == ".db3" and any(path.exists() and path.stat().st_size for path in journals):
            file = self._copied(file, _with_journal)
        opened = READERS[suffix](file)
        self._stack.callback(opened.close)
        return opened

    def _copied(self, file: Path, copy: Any) -> Path:
        """A copy of a file in the scratch folder, made once."""
        folder = self._scratch / hashlib.sha256(os.fsencode(file.parent.resolve())).hexdigest()[:16]
        target = folder / plain_name(file.name)
        if not target.exists():
            with output_file(target, shared=True) as partial:  # several processes may want it
                copy(file, partial)
        return target


def _decompress(file: Path, target: Path) -> None:
    with zstd.open(file, "rb") as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


def _with_journal(file: Path, target: Path) -> None:
    """Copy a database and what lies beside it, and have the copy take in or undo what its recorder was at."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for path in (file, *(file.with_name(file.name + ending) for ending in JOURNALS)):
            if path.exists():
                shutil.copyfile(path, Path(folder, path.name))
        connection = sqlite3.connect(Path(folder, file.name))
        try:
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        finally:
            connection.close()
        shutil.move(Path(folder, file.name), target)


def _why_cut_off(names: Sequence[str], opened: Mapping[str, StorageFile]) -> str:
    """Why files that could not be read mean that a recording's beginning or end is missing; empty if they do not."""
    first, last = names[0], names[-1]
    if last not in opened:
        return f"its last file, {last}, is missing or cannot be read"
    if not opened[last].ended:
        return f"{last} has no proper end"
    return "" if first in opened else f"its first file, {first}, is missing or cannot be read"
