"""A robot's policy as what the server asks: a dictionary in, a dictionary out. It keeps no estimate: filtering is its
clients' business."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..observation import CONFIDENCE_LEVEL, UNTRAINED, ObservationError, PolicyOutput, RobotFrame
from ..policy import OutputChecker, OutputError, Policy
from ..robots.layout import LayoutError
from ..robots.profile import RobotProfile
from .teleavatar import make_reply, read_noise_seed, read_request
from .wire import AnswerError, RequestError

UNUSABLE = (ObservationError, LayoutError)  # what the policy says of a request is told to its client
log = logging.getLogger(__name__)


class PolicyResponder:
    """See the module's docstring.

    Args:
        policy: what answers; several requests together, as far as its ``batch_sizes`` go.
        default_prompt: the instruction of requests that have none.
        extra_metadata: what else a client is told first.
    """

    def __init__(
        self,
        policy: Policy,
        profile: RobotProfile,
        *,
        default_prompt: str = "",
        extra_metadata: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._policy, self._profile, self._default_prompt = policy, profile, default_prompt
        self._checker = OutputChecker(log.warning)
        self.batch_sizes = policy.batch_sizes
        self.metadata = {  # what a client is told first
            "model_id": policy.model_id,
            "robot": profile.name,
            "cameras": list(profile.cameras),
            "action_horizon": policy.horizon,
            "action_dt_s": policy.action_dt_s,
            "image_size": None if policy.image_size is None else list(policy.image_size),
            "confidence_level": CONFIDENCE_LEVEL,
            "durations_s": dict(policy.durations_s),
            **({"temporal_head": policy.temporal_head} if policy.temporal_head else {}),
            **extra_metadata,
        }

    def prepare(self, request: Mapping[str, Any]) -> Any:
        """Check a request and do what needs no device; several threads may call it at once. A ``RequestError`` says why
        the request cannot be answered."""
        frame, prompt = read_request(request, self._profile, self._default_prompt)
        seed = read_noise_seed(request)
        chosen = () if seed is None else (seed,)  # code of one's own may know nothing of it
        try:
            return self._policy.prepare(frame, prompt, *chosen)
        except UNUSABLE as error:
            raise RequestError(str(error)) from error

    def answer(self, prepared: Sequence[Any]) -> list[dict[str, Any] | AnswerError]:
        """Replies to at most ``batch_sizes[-1]`` requests; an error stands for one whose actions cannot be used.

        Only one thread calls it. A ``RequestError``: the policy cannot use what a request holds, and finds it out here.
        """
        try:
            outputs = self._policy.infer_prepared(prepared)
        except UNUSABLE as error:
            raise RequestError(str(error)) from error
        return [self._reply(output) for output in outputs]

    def _reply(self, output: PolicyOutput) -> dict[str, Any] | AnswerError:
        """The reply, its progress nil if it cannot be used."""
        try:
            columns = self._profile.layout.action_size
            checked = self._checker.checked(output, self._policy.horizon, columns)
            return make_reply(checked, remembered=bool(self._policy.temporal_head))
        except OutputError as error:
            return AnswerError(str(error))

    def warm_up(self) -> None:
        """Do what makes the first answer slow."""
        self._policy.warm_up()
        if self._policy.model_id == UNTRAINED:
            log.warning("the model is untrained: progress and actions in its replies mean nothing; give --checkpoint")
        if self._policy.image_size is not None:  # once through everything, also what is not the model's
            blank = {key: np.zeros((*self._policy.image_size, 3), np.uint8) for key in self._profile.cameras}
            self._policy.prepare(RobotFrame(blank, np.zeros(self._profile.vector_size, np.float32)), "warm up")
