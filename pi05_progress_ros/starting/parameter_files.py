"""ROS parameter files: reading what one says to a node, and writing one. No ROS in here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pi05_progress.errors import UserError
from pi05_progress.files.yaml_text import load_yaml

from .processes import Process


def write_parameters(process: Process, path: Path) -> None:
    """Write a node's parameters, every text quoted so that ROS takes ``1e3`` or ``on`` for text, too."""
    content = {process.full_name: {"ros__parameters": dict(process.parameters)}}
    path.write_text(yaml.dump(content, Dumper=_Quoting, allow_unicode=True, width=10**6), encoding="utf-8")


class _Quoting(yaml.SafeDumper):
    """Quotes every text; PyYAML and ROS do not agree on which ones are numbers."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def file_parameters(path: str, full_name: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Some of the parameters that a ROS parameter file gives to a node.

    Raises:
        UserError: the file cannot be read, or gives one of them in two places.
    """
    if not path:
        return {}
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"params_file:={path}: cannot be read: {error}") from error
    found: dict[str, Any] = {}
    for pattern, section in _sections(content, ""):
        if not _matches(pattern, full_name):
            continue
        for name in names:
            if name in section and name in found:
                raise UserError(f"params_file:={path}: {name} is given to {full_name} more than once")
            if name in section:
                found[name] = section[name]
    return found


def _sections(content: Any, prefix: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Pairs of a node's name, which may hold wildcards, and its parameters."""
    if not isinstance(content, dict):
        return []
    found = []
    for key, value in content.items():
        if key == "ros__parameters" and isinstance(value, dict):
            found.append((prefix, value))
        else:
            found += _sections(value, f"{prefix}/{str(key).strip('/')}")
    return found


def _matches(pattern: str, full_name: str) -> bool:
    """Whether a node is meant: ``*`` stands for one name, ``**`` for any number of them."""
    parts = {"**": r"(/\w+)*", "*": r"/\w+"}
    expression = "".join(parts.get(part, f"/{re.escape(part)}") for part in pattern.strip("/").split("/"))
    return re.fullmatch(expression, full_name) is not None
