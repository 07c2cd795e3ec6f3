"""A policy that runs on a server elsewhere, for the node: the same interface, the answers come over the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..observation import PolicyOutput, RobotFrame
from ..policy import CONFIDENCE, PolicyUnavailableError
from ..robots.profile import RobotProfile
from .client import PolicyClient
from .core import RequestError
from .teleavatar import make_request, read_reply

FACTS = ("model_id", "robot", "action_horizon", "action_dt_s")  # that a server must tell, and keep


class WebsocketPolicy:
    """See ``Policy``. It connects when it is made, and again whenever it is asked after a loss.

    Args:
        uri: of the server, ``ws://host:port`` or ``wss://host:port``.
        profile: the robot; must be the server's.
        api_key: see ``PolicyClient``.
        timeout_s: how long an answer is waited for, and a connection.

    Raises:
        PolicyUnavailableError: the server cannot be reached.
        ValueError: the address is none, or the server is for another robot or is not one of this package.
    """

    def __init__(self, uri: str, profile: RobotProfile, *, api_key: str | None = None, timeout_s: float = 2.0) -> None:
        if not uri:
            raise ValueError("server_uri is empty; policy websocket needs it, such as ws://gpu-server:8000")
        self._client = PolicyClient(uri, api_key=api_key, timeout_s=timeout_s, connect_timeout_s=timeout_s)
        self._metadata = self._client.connect()
        if missing := [key for key in FACTS if key not in self._metadata]:
            self.close()
            raise ValueError(f"{uri} does not tell {', '.join(missing)}: is it python -m pi05_progress.serving?")
        if self._metadata["robot"] != profile.name:
            self.close()
            raise ValueError(f"{uri} serves robot {self._metadata['robot']}, the profile is {profile.name}")
        self.model_id: str = self._metadata["model_id"]
        self.horizon: int = self._metadata["action_horizon"]
        self.action_dt_s: float = self._metadata["action_dt_s"]
        self._size = tuple(self._metadata.get("image_size") or ()) or None
        self._confidence = float(self._metadata.get("confidence_level", CONFIDENCE))

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """See ``Policy``.

        Raises:
            PolicyUnavailableError: no connection or no answer in time, or another model is there after a loss. The next
                call tries anew.
            ServerRefusedError: the server could not answer and says why.
        """
        frame.check()
        self._check_same(self._client.connect())
        reply = self._client.exchange(make_request(frame, prompt, self._size))
        try:
            return read_reply(reply, self._confidence)
        except RequestError as error:
            raise PolicyUnavailableError(f"{self._client.uri}: {error}") from error

    def _check_same(self, metadata: Mapping[str, Any]) -> None:
        different = [key for key in FACTS if metadata.get(key) != self._metadata[key]]
        if different:
            told = ", ".join(f"{key} {metadata.get(key)!r} instead of {self._metadata[key]!r}" for key in different)
            self.close()  # to look again the next time
            raise PolicyUnavailableError(f"{self._client.uri} now serves {told}: start anew to use it")

    def warm_up(self) -> None:
        """Nothing to do: a server listens once it is warm."""

    def close(self) -> None:
        """End the connection."""
        self._client.close()
