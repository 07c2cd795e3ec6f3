"""A policy that runs on a server elsewhere, for the node: the same interface, the answers come over the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..observation import PolicyOutput, RobotFrame
from ..policy import Policy, PolicyUnavailableError
from ..robots.profile import RobotProfile
from .client import PolicyClient
from .core import RequestError
from .teleavatar import ServerFacts, make_request, read, read_reply

TELLS = "the server tells"


class WebsocketPolicy(Policy):
    """See ``Policy``. It connects when it is made, and again whenever it is asked after a loss.

    Args:
        uri: of the server, ``ws://host:port`` or ``wss://host:port``.
        profile: the robot; must be the server's.
        api_key: see ``PolicyClient``.
        timeout_s: how long an answer is waited for, and a connection.

    Raises:
        PolicyUnavailableError: the server cannot be reached.
        ValueError: the address or the key cannot be used, the server is for another robot or is not one of this
            package, or what it tells of itself makes no sense.
    """

    def __init__(self, uri: str, profile: RobotProfile, *, api_key: str | None = None, timeout_s: float = 2.0) -> None:
        if not uri:
            raise UserError("server_uri is empty; policy websocket needs it, such as ws://gpu-server:8000")
        self._client = PolicyClient(uri, api_key=api_key, timeout_s=timeout_s, connect_timeout_s=timeout_s)
        metadata = self._client.connect()
        try:
            self._facts = read(ServerFacts, metadata, TELLS)
        except RequestError as error:
            self.close()
            raise UserError(f"{uri}: {error}") from error
        if self._facts.robot != profile.name:
            self.close()
            raise UserError(f"{uri} serves robot {self._facts.robot}, the profile is {profile.name}")
        self.model_id: str = self._facts.model_id
        self.horizon: int = self._facts.action_horizon
        self.action_dt_s: float = self._facts.action_dt_s
        self.image_size: tuple[int, int] | None = self._facts.image_size
        self.durations_s = self._facts.durations_s

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """See ``Policy``.

        Raises:
            PolicyUnavailableError: no connection or no answer in time, or another model is there after a loss. The next
                call tries anew.
            ServerRefusedError: the server could not answer and says why.
        """
        frame.check()
        self._check_same(self._client.connect())
        reply = self._client.exchange(make_request(frame, prompt, self._facts.image_size))
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
            told = ", ".join(f"{key} {new!r} instead of {old!r}" for (key, new), (_, old) in pairs if new != old)
            self.close()  # to look again the next time
            raise PolicyUnavailableError(f"{self._client.uri} now serves {told}: start anew to use it")

    def warm_up(self) -> None:
        """Nothing to do: a server listens once it is warm."""

    def close(self) -> None:
        """End the connection; at once, if an answer is being waited for. Any thread may call it."""
        self._client.close()
