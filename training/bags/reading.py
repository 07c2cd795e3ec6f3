"""One recording as a stream of messages: sqlite3 or MCAP, split or not, compressed or not, with or without metadata.

A recording is a folder that rosbag2 wrote, or a single ``.mcap`` or ``.db3`` file. It is only ever read; damaged files
are as far as they can be.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backports import zstd

from pi05_progress.files.output_file import output_file
from pi05_progress.files.yaml_text import load_yaml
from training.datasets.reader import LFS_REMEDY, is_lfs_pointer

from .faults import BagError, UnreadableError, bag_errors_naming, explained
from .mcap import ZSTD_MAGIC, McapFile
from .message_types import Channel, Stored, Types
from .sqlite import SqliteFile

METADATA = "metadata.yaml"
READERS = {".mcap": McapFile, ".db3": SqliteFile}
JOURNALS = ("-wal", "-journal")  # of a killed recorder's database: they hold rows that the file itself lacks
StorageFile = McapFile | SqliteFile
END_OF_TIME_NS = 1 << 62  # of receive times, in the year 2116: differences of such times fit into 64 bits
BACK_NS = 500_000_000  # messages are stored in order of arrival up to this; further back is a jump of the clock


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


@dataclass(frozen=True)
class Topic:
    """What a recording holds of one topic; ``used`` is whether there are any messages."""

    name: str
    type: str
    used: bool


class Bag:
    """An open recording, whose files are copied to ``scratch`` where they cannot be read as they lie.

    Use it as a context manager; one thread only.

    Attributes:
        topics: by name.
        notes: what is odd about the recording, for the report.
        cut_off: why its beginning or its end are known to be missing; empty if they are not.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path, self._scratch = path, scratch
        self.notes: list[str] = []
        self.cut_off = ""

    def __enter__(self) -> Bag:
        self._stack = ExitStack()
        try:
            with bag_errors_naming(self.path, "cannot be read"):
                self._files = self._open_files()
                self._find_topics()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open_files(self) -> list[StorageFile]:
        """The recording's files, at least one, in the order of their messages."""
        if not self.path.is_dir():
            return self._opened([self.path], [])
        found = {plain_name(file.name): file for file in storage_files(self.path)}
        if not found:
            raise BagError(f"{self.path}: no .mcap or .db3 file in it")
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
        path = self.path / METADATA
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
            raise BagError("; ".join(problems) or f"{self.path}: none of its files is there")
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

    def _find_topics(self) -> None:
        own: dict[str, list[Channel]] = {}
        for channel in (channel for file in self._files for channel in file.channels):
            kind = channel.type.replace("/", "/msg/") if channel.type.count("/") == 1 else channel.type  # an old name
            kind += "" if channel.encoding in ("", "cdr") else f" encoded as {channel.encoding}, not as cdr"
            own.setdefault(channel.topic, []).append(channel._replace(type=kind))
        self.topics: dict[str, Topic] = {}
        for name, channels in own.items():
            types = " and ".join(sorted({channel.type for channel in channels}))
            self.topics[name] = Topic(name, types, any(channel.used for channel in channels))
        self._types = Types(channel for channels in own.values() for channel in channels)

    def messages(
        self,
        topics: Collection[str],
        start_ns: int | None = None,
        stop_ns: int | None = None,
        heads: Collection[str] = (),
    ) -> Iterator[Stored]:
        """Messages of these topics received in [start, stop), in order of reception within each file.

        Of those of ``heads`` the beginning is enough; one may get more.
        """
        with bag_errors_naming(self.path):
            # Files that were written at once hold different topics; of those with the same, one follows the other.
            parts = [
                (message for file in files for message in file.messages(topics, start_ns, stop_ns, heads))
                for files in self._side_by_side(topics)
            ]
            for topic, received_ns, data in heapq.merge(*parts, key=_received) if len(parts) > 1 else parts[0]:
                _received(Stored(topic, received_ns, data))
                if data[:4] == ZSTD_MAGIC:  # one by one compressed
                    data = zstd.decompress(data)
                yield Stored(topic, received_ns, data)

    def _side_by_side(self, wanted: Collection[str]) -> list[list[StorageFile]]:
        """The files in groups that share none of these topics: a recording that was split by topic."""
        groups: list[tuple[set[str], list[StorageFile]]] = []
        for file in self._files:
            topics, files = {channel.topic for channel in file.channels if channel.used}.intersection(wanted), [file]
            for group in [group for group in groups if group[0] & topics]:
                topics, files = topics | group[0], [*group[1], *files]
                groups.remove(group)
            groups.append((topics, files))
        return [sorted(files, key=self._files.index) for _, files in groups]

    def deserialize(self, message: Stored) -> Any:
        """The message as an object; an ``UnreadableError`` if its bytes do not fit a type that is known."""
        name = self.topics[message.topic].type
        try:
            return self._types.read(message.data, name)
        except Exception as error:  # whatever reading past an end leads to
            raise UnreadableError(f"{message.topic}: a message cannot be read as {name}: {error}") from error

    def type_notes(self, topics: Collection[str]) -> list[str]:
        """What is odd about the definitions of these topics' types."""
        return self._types.notes({self.topics[topic].type for topic in topics})

    def jumps_back(self, topics: Collection[str]) -> list[tuple[int, int]]:
        """Receive times, ns, that were recorded twice because the recorder's clock was set back: (from, to).

        Files that share none of these topics may well have been written at once.
        """
        with bag_errors_naming(self.path):
            return [jump for files in self._side_by_side(topics) for jump in _jumps_back(files)]


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


def _received(message: Stored) -> int:
    time_ns = message.received_ns
    if not isinstance(time_ns, int) or not 0 <= time_ns < END_OF_TIME_NS:
        raise ValueError(f"a message was received at {time_ns!r}")
    return time_ns


def _jumps_back(files: Collection[StorageFile]) -> list[tuple[int, int]]:
    """The same for files of which one follows the other, by the order in which their messages were written."""
    jumps: list[tuple[int, int]] = []
    newest = -(2**63)
    for start, end in (times for file in files for times in file.written_times()):
        if start < newest - BACK_NS:
            until = newest
            if jumps and start <= jumps[-1][1]:  # still the same jump
                before = jumps.pop()
                start, until = min(start, before[0]), max(until, before[1])
            jumps.append((start, until))
        newest = max(newest, end)
    return jumps
