"""Opens the files of a recording: split or not, compressed or not, with or without metadata, damaged ones as far as
they can be read."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from backports import zstd
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from pi05_progress.files.output_file import output_file

from .faults import BagError, bag_errors_naming, explained, of_the_machine
from .finding import METADATA, natural_order, storage_suffix
from .mcap import ChunkReader
from .recovery import TruncatedMcapReader


class _FolderReader(DirectoryReader):
    STORAGE_PLUGINS = {"mcap": ChunkReader, "sqlite3": Sqlite3Reader}  # noqa: RUF012 (rosbags' own table, ours inside)


_FILE_READERS = {".mcap": ChunkReader, ".db3": Sqlite3Reader}


class Opening:
    """Opens one recording, and says what is odd about its files.

    Args:
        path: of the recording.
        scratch: folder for decompressed files of recordings that are compressed as whole files; needed for those only.
        stack: closes what was opened.

    Attributes:
        notes: what is odd, for the report.
        cut_off: why the recording's beginning or end are known to be missing; empty if they are not.
    """

    def __init__(self, path: Path, scratch: Path | None, stack: ExitStack) -> None:
        self._path, self._scratch, self._stack = path, scratch, stack
        self.notes: list[str] = []
        self.cut_off = ""

    def readers(self) -> list[Any]:
        """Readers of the recording, in the order of their messages; whoever uses them closes nothing.

        Raises:
            BagError: no file can be read.
        """
        if not self._path.is_dir():
            return self._open_files([self._path])
        found = sorted((p for p in self._path.iterdir() if p.is_file() and storage_suffix(p)), key=natural_order)
        files = list({_plain(file.name): file for file in reversed(found)}.values())[::-1]  # x.mcap before x.mcap.zstd
        if not (self._path / METADATA).exists():
            self.notes.append(f"no {METADATA}; its files are read in the order of their names")
            if files and storage_suffix(files[-1]) == ".db3":  # MCAP files say themselves whether they were ended
                self.cut_off = f"no {METADATA}, which a recorder writes when it ends"
            return self._open_files(files)
        if self._compressed_files():
            if missing := sorted(set(self._named()) - {_plain(file.name) for file in files}):
                self.notes.append(f"files named in {METADATA} are missing: {', '.join(missing)}")
            return self._open_files(files)
        try:
            return [self._opened(_FolderReader(self._path))]
        except Exception as error:
            if of_the_machine(error):
                raise
            self.notes.append(f"not as {METADATA} says ({explained(error)}); its files are read one by one")
            return self._open_files(files)

    def _opened(self, reader: Any) -> Any:
        reader.open()
        self._stack.callback(reader.close)
        return reader

    def _open_files(self, files: Sequence[Path]) -> list[Any]:
        """Readers of those files that can be read; what is the matter with others goes into the notes."""
        if not files:
            raise BagError(f"{self._path}: no .mcap or .db3 file in it")
        readers: dict[str, Any] = {}
        problems = []
        for file in files:
            try:
                with bag_errors_naming(file, "cannot be read"):
                    readers[_plain(file.name)] = self._open_file(self._decompressed_file(file))
            except BagError as error:
                problems.append(str(error))
        if not readers:
            raise BagError("; ".join(problems))
        self.notes += problems
        names = self._named() or [_plain(file.name) for file in files]
        self.cut_off = _why_cut_off(names, readers) or self.cut_off
        return list(readers.values())

    def _open_file(self, file: Path) -> Any:
        """The file's reader; a damaged MCAP file is read as far as it goes."""
        if not file.stat().st_size:
            raise BagError(f"{file}: the file is empty")
        try:
            return self._opened(_FILE_READERS[file.suffix](file))
        except Exception as error:
            if of_the_machine(error) or file.suffix != ".mcap":
                raise
            try:
                reader = self._opened(TruncatedMcapReader(file))
            except Exception as second:
                raise BagError(
                    f"{file}: cannot be read: {explained(error)}. Nor record by record: {explained(second)}"
                ) from error
            count = f"{reader.metadata.message_count} messages are read from its complete records"
            self.notes.append(
                f"{file.name}: its summary cannot be used ({explained(error)}): {count}"
                if reader.ended
                else f"{file.name} has no proper end ({explained(error)}): {count}, {reader.lost_bytes} bytes after "
                "them are lost"
            )
            return reader

    def _facts(self) -> dict[str, Any]:
        """What the metadata say of the recording; nothing, where they cannot be read."""
        try:
            return dict(yaml.safe_load((self._path / METADATA).read_text())["rosbag2_bagfile_information"])
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
            return {}  # the reader says what is wrong with it

    def _named(self) -> list[str]:
        """Names of the recording's files as the metadata say, decompressed."""
        names = self._facts().get("relative_file_paths") if self._path.is_dir() else None
        return [_plain(Path(str(name)).name) for name in names] if isinstance(names, list) else []

    def _compressed_files(self) -> bool:
        """Whether the files are compressed as a whole."""
        return str(self._facts().get("compression_mode", "")).lower() == "file"

    def _decompressed_file(self, file: Path) -> Path:
        if file.suffix != ".zstd":
            return file
        if self._scratch is None:
            raise BagError(f"{file}: compressed as a whole file; a scratch folder is needed to read it")
        folder = self._scratch / hashlib.sha256(str(file.parent.resolve()).encode()).hexdigest()[:16]
        target = folder / file.stem
        if not target.exists():
            opened = zstd.open(file, "rb")
            # several processes may want it
            with opened as source, output_file(target, shared=True) as partial, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        return target


def _plain(name: str) -> str:
    return name.removesuffix(".zstd")


def _why_cut_off(names: Sequence[str], readers: Mapping[str, Any]) -> str:
    """Why files that could not be read mean that a recording's beginning or end is missing; empty if they do not."""
    first, last = names[0], names[-1]
    if last not in readers:
        return f"its last file, {last}, is missing or cannot be read"
    if isinstance(readers[last], TruncatedMcapReader) and not readers[last].ended:
        return f"{last} has no proper end"
    return "" if first in readers else f"its first file, {first}, is missing or cannot be read"
