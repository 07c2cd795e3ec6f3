"""A client of the policy server, with time-outs, that connects again after a loss and follows the task's progress.

    client = PolicyClient("ws://gpu-server:8000")
    reply = client.infer(request)       # actions, progress: openpi's dictionaries
    client.estimate.progress            # filtered, with interval, status and time remaining

It works with openpi's own server, too, which knows no progress. An episode of a data set is played to a server with

    python -m pi05_progress.serving.client --dataset DATASET --episode 0
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from ..estimator import Estimate, ProgressEstimator
from ..policy import CONFIDENCE, UNTRAINED, PolicyUnavailableError
from .core import RequestError
from .security import KEY_VARIABLE, authorization
from .teleavatar import PROMPT, read_reply
from .wire import WireError, pack, unpack

PLAYER = "training.replay_episode"
MAX_REPLY = 2**24  # bytes


class ServerRefusedError(PolicyUnavailableError):
    """The server answered with an error instead of a reply; the message is its text."""


class PolicyClient:
    """One connection to a policy server. Not thread-safe.

    Args:
        uri: ``ws://host:port``, or ``wss://`` with TLS; authorities of one's own are named by the variable
            SSL_CERT_FILE.
        api_key: to show; None takes the variable PI05_PROGRESS_API_KEY, if it is set.
        timeout_s: how long a reply is waited for.
        connect_timeout_s: how long a connection is waited for.

    Attributes:
        uri: as given.
        metadata: what the server says of itself, since the last connection; None before the first.
        estimate: progress of the task as the replies so far tell it.

    Raises:
        ValueError: the address is none.
    """

    def __init__(
        self, uri: str, *, api_key: str | None = None, timeout_s: float = 10.0, connect_timeout_s: float = 5.0
    ) -> None:
        if not uri.startswith(("ws://", "wss://")):
            raise ValueError(f"server address {uri!r}: expected ws://HOST:PORT or wss://HOST:PORT")
        self.uri, self._timeout_s, self._connect_timeout_s = uri, timeout_s, connect_timeout_s
        key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        self._headers = authorization(key) if key else None
        self._connection: ClientConnection | None = None
        self._estimator = ProgressEstimator()
        self.metadata: Mapping[str, Any] | None = None
        self.estimate = Estimate()

    def connect(self) -> Mapping[str, Any]:
        """The server's metadata; connects if there is no connection.

        Raises:
            PolicyUnavailableError: it cannot be reached, or does not let this client in.
            ValueError: the address is none.
        """
        if self._connection is not None:
            return self.metadata
        try:
            # Entered, because plain calls are about to get another meaning in websockets.
            connection = connect(
                self.uri, additional_headers=self._headers, compression=None, max_size=MAX_REPLY, proxy=None,
                open_timeout=self._connect_timeout_s, close_timeout=1.0,
            ).__enter__()  # fmt: skip
        except (InvalidURI, ValueError) as error:
            raise ValueError(f"server address {self.uri!r}: {error}") from error
        except InvalidStatus as error:
            body = (error.response.body or b"").decode(errors="replace").strip()
            raise PolicyUnavailableError(
                f"{self.uri} refused the connection: {error.response.status_code} {body}"
            ) from error
        # The library fails by an assertion where the other side talks and hangs up before it was asked anything.
        except (OSError, TimeoutError, InvalidHandshake, WebSocketException, AssertionError) as error:
            raise PolicyUnavailableError(
                f"no policy server at {self.uri}: {_reason(error)}; is it running, and has it compiled?"
            ) from error
        self._connection = connection
        metadata = self._receive(self._connect_timeout_s)
        if not isinstance(metadata, Mapping):
            self.close()
            raise PolicyUnavailableError(f"{self.uri}: not a policy server, it begins with {type(metadata).__name__}")
        self.metadata = metadata
        return metadata

    def infer(self, request: Mapping[str, Any], stamp_s: float | None = None) -> dict[str, Any]:
        """The server's reply; ``estimate`` then includes it.

        Args:
            request: openpi's dictionary.
            stamp_s: when the observation was made, s of any clock; None takes now.

        Raises:
            PolicyUnavailableError: no connection, or no reply in time. The next call connects anew.
            ServerRefusedError: the server could not answer and says why.
            WireError: the request holds something that cannot be sent.
        """
        reply = self.exchange(request)
        now_s = time.monotonic() if stamp_s is None else stamp_s
        try:
            output = read_reply(reply, float(self.metadata.get("confidence_level", CONFIDENCE)))
        except RequestError:  # another robot's reply, without what the estimator needs
            self.estimate = Estimate()
            return reply
        trained = self.metadata.get("model_id") != UNTRAINED
        self.estimate = self._estimator.update(now_s, output, str(request.get(PROMPT, "")), trained)
        return reply

    def exchange(self, request: Mapping[str, Any]) -> Any:
        """The server's reply, without looking into it; raises as ``infer``."""
        data = pack(request)
        self.connect()
        try:
            self._connection.send(data)
        except (OSError, WebSocketException) as error:
            self._drop()
            raise PolicyUnavailableError(f"the connection to {self.uri} is lost: {_reason(error)}") from error
        return self._receive(self._timeout_s)

    def reset(self) -> None:
        """Begin the estimate anew."""
        self._estimator.reset()
        self.estimate = Estimate()

    def close(self) -> None:
        """End the connection; the next request makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self, timeout_s: float) -> Any:
        try:
            message = self._connection.recv(timeout_s)
        except TimeoutError as error:
            self._drop()  # else the reply would be taken for that of the next request
            raise PolicyUnavailableError(f"{self.uri} did not answer within {timeout_s:g} s") from error
        except (OSError, WebSocketException) as error:
            self._drop()
            raise PolicyUnavailableError(f"the connection to {self.uri} is lost: {_reason(error)}") from error
        if isinstance(message, str):
            self.close()
            raise ServerRefusedError(f"{self.uri}: {message}")
        try:
            return unpack(message)
        except WireError as error:
            self._drop()
            raise PolicyUnavailableError(f"{self.uri} sent something else than a reply: {error}") from error

    def _drop(self) -> None:
        """End a connection without the ceremony that its other end may no longer take part in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close_socket()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def main() -> int:
    """Play an episode of a data set to a server: leads to ``training/replay_episode.py``, which reads data sets."""
    try:
        player = importlib.import_module(PLAYER)
    except ModuleNotFoundError as error:
        if error.name is not None and not error.name.startswith("training"):
            remedy = f"the package {error.name} is missing: install the extra data, pip install -e .[data]"
        else:
            remedy = "it reads data sets with training/, which is not installed: run it in the root of a checkout"
        print(f"error: {remedy}", file=sys.stderr)
        return 1
    return player.main()


if __name__ == "__main__":
    sys.exit(main())
