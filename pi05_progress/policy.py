"""The contract between a policy and its callers: what it is asked, what it answers, and the settings it is made from.

``make_policy`` makes one from settings. Nothing here computes; node, server, simulation and evaluation know no more of
a policy than this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, runtime_checkable

from .observation import PolicyOutput, RobotFrame

BackendChoice = Literal["auto", "jax", "torch"]
Dtype = Literal["float32", "bfloat16"]
Noise = Literal["fresh", "episode", "zero"]  # what actions start from: new noise each time, the episode's own, or zeros
ZERO_NOISE = -1  # the noise seed that stands for zeros
NOISE_SEEDS = (ZERO_NOISE, 2**32 - 1)  # the least and the greatest


def noise_seed(noise: Noise, episode: int) -> int | None:
    """The noise seed of every inference in the episode of a seed; None: noise is the next of the policy's sequence."""
    return {"fresh": None, "episode": episode, "zero": ZERO_NOISE}[noise]


class PolicyUnavailableError(RuntimeError):
    """A policy cannot answer now, for a reason outside of it, and may be able to later; the message says why."""


class OutputError(ValueError):
    """A policy's answer cannot be used at all, because its actions cannot; the message says what is wrong with them."""


class OwnPolicy(Protocol):
    """What code of one's own must have to be used as a policy (``policy:=module:function``)."""

    model_id: str  # UNTRAINED if its answers mean nothing
    horizon: int  # rows of a chunk of actions
    action_dt_s: float  # time between two rows, s

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """Actions and progress for one frame; returns when the device is done.

        Raises:
            ObservationError: the frame or the instruction cannot be used.
            PolicyUnavailableError: there is no answer now, and there may be one later.
        """

    def warm_up(self) -> None:
        """Do what makes the first call slow before it is needed."""


@runtime_checkable
class Policy(OwnPolicy, Protocol):
    """Anything that answers frames, with all that callers use. Not thread-safe unless it says so.

    What ``OwnPolicy`` does not ask for has a default, which classes inherit that derive from this one: a policy that
    answers one frame after the other. Other objects are completed by ``completed``.
    """

    image_size: tuple[int, int] | None = None  # (height, width) that the model reads; None if it does not matter
    batch_sizes: tuple[int, ...] = (1,)  # how many prepared frames may be answered together, rising
    remembers: bool = True  # whether an answer may depend on frames before and on stamps, or on its frame alone
    durations_s: Mapping[str, float] = MappingProxyType({})  # what tasks usually take, s, by instruction
    temporal_head: bytes = b""  # what an estimator remembers by, see `estimate/temporal.py`; empty if there is none

    def prepare(self, frame: RobotFrame, prompt: str, noise_seed: int | None = None) -> Any:
        """What ``infer_prepared`` takes: the part of ``infer`` that needs no device; raises as that.

        Several threads may call it at once. Actions start from noise of the ``noise_seed``, or from zeros
        (``ZERO_NOISE``); None takes the next of the policy's sequence. Policies with no noise, or their own, ignore it.
        """
        return frame, prompt

    def infer_prepared(self, prepared: Sequence[Any]) -> list[PolicyOutput]:
        """Answer prepared frames, at most ``batch_sizes[-1]`` of them; raises as ``infer``."""
        return [self.infer(frame, prompt) for frame, prompt in prepared]

    def restart(self, seed: int) -> None:
        """Begin an episode: forget those before, and draw noise as a policy made with this seed does."""

    def close(self) -> None:
        """Give back what it holds, such as a connection. Any thread may call it."""


class CompletedPolicy(Policy):
    """Code of one's own as a whole policy. Where it has ``restart_noise`` or ``close``, they are called, too."""

    def __init__(self, own: OwnPolicy) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:  # what the class does not have: model_id, horizon, action_dt_s
        return getattr(self._own, name)

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """Actions and progress for one frame, as the code of one's own answers it."""
        return self._own.infer(frame, prompt)

    def warm_up(self) -> None:
        """Do what makes the first call slow before it is needed."""
        self._own.warm_up()

    def restart(self, seed: int) -> None:
        """Begin an episode; code without ``restart_noise`` is not told of it."""
        getattr(self._own, "restart_noise", lambda seed: None)(seed)

    def close(self) -> None:
        """Give back what it holds; code without ``close`` holds nothing."""
        getattr(self._own, "close", lambda: None)()


