"""The server's core: a dictionary in, a dictionary out. It knows no robot, no model and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class RequestError(ValueError):
    """A request cannot be answered as it is; the message names the key, what was found and what was expected."""


class AnswerError(RuntimeError):
    """A request was fine, but its answer cannot be passed on; the message says why."""


class Responder(Protocol):
    """What answers requests."""

    metadata: Mapping[str, Any]  # what a client is told first
    batch_sizes: tuple[int, ...]  # how many requests may be answered together, in order

    def prepare(self, request: Mapping[str, Any]) -> Any:
        """Check a request and do what needs no device. Several threads may call it at once.

        Raises:
            RequestError: the request cannot be answered.
        """

    def answer(self, prepared: Sequence[Any]) -> list[dict[str, Any] | AnswerError]:
        """Replies to at most ``batch_sizes[-1]`` prepared requests. Only one thread calls it."""

    def warm_up(self) -> None:
        """Do what makes the first answer slow."""
