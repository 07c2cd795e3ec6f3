"""Messages as files hold them, and their types: from the definitions a recording embeds, else from those known here."""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from pi05_progress.robots.message_store import message_store

from .faults import explained

SPARE = 64  # bytes that may follow a message
EVENT_TYPE = "pi05_progress_msgs/msg/EpisodeEvent"
known_types = functools.cache(message_store)  # ROS 2 Jazzy's common types, this project's, and video packets
_IDL_RULE = "=" * 80 + "\n"


class Channel(NamedTuple):
    """A topic in one file: its messages' type with its definition, which format that has, and how they are encoded."""

    id: int
    topic: str
    type: str
    format: str  # ros2msg, ros2idl, ... or nothing
    definition: str
    encoding: str  # of messages
    used: bool  # whether there are any


class Stored(NamedTuple):
    """A serialised message and when it was received, ns since the epoch of the recorder's clock."""

    topic: str
    received_ns: int
    data: bytes | memoryview


class Types:
    """Reads messages of a recording. No definition is parsed before a message of its type is read."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._channels = {channel.type: channel for channel in channels}
        self._stores: dict[str, Typestore] = {}
        self._notes: list[str] = []
        self._lock = threading.Lock()  # cameras' threads read messages, too

    def notes(self, names: Collection[str]) -> list[str]:
        """What is odd about these types' definitions."""
        for name in sorted(names):
            self._store(name)
        return self._notes

    def read(self, data: bytes | memoryview, name: str) -> Any:
        """A message from its bytes; a few bytes too many are no fault.

        rclpy leaves undefined bytes behind a message that ends in empty sequences of 8-byte numbers, as a joint message
        without efforts does; the store's own method refuses those.

        Raises:
            ValueError: too few bytes, or far too many.
            TypesysError: its type is not known.
        """
        with self._lock:
            types = self._store(name)
            definition = types.get_msgdef(name)
        if len(data) < 4 or data[0] or data[1] > 1:
            raise ValueError("its encapsulation is not CDR's")
        body = memoryview(data)[4:]  # a picture is not copied
        function = definition.deserialize_cdr_le if data[1] else definition.deserialize_cdr_be
        message, used = function(body, 0, definition.cls, types)
        if not used <= len(body) <= used + SPARE:
            raise ValueError(f"it has {len(body)} bytes, {used} were expected")
        return message

    def _store(self, name: str) -> Typestore:
        if name not in self._stores:
            store = get_typestore(Stores.EMPTY)
            try:
                store.register(_with_dependencies(name, _embedded(self._channels[name])))
            except Exception as error:  # parsers of definitions raise what they like
                if name not in known_types().fielddefs:
                    raise
                store, why = known_types(), explained(error)
                self._notes.append(f"the recording's definition of {name} cannot be used ({why}); the usual one is")
            self._stores[name] = store
        return self._stores[name]


def _embedded(channel: Channel) -> dict[str, Any]:
    """Types by name that a channel's definition describes; none if it has none in a language that is known."""
    text = channel.definition.replace("\r\n", "\n")
    if channel.format == "ros2msg" and text.strip():
        return get_types_from_msg(text, channel.type)
    if channel.format in ("ros2idl", "omgidl") and text.strip():
        parts = [part.partition("\n")[2] for part in text.split(_IDL_RULE)[1:]]
        types: dict[str, Any] = {}
        for part in parts if text.startswith(f"{_IDL_RULE}IDL: ") else [text]:
            types |= get_types_from_idl(part)
        return types
    return {}


def _with_dependencies(name: str, embedded: dict[str, Any]) -> dict[str, Any]:
    """A type and all that it is made of; what the recording does not describe is taken from the known types."""
    known, types, waiting = known_types().fielddefs, {}, [name]
    while waiting:
        current = waiting.pop()
        if current not in types:
            types[current] = embedded[current] if current in embedded else known.get(current)
            if types[current] is None:
                raise TypesysError(f"the recording has no definition of {current}, and it is not a known type")
            waiting += [part for _, field in types[current][1] for part in _names_in(field)]
    return types


def _names_in(description: Any) -> Iterator[str]:
    """Names of types within a field's description, which nests tuples."""
    if isinstance(description, str):
        yield from [description] if "/" in description else []
    elif isinstance(description, tuple):
        for part in description:
            yield from _names_in(part)
