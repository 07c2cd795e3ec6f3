"""YAML that anybody may have written, read in bounded time: every reader of the project goes through here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from yaml.composer import ComposerError

from ..errors import UserError, one_line

MOST_ALIASED = 100_000  # values that aliases may add to those that are written


class YamlError(UserError):
    """A text cannot be read as YAML; the message says why on one line, ``line`` where, if that is known."""

    line: int | None = None


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of a document, which know their lines; None if it is empty, a ``YamlError`` if it is no YAML, too
    deeply nested, or an alias means itself or far too much."""
    with _one_error():
        return _composed(yaml.SafeLoader(text))


def load_yaml(text: str) -> Any:
    """The data of a document; a ``YamlError`` as of ``compose_yaml``, or if a value does not fit its tag."""
    with _one_error():
        loader = yaml.SafeLoader(text)
        node = _composed(loader)
        return None if node is None else loader.construct_document(node)


@contextmanager
def _one_error() -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise YamlError("values are too deeply nested") from error
    except Exception as error:  # constructors of values raise whatever they like, such as for the date 2026-13-45
        told = YamlError(one_line(getattr(error, "problem", None) or str(error) or type(error).__name__))
        if mark := getattr(error, "problem_mark", None):
            told.line = mark.line + 1
        raise told from error


def _composed(loader: yaml.SafeLoader) -> yaml.Node | None:
    if (node := loader.get_single_node()) is not None:
        _expanded(node, {})
    return node


def _expanded(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node is once every alias has been replaced; ``sizes`` has those of the nodes seen so far."""
    if id(node) not in sizes:
        sizes[id(node)] = 0  # as long as it is not known: what is in it cannot mean it
        values = [] if isinstance(node, yaml.ScalarNode) else node.value
        inside = [child for value in values for child in (value if isinstance(value, tuple) else (value,))]
        sizes[id(node)] = 1 + sum(_expanded(child, sizes) for child in inside)
        if sizes[id(node)] > len(sizes) + MOST_ALIASED:
            raise ComposerError(None, None, "aliases stand for far too many values", node.start_mark)
    elif not sizes[id(node)]:
        raise ComposerError(None, None, "an alias means the value that it is in", node.start_mark)
    return sizes[id(node)]