def completed(policy: OwnPolicy) -> Policy:
    """A policy with all that callers use; one that has it already is returned as it is."""
    return policy if isinstance(policy, Policy) else CompletedPolicy(policy)


@dataclass(frozen=True)
class InferenceOptions:
    """Ways to do less work for the same numbers, to float tolerance; each can be switched off to compare."""

    # what depends on the sampler's time steps alone (time embedding, time MLP, the modulations of all adaRMS norms) is
    # computed once, instead of in every step of every call
    precomputed_modulations: bool = True
    # a prompt is padded to the smallest of `tokenizer.PADDED_LENGTHS` that holds it, instead of to the model's
    # longest.
    bucketed_prompts: bool = True
    skip_absent_cameras: bool = True  # cameras that are not there are not encoded, instead of encoded black and masked
    # prefix, all denoising steps and the head are one compiled program, instead of one call each
    one_program: bool = True
    donated_noise: bool = True  # actions take the place of the noise in memory, instead of new memory
    # `warm_up` compiles every program before the first request, instead of the first request that needs it doing so
    warm_up: bool = True
    compilation_cache: bool = True  # compiled programs are kept on disk for the next process


ALL_ON = InferenceOptions()


@dataclass(frozen=True)
class PolicyOptions:
    """Which policy, and how it computes."""

    # `pi05`, `websocket` for one behind a policy server, or `module:function` of Python code that takes the robot
    # profile and returns a policy (see `OwnPolicy`)
    policy: str = "pi05"
    checkpoint: str = ""  # folder; empty takes random parameters
    # `jax` for this package's checkpoints, `torch` for LeRobot's, `auto` for what the folder contains
    backend: BackendChoice = "auto"
    model: str = "tiny"  # configuration of a model without a checkpoint
    tokenizer: str = ""  # path of PaliGemma's tokenizer, for models that use it
    num_steps: int = 10  # denoising steps
    # of random parameters, and of the noise that actions start from, drawn as openpi's policy does (its seed is 0)
    seed: int = 0
    noise: Noise = "fresh"  # that actions start from
    # to compute and to keep parameters in; None takes what the checkpoint's configuration says
    dtype: Dtype | None = None
    max_batch: int = 1  # most frames that are computed together; a robot's own policy needs one
    inference: InferenceOptions = ALL_ON  # what is computed ahead or left out
    temporal: bool = True  # whether the checkpoint's temporal head is used, if it has one
    server_uri: str = ""  # of the policy server, for policy `websocket`
    server_timeout_s: float = 2.0  # how long its answers are waited for


DEFAULT_OPTIONS = PolicyOptions()


class OutputChecker:
    """Decides what of a policy's answers is passed on, for all who use them.

    Actions that cannot be used refuse the answer: nothing of it may move a robot. A progress that cannot be used is
    unknown (None) from there on and the actions go on; ``say`` is told why, once per reason.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: set[str] = set()
        self.reason = ""  # why the newest answer has no progress; empty if it has one

    def checked(self, output: PolicyOutput, horizon: int, columns: int) -> PolicyOutput:
        """The answer as it is passed on; an ``OutputError`` if its actions, of so many rows and columns, cannot be."""
        if problem := output.problem(horizon, columns):
            raise OutputError(f"the policy's {problem}")
        return self.with_usable_progress(output)

    def with_usable_progress(self, output: PolicyOutput) -> PolicyOutput:
        """The answer, its progress None if it cannot be used; its actions are not looked at."""
        self.reason, details = "", ""
        if output.progress is None:
            self.reason = "the policy gives none, or its model has no progress head"
        elif problem := output.progress_problem():
            self.reason = f"the policy's {problem}"
            details = f" (progress {output.progress}, interval {output.progress_interval})"
        if not self.reason:
            return output
        if self.reason not in self._said:
            self._said.add(self.reason)
            self._say(f"no progress (said once): {self.reason}{details}; actions are passed on all the same")
        return output.without_progress()
