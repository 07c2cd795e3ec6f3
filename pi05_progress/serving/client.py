"""A client of the policy server that connects again after a loss and follows progress, and the policy made of it.

The policy is for the node, to which a server is a policy like any other.

    client = PolicyClient("ws://gpu-server:8000")
    reply = client.infer(request)       # actions, progress: openpi's dictionaries
    client.estimate.progress            # filtered, with interval, status and time remaining

It works with openpi's own server, too, which knows no progress. An episode of a data set is played to a server with

    python -m pi05_progress.serving.client --dataset DATASET --episode 0
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from ..errors import UserError, one_line
from ..estimate.estimator import Estimate, ProgressEstimator
from ..estimate.temporal import TemporalHead
from ..observation import UNTRAINED, PolicyOutput, RobotFrame
from ..policy import Noise, OutputChecker, Policy, PolicyUnavailableError, noise_seed
from ..robots.profile import RobotProfile
from .security import authorization, checked_key, read_key
from .teleavatar import PROMPT, AboutProgress, ServerFacts, make_request, read, read_reply, shown
from .wire import RequestError, WireError, pack, unpack

PLAYER = "training.replay_episode"
log = logging.getLogger(__name__)
TELLS = "the server tells"
MAX_REPLY = 2**24  # bytes
CLOSE_TIMEOUT_S = 1.0  # how long the other end may take to agree to an end


class ServerRefusedError(PolicyUnavailableError):
    """The server answered with an error instead of a reply; the message is its text."""


class PolicyClient:
    """One connection to a policy server. Not thread-safe, but for ``close``.

    Args:
        uri: ``ws://host:port``, or ``wss://`` with TLS; authorities of one's own are named by the variable
            SSL_CERT_FILE.
        api_key: to show; None takes the variable PI05_PROGRESS_API_KEY, if it is set.
        timeout_s: how long a request and its reply may take.
        connect_timeout_s: how long a connection is waited for.

    Raises:
        ValueError: the address is none, or the key cannot be one.
    """

    def __init__(
        self, uri: str, *, api_key: str | None = None, timeout_s: float = 10.0, connect_timeout_s: float = 5.0
    ) -> None:
        if not uri.startswith(("ws://", "wss://")):
            raise UserError(f"server address {uri!r}: expected ws://HOST:PORT or wss://HOST:PORT")
        self.uri, self._timeout_s, self._connect_timeout_s = uri, timeout_s, connect_timeout_s
        key = read_key(None) if api_key is None else checked_key(api_key, "api_key")
        self._headers = authorization(key) if key else None
        self._connection: ClientConnection | None = None
        self._waiting = False  # whether a request is under way
        self._estimator, self._checker = ProgressEstimator(), OutputChecker(log.warning)
        self._about: AboutProgress | None = None  # what estimates need of the metadata; None until it is read
        # what the server says of itself, since the last connection; None before the first
        self.metadata: Mapping[str, Any] | None = None
        self.estimate = Estimate()  # progress of the task as the replies so far tell it

    def connect(self) -> Mapping[str, Any]:
        """The server's metadata; connects if there is no connection. A ``PolicyUnavailableError`` where it cannot be
        reached or does not let this client in, a ``ValueError`` where the address is none."""
        if self._connection is not None:
            return self.metadata
        try:
            # Entered, because plain calls are about to get another meaning in websockets.
            connection = connect(
                self.uri, additional_headers=self._headers, compression=None, max_size=MAX_REPLY, proxy=None,
                open_timeout=self._connect_timeout_s, close_timeout=CLOSE_TIMEOUT_S,
            ).__enter__()  # fmt: skip
        except ssl.SSLError as error:  # before ValueError, which a certificate that is not trusted also is
            remedy = "does it speak TLS? ws:// is without"
            if isinstance(error, ssl.SSLCertVerificationError):
                remedy = "clients trust the system's authorities; for one of your own set SSL_CERT_FILE"
            raise PolicyUnavailableError(f"no TLS with {self.uri}: {_reason(error)}; {remedy}") from error
        except (InvalidURI, ValueError) as error:
            raise UserError(f"server address {self.uri!r}: {error}") from error
        except InvalidStatus as error:
            body = one_line((error.response.body or b"").decode(errors="replace").strip())
            raise PolicyUnavailableError(
                f"{self.uri} refused the connection: {error.response.status_code} {body}"
            ) from error
        # The library fails by an assertion where the other side talks and hangs up before it was asked anything.
        except (OSError, TimeoutError, InvalidHandshake, WebSocketException, AssertionError) as error:
            raise PolicyUnavailableError(
                f"no policy server at {self.uri}: {_reason(error)}; is it running, and has it compiled?"
            ) from error
        self._connection = connection
        metadata = self._talk(connection, self._connect_timeout_s)
        if not isinstance(metadata, Mapping):
            self._drop(connection)
            raise PolicyUnavailableError(f"{self.uri}: not a policy server, it begins with {type(metadata).__name__}")
        self.metadata, self._about = metadata, None
        return metadata

    def infer(self, request: Mapping[str, Any], stamp_s: float | None = None) -> dict[str, Any]:
        """The server's reply; ``estimate`` then includes it, unless its progress cannot be used: that is logged.

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
        if not isinstance(reply, Mapping) or "progress" not in reply:  # a server of openpi's
            self.reset()
            return reply
        try:
            if self._about is None:
                about = read(AboutProgress, self.metadata, TELLS)
                if about.temporal_head != self._estimator.temporal_head:
                    self._estimator = ProgressEstimator(temporal_head=about.temporal_head)
                self._about, self._estimator.durations_s = about, about.durations_s
            output = read_reply(reply, self._about.confidence_level)
        except (RequestError, UserError) as error:
            self.reset()
            raise PolicyUnavailableError(f"{self.uri}: {error}") from error
        trained = self.metadata.get("model_id") != UNTRAINED
        output = self._checker.with_usable_progress(output)
        self.estimate = self._estimator.update(now_s, output, str(request.get(PROMPT, "")), trained)
        return reply

    def exchange(self, request: Mapping[str, Any]) -> Any:
        """The server's reply, without looking into it; raises as ``infer``."""
        data = pack(request)
        self._waiting = True
        try:
            self.connect()
            if (connection := self._connection) is None:  # closed by another thread
                raise PolicyUnavailableError(f"the connection to {self.uri} is closed")
            return self._talk(connection, self._timeout_s, data)
        finally:
            self._waiting = False

    def reset(self) -> None:
        """Begin the estimate anew."""
        self._estimator.reset()
        self.estimate = Estimate()

    def close(self) -> None:
        """End the connection, at once if a request is under way, which then fails; the next request makes another.

        Any thread may call it.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            _hang_up(connection) if self._waiting else _close(connection)

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _talk(self, connection: ClientConnection, limit_s: float, request: bytes | None = None) -> Any:
        """Send a request, if one is given, and receive what the server says next; both in so many seconds."""
        late, failure = threading.Event(), "did not take the request"
        try:
            with _limited(connection, limit_s, late):
                if request is not None:
                    # Before it nothing may have come, else every reply would be taken for that of the next request.
                    with contextlib.suppress(TimeoutError):
                        connection.recv(0)
                        raise PolicyUnavailableError(
                            f"{self.uri} sent something that nobody asked for: it is left, to begin anew"
                        )
                    connection.send(request)
                failure = "did not answer"
                message = connection.recv()
            if isinstance(message, str):
                _close(connection)
                raise ServerRefusedError(f"{self.uri}: {one_line(message)}")
            return unpack(message)
        except WireError as error:
            self._drop(connection)
            raise PolicyUnavailableError(f"{self.uri} sent something else than a reply: {error}") from error
        except PolicyUnavailableError:
            self._drop(connection)
            raise
        except (OSError, WebSocketException) as error:
            self._drop(connection)
            if late.is_set():
                raise PolicyUnavailableError(f"{self.uri} {failure} within {limit_s:g} s") from error
            raise PolicyUnavailableError(f"the connection to {self.uri} is lost: {_reason(error)}") from error

    def _drop(self, connection: ClientConnection) -> None:
        if self._connection is connection:
            self._connection = None
        _hang_up(connection)


def _hang_up(connection: ClientConnection) -> None:
    """End a connection without the ceremony that its other end may no longer take part in."""
    # First, because whoever is sending holds what close_socket needs; this makes it fail. Not by the method of a socket
    # with TLS, which ends the encryption before the sending.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection.socket, socket.SHUT_RDWR)
    connection.close_socket()


def _close(connection: ClientConnection) -> None:
    with _limited(connection, 2 * CLOSE_TIMEOUT_S, threading.Event()):
        connection.close()


@contextlib.contextmanager
def _limited(connection: ClientConnection, seconds: float, late: threading.Event) -> Iterator[None]:
    """Hang up if the body takes longer, and set ``late``.

    A time-out of the socket would not do: the library needs it for reading, and TLS waits beyond it.
    """

    def hang_up() -> None:
        late.set()
        _hang_up(connection)

    watch = threading.Timer(seconds, hang_up)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)


class WebsocketPolicy(Policy):
    """See ``Policy``. It connects when it is made, and again whenever it is asked after a loss.

    Args:
        uri, api_key: see ``PolicyClient``.
        profile: the robot; must be the server's.
        timeout_s: how long an answer is waited for, and a connection.
        noise: that actions start from; ``fresh`` leaves that to the server.
        seed: of the first episode's noise, see ``restart``.

    Raises:
        PolicyUnavailableError: the server cannot be reached.
        ValueError: the address or the key cannot be used, the server is for another robot or is not one of this
            package, or what it tells of itself makes no sense.
    """

    def __init__(
        self, uri: str, profile: RobotProfile, *, api_key: str | None = None, timeout_s: float = 2.0,
        noise: Noise = "fresh", seed: int = 0,
    ) -> None:  # fmt: skip
        if not uri:
            raise UserError("server_uri is empty; policy websocket needs it, such as ws://gpu-server:8000")
        self._client = PolicyClient(uri, api_key=api_key, timeout_s=timeout_s, connect_timeout_s=timeout_s)
        self._metadata = self._client.connect()  # that was compared last
        try:
            self._facts = read(ServerFacts, self._metadata, TELLS)
            if self._facts.temporal_head:
                TemporalHead(self._facts.temporal_head)  # refused here, before a robot moves
        except (RequestError, UserError) as error:
            self.close()
            raise UserError(f"{uri}: {error}") from error
        if self._facts.robot != profile.name:
            self.close()
            raise UserError(f"{uri} serves robot {self._facts.robot}, the profile is {profile.name}")
        told, self._noise = self._facts, noise
        self.model_id, self.horizon, self.action_dt_s = told.model_id, told.action_horizon, told.action_dt_s
        self.image_size, self.durations_s, self.temporal_head = told.image_size, told.durations_s, told.temporal_head
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Begin an episode; the noise of its actions is that of a policy made with this seed, unless it is fresh."""
        self._noise_seed = noise_seed(self._noise, seed)

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """See ``Policy``; raises as ``PolicyClient.infer``, and where another model is there after a loss."""
        frame.check()
        if (metadata := self._client.connect()) is not self._metadata:  # another connection
            self._check_same(metadata)
            self._metadata = metadata
        reply = self._client.exchange(make_request(frame, prompt, self._facts.image_size, self._noise_seed))
        try:
            return read_reply(reply, self._facts.confidence_level)
        except RequestError as error:
            raise PolicyUnavailableError(f"{self._client.uri}: {error}") from error

    def _check_same(self, metadata: Mapping[str, Any]) -> None:
        try:
            now = read(ServerFacts, metadata, TELLS)
        except RequestError as error:
            self.close()
            raise PolicyUnavailableError(f"{self._client.uri}: {error}") from error
        if now != self._facts:
            pairs = zip(now, self._facts, strict=True)
            told = ", ".join(
                f"{key} {shown(new)} instead of {shown(old)}" for (key, new), (_, old) in pairs if new != old
            )
            self.close()  # to look again the next time
            raise PolicyUnavailableError(f"{self._client.uri} now serves {told}: start anew to use it")

    def warm_up(self) -> None:
        """Nothing to do: a server listens once it is warm."""

    def close(self) -> None:
        """End the connection; at once, if an answer is being waited for. Any thread may call it."""
        self._client.close()


def main() -> int:
    """Play an episode of a data set to a server: leads to ``training/replay_episode.py``, which reads data sets."""
    try:
        return importlib.import_module(PLAYER).main()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        remedy = "run it in the root of a checkout" if missing == "training" else "pip install -e .[data]"
        print(f"error: it reads data sets, for which {missing} is missing: {remedy}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
