"""YAML that remembers where each value stands, so that an error can name file, line and key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, one_line
from ..files.config_files import config_folder
from ..files.yaml_text import YamlError, compose_yaml, load_yaml

Key = tuple[str | int, ...]


class ConfigError(UserError):
    """A configuration file is unreadable or holds something wrong; the message names file, line and key."""


@dataclass(frozen=True)
class Document:
    """Data of a file, and of those it extends, with the place of every key."""

    path: Path
    data: dict[str, Any]
    places: dict[Key, tuple[Path, int]]

    def where(self, key: Key) -> str:
        """``file:line: key`` of a value, or of the nearest enclosing one that is written down."""
        parent = key
        while parent and parent not in self.places:
            parent = parent[:-1]
        path, line = self.places.get(parent, (self.path, 1))
        return f"{path}:{line}: {one_line('.'.join(map(str, key)), 200) or 'file'}"


def read_document(path: Path, seen: tuple[Path, ...] = ()) -> Document:
    """Read a file; its ``extends`` names another whose mappings it adds to and whose values it replaces.

    That lies beside it, or is a shipped one, whose name may go without ``.yaml``. A ``ConfigError``: a file is missing,
    not YAML, not a mapping, a key is given twice, or files extend each other in a circle.
    """
    if any(path.samefile(other) for other in seen if path.exists()):
        raise ConfigError(f"{path}: extends itself through {' -> '.join(p.name for p in seen)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(one_line(f"{path}: cannot be read: {error}")) from error
    try:
        node, data = compose_yaml(text), load_yaml(text)
    except YamlError as error:
        raise ConfigError(f"{path}{f':{error.line}' if error.line else ''}: not valid YAML: {error}") from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(data, dict):
        raise ConfigError(f"{path}:1: expected keys and values, found {node.tag if node else 'an empty file'}")
    places: dict[Key, tuple[Path, int]] = {}
    _note(node, (), path, places)
    if "extends" not in data:
        return Document(path, data, places)
    base = read_document(_extended(path, str(data.pop("extends"))), (*seen, path))
    return Document(path, _merged(base.data, data), base.places | places)


def _extended(path: Path, name: str) -> Path:
    """The file that another one extends: beside it, else a shipped one of that name."""
    beside = path.parent / name
    shipped = config_folder() / f"{name.removesuffix('.yaml')}.yaml"
    own = beside.exists() and beside.samefile(path)  # a profile of a shipped one's name may extend that
    return shipped if shipped.exists() and (own or not beside.exists()) and not shipped.samefile(path) else beside


def _note(node: yaml.Node, key: Key, path: Path, places: dict[Key, tuple[Path, int]]) -> None:
    if isinstance(node, yaml.ScalarNode):
        return
    named = isinstance(node, yaml.MappingNode)
    for index, entry in enumerate(node.value):
        name, value = entry if named else (entry, entry)
        child, line = (*key, str(name.value) if named else index), name.start_mark.line + 1
        if child in places:
            raise ConfigError(f"{path}:{line}: {one_line('.'.join(map(str, child)))}: given twice")
        places[child] = (path, line)
        _note(value, child, path, places)


def _merged(base: Any, change: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    return {**base, **{key: _merged(base.get(key), value) for key, value in change.items()}}
