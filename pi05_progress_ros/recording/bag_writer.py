"""One rosbag2 MCAP bag, written beside its place and moved there when it is complete. Needs no rosbag2.

Message definitions are embedded. What was written so far can be read after a kill, too: the file lies in ``.partial``
then, and lacks only its index and what was in the last megabyte.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rosbags.interfaces import Connection, Nodetype
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import TypesysError, get_types_from_msg
from rosbags.typesys.store import Typestore

from pi05_progress.errors import UserError

PARTIAL = ".partial"  # folder beside the finished bags
BAG_VERSION = 9  # of metadata.yaml, as ROS 2 Jazzy writes it


def learn_type(store: Typestore, name: str) -> None:
    """Make a type and those in it known, from installed message files; a ``UserError`` if one is missing or wrong."""
    types, waiting = {}, [name]
    while waiting:
        wanted = waiting.pop()
        if wanted in store.fielddefs or wanted in types:
            continue
        text = _definition(wanted)
        try:
            found = get_types_from_msg(text, wanted)
        except (TypesysError, SyntaxError, ValueError) as error:
            raise UserError(f"{name}: the definition of {wanted} cannot be understood: {error}") from error
        types |= found
        waiting += [part for _, fields in found.values() for _, field in fields for part in _names(field)]
    if types:
        store.register(types)


def _definition(name: str) -> str:
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    package, kind, message = name.split("/")
    try:
        path = Path(get_package_share_directory(package), kind, f"{message}.msg")
        return path.read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError) as error:
        raise UserError(
            f"{name}: its definition is needed beside its messages, and {package} has no {kind}/{message}.msg "
            f"({error}); source the workspace that has the package"
        ) from error


def _names(field: tuple) -> list[str]:
    """Names of the types in a field's description."""
    kind, content = field
    if kind == Nodetype.NAME:
        return [content]
    return _names(content[0]) if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE) else []


def type_name(message_type: type) -> str:
    """ROS's name of a message class, ``package/msg/Name``."""
    return f"{message_type.__module__.partition('.')[0]}/msg/{message_type.__name__}"


class BagWriter:
    """A bag that is being written; end it with ``finish`` or ``discard``.

    Raises:
        FileExistsError: the folder, or a part of it left by a killed process, is already there.
    """

    def __init__(self, path: Path, store: Typestore) -> None:
        self.path, self._store = path, store
        self.partial = path.parent / PARTIAL / path.name  # the file in a bag is named after its folder
        for folder in (path, self.partial):
            if folder.exists():
                raise FileExistsError(f"{folder} is already there")
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(self.partial, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()

    def add_topic(self, topic: str, message_type: str) -> Connection:
        """Declare a topic; a KeyError if the definition of its type is not known."""
        return self._writer.add_connection(topic, message_type, typestore=self._store)

    def write(self, connection: Connection, time_ns: int, data: bytes) -> None:
        """Store one serialised message under a time."""
        self._writer.write(connection, time_ns, data)

    def finish(self) -> Path:
        """Complete the bag and move it to its place; returns where it is."""
        self._writer.close()
        os.replace(self.partial, self.path)
        return self.path

    def discard(self) -> None:
        """Remove what was written."""
        self._writer.close()
        shutil.rmtree(self.partial, ignore_errors=True)
