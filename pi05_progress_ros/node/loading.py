"""Loading a policy: in a thread that can be left alone when the end is asked for, and saying what takes so long."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet

from rclpy.impl.rcutils_logger import RcutilsLogger

from pi05_progress.errors import UserError
from pi05_progress.make_policy import make_policy
from pi05_progress.policies import device_memory
from pi05_progress.policies.backend import choose_backend
from pi05_progress.policies.compilation_cache import use_compilation_cache
from pi05_progress.policy import Policy
from pi05_progress.robots.messages import image_backend
from pi05_progress.robots.profile import RobotProfile

from .node_parameters import NodeParameters

LOOK_S = 0.1  # between looks whether the end is asked for
TELL_S = 10.0  # between lines that say that it still goes on
COMPILING = (
    "compiling the model's programs: the first time about a minute for a small model on two cores and some minutes for "
    "the full one; they are kept on disk, and the next start takes a fraction of that"
)


class PolicyLoader:
    """Loads a policy and says each step before it is taken."""

    def __init__(self, logger: RcutilsLogger, stop: threading.Event) -> None:
        self._logger, self._stop = logger, stop
        self._thread: threading.Thread | None = None
        self._step = ""

    @property
    def busy(self) -> bool:
        """Whether a policy is being loaded, perhaps for nobody any more."""
        return self._thread is not None and self._thread.is_alive()

    def load(self, profile: RobotProfile, parameters: NodeParameters) -> Policy:
        """The policy, ready to be asked.

        Raises:
            UserError: the end was asked for meanwhile, or settings are wrong.
            PolicyUnavailableError, ValueError, OSError: see ``make_policy``.
        """
        found: Future[Policy] = Future()

        def run() -> None:
            try:
                found.set_result(self._load(profile, parameters))
            except BaseException as error:  # it is raised where it is waited for
                found.set_exception(error)

        # A daemon: nothing can interrupt a compiler, and it must not keep the process alive.
        self._thread = threading.Thread(target=run, name="loading", daemon=True)
        self._thread.start()
        waited_s, told_s = 0.0, TELL_S
        while not self._stop.is_set():
            try:
                return found.result(LOOK_S)
            except NotYet:
                if found.done():  # a policy's own time-out
                    raise
            waited_s += LOOK_S
            if waited_s >= told_s:
                self._logger.info(f"still {self._step.partition(':')[0]}, {waited_s:.0f} s so far")
                told_s += TELL_S
        raise UserError(f"stopped while {self._step.partition(':')[0]}")

    def _say(self, step: str) -> None:
        self._step = step
        if not self._stop.is_set():
            self._logger.info(step)

    def _load(self, profile: RobotProfile, parameters: NodeParameters) -> Policy:
        own, checkpoint = parameters.policy == "pi05", parameters.checkpoint
        self._say("looking for what computes")
        image_backend()  # its trial takes a moment, and its answer is kept
        use_compilation_cache()
        claim = device_memory.claim(parameters.gpu_memory_gb, os.environ)
        computed_by = choose_backend(checkpoint, parameters.backend) if own else f"policy {parameters.policy}"
        self._logger.info(device_memory.describe(claim, computed_by))
        what = (checkpoint or f"random parameters of {parameters.model}") if own else f"policy {parameters.policy}"
        self._say(f"loading {what}")
        policy = make_policy(profile, parameters.policy_options())
        self._say(COMPILING if own else "asking the policy for a first answer")
        policy.warm_up()
        return policy
