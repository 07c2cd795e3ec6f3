"""Types of the messages in a bag: from the definitions it embeds, else from those known here."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from pi05_progress.robots.message_store import message_store
from pi05_progress.robots.profile import PACKET_TYPE

SPARE = 64  # bytes that may follow a message
EVENT_TYPE = "pi05_progress_msgs/msg/EpisodeEvent"
# Old sqlite3 bags embed no definitions, so this type's fields stand here.
_PACKET = """std_msgs/Header header
int32 width
int32 height
string encoding
uint64 pts
uint8 flags
bool is_bigendian
uint8[] data
"""
_IDL_RULE = "=" * 80 + "\n"


@functools.cache
def known_types() -> Typestore:
    """ROS 2 Jazzy's common types, this project's, and video packets."""
    store = message_store()
    store.register(get_types_from_msg(_PACKET, PACKET_TYPE))
    return store


def bag_types(connections: Iterable[Connection]) -> tuple[Typestore, dict[str, str]]:
    """The types of these connections, embedded definitions first.

    Returns:
        The store, and per type that cannot be read the reason: a bag may well hold topics nobody asks for.
    """
    types: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for connection in connections:
        name = connection.msgtype
        if name in types or name in problems:
            continue
        try:
            types |= _embedded(connection) or _known(name)
        except Exception as error:  # parsers of definitions raise what they like
            problems[name] = str(error).strip() or type(error).__name__
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(types)
    except (TypesysError, NameError, SyntaxError) as error:
        problems |= {name: f"the bag's definitions cannot be used: {error}" for name in types}
    return store, problems


def _embedded(connection: Connection) -> dict[str, Any]:
    definition = connection.msgdef
    if definition.format == MessageDefinitionFormat.MSG and definition.data.strip():
        return get_types_from_msg(definition.data, connection.msgtype)
    if definition.format == MessageDefinitionFormat.IDL and definition.data.strip():
        if not definition.data.startswith(f"{_IDL_RULE}IDL: "):
            return get_types_from_idl(definition.data)
        types: dict[str, Any] = {}
        for part in definition.data.split(_IDL_RULE)[1:]:
            types |= get_types_from_idl(part.partition("\n")[2])
        return types
    return {}


def _known(name: str) -> dict[str, Any]:
    fields = known_types().fielddefs
    if name not in fields:
        raise TypesysError(f"the bag embeds no definition of {name}, and it is not among the known types")
    types: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in types:
            continue
        types[current] = fields[current]
        waiting += [part for _, description in fields[current][1] for part in _names_in(description) if part in fields]
    return types


def _names_in(description: Any) -> list[str]:
    """Type names within a field's description, which nests tuples."""
    if isinstance(description, str):
        return [description]
    return [name for part in description if isinstance(part, tuple | str) for name in _names_in(part)]


def deserialized(types: Typestore, data: bytes, name: str) -> Any:
    """A message from its bytes; a few bytes too many are no fault.

    rclpy leaves undefined bytes behind a message that ends in empty sequences of 8-byte numbers, as a joint message
    without efforts does; the store's own method refuses those.

    Raises:
        ValueError: too few bytes, or far too many.
    """
    definition = types.get_msgdef(name)
    if len(data) < 4 or data[0] or data[1] > 1:
        raise ValueError("its encapsulation is not CDR's")
    body = memoryview(data)[4:]  # a picture is not copied
    function = definition.deserialize_cdr_le if data[1] else definition.deserialize_cdr_be
    message, used = function(body, 0, definition.cls, types)
    if not used <= len(body) <= used + SPARE:
        raise ValueError(f"it has {len(body)} bytes, {used} were expected")
    return message
