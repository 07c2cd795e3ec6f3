"""A robot's policy as the server's core. It keeps no estimate: filtering is its clients' business."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..observation import CONFIDENCE_LEVEL, UNTRAINED, ObservationError, PolicyOutput, RobotFrame
from ..policy import ModelPolicy, Policy
from ..robots.layout import LayoutError
from ..robots.profile import RobotProfile
from .core import AnswerError, RequestError
from .teleavatar import make_reply, read_request

log = logging.getLogger(__name__)


class PolicyResponder:
    """See the module's docstring.

    Args:
        policy: what answers. A ``ModelPolicy`` answers several requests together as far as its ``batch_sizes`` go;
            others are asked for one after the other.
        profile: the robot.
        default_prompt: the instruction of requests that have none.
        extra_metadata: what else a client is told first.
    """

    def __init__(
        self,
        policy: Policy,
        profile: RobotProfile,
        *,
        default_prompt: str = "",
        extra_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._policy, self._profile, self._default_prompt = policy, profile, default_prompt
        self._batched = policy if isinstance(policy, ModelPolicy) else None
        self._said_why: set[str] = set()
        self.batch_sizes = self._batched.batch_sizes if self._batched else (1,)
        self.metadata = {
            "model_id": policy.model_id,
            "robot": profile.name,
            "cameras": list(profile.cameras),
            "action_horizon": policy.horizon,
            "action_dt_s": policy.action_dt_s,
            "image_size": list(self._batched.image_size) if self._batched else None,
            "confidence_level": CONFIDENCE_LEVEL,
            **(extra_metadata or {}),
        }

    def prepare(self, request: Mapping[str, Any]) -> Any:
        """See ``Responder``."""
        frame, prompt = read_request(request, self._profile, self._default_prompt)
        if not self._batched:
            return frame, prompt
        try:
            return self._batched.prepare(frame, prompt)
        except (ObservationError, LayoutError) as error:
            raise RequestError(str(error)) from error

    def answer(self, prepared: Sequence[Any]) -> list[dict[str, Any] | AnswerError]:
        """See ``Responder``; an error stands for actions that are not finite or not (horizon, n).

        Raises:
            RequestError: the policy cannot use what a request holds; a ``ModelPolicy`` finds out in ``prepare``.
        """
        if self._batched:
            outputs = self._batched.infer_prepared(prepared)
        else:
            outputs = [self._infer(frame, prompt) for frame, prompt in prepared]
        return [self._reply(output) for output in outputs]

    def _infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        try:
            return self._policy.infer(frame, prompt)
        except (ObservationError, LayoutError) as error:
            raise RequestError(str(error)) from error

    def _reply(self, output: PolicyOutput) -> dict[str, Any] | AnswerError:
        """The reply, its progress nil if it cannot be used; why is logged once."""
        expected = (self._policy.horizon, self._profile.layout.action_size)
        if output.actions.shape != expected or not np.isfinite(output.actions).all():
            found = f"{output.actions.dtype}{list(output.actions.shape)}"
            return AnswerError(f"the policy's actions are {found}; expected finite numbers {list(expected)}")
        numbers = (output.progress, *(output.progress_interval or ()))
        if output.progress is None:
            self._say("none", "the model has no progress head, or the policy gives none")
        elif not all(math.isfinite(number) and 0 <= number <= 1 for number in numbers):
            kind = "outside [0, 1]" if all(map(math.isfinite, numbers)) else "not finite"
            self._say(kind, f"the model's progress is {output.progress}, interval {output.progress_interval}")
            output = replace(output, progress=None, progress_interval=None)
        return make_reply(output)

    def _say(self, kind: str, why: str) -> None:
        if kind not in self._said_why:
            log.warning("no progress in replies (said once): %s; actions are sent all the same", why)
        self._said_why.add(kind)

    def warm_up(self) -> None:
        """See ``Responder``."""
        self._policy.warm_up()
        if self._policy.model_id == UNTRAINED:
            log.warning("the model is untrained: progress and actions in its replies mean nothing; give --checkpoint")
        if self._batched:  # once through everything, also what is not the model's
            blank = {key: np.zeros((*self._batched.image_size, 3), np.uint8) for key in self._profile.cameras}
            self._batched.prepare(RobotFrame(blank, np.zeros(self._profile.vector_size, np.float32)), "warm up")
