"""The inference thread: the newest inputs through the policy, one at a time, never a queue.

Threads: ``frame_arrived``, ``start`` and ``stop`` are called by the executor's thread, the callbacks given
are called by the inference thread. `_triggered` guards the trigger; counters are single values that one thread writes.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger

from pi05_progress.observation import PolicyOutput
from pi05_progress.policy import OutputChecker, OutputError, Policy, PolicyUnavailableError
from pi05_progress.robots.joints import MessageError
from pi05_progress.robots.messages import robot_frame
from pi05_progress.robots.profile import RobotProfile

from ..inputs import News, Snapshot

SLOW_S = 1.0  # an inference that runs longer, and thrice as long as usual, is reported while it runs
ERROR_PAUSE_S = 0.5  # after a failed inference
FRESHER_S = 0.04  # how long a frame newer than one that had to wait is waited for; cameras come at 30 Hz
STOP_TIMEOUT_S = 1.0  # how long the end of a running inference is waited for


@dataclass(frozen=True)
class Result:
    """One answer of the policy."""

    output: PolicyOutput  # the answer; its progress is None where it cannot be used
    task: str  # the instruction it was given
    stamp_ns: int  # of the newest image used
    policy_ms: float  # what the policy took, transforms and model
    generation: int  # of what is planned, when it was begun


@dataclass
class InferenceStats:
    """Counters of the inference thread; written by it, read by the diagnostics timer (single values, no lock)."""

    count: int = 0
    failures: int = 0
    skipped: int = 0  # images that came while an inference ran
    last_error: str = ""
    no_progress: str = ""  # why the newest answer has none
    busy_since_s: float | None = None  # monotonic, while the policy runs
    model_ms: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    overhead_ms: deque[float] = field(default_factory=lambda: deque(maxlen=200))

    def slow(self) -> str:
        """What there is to say about the present inference if it takes unusually long; empty if not."""
        since = self.busy_since_s
        usual_ms = float(np.median(list(self.model_ms))) if self.model_ms else 0.0
        limit_s = max(SLOW_S, 3e-3 * usual_ms)
        if since is None or time.monotonic() - since <= limit_s:
            return ""
        return f"the policy has been busy for more than {limit_s:.3g} s"


class InferenceLoop:
    """See the module's docstring. An empty ``task`` means that there is nothing to do."""

    def __init__(
        self,
        policy: Policy,
        profile: RobotProfile,
        rate_hz: float,
        *,
        snapshot: Callable[[], Snapshot],
        task: Callable[[], str],
        generation: Callable[[], int],
        episode: Callable[[], int | None],
        publish: Callable[[Result], None],
        failed: Callable[[str], None],
        logger: RcutilsLogger,
    ) -> None:
        self._policy, self._profile, self._period_s = policy, profile, 1 / rate_hz
        self._snapshot, self._task, self._publish, self._failed, self._logger = snapshot, task, publish, failed, logger
        self._generation = generation  # answers of an earlier one are thrown away
        self._episode, self._begun = episode, None  # the seed that the policy begins an episode with when it changes
        self._checker = OutputChecker(logger.warning)
        self.stats, self._news = InferenceStats(), News()
        self._triggered = threading.Condition()
        self._trigger_s: float | None = None  # arrival (monotonic) of an image that no inference has used yet
        self._last_stamp_ns = 0
        self._stopping = threading.Event()
        # A daemon: a policy that never answers must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    # --- called by the executor's thread ---

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Publish nothing more, and wait a while for the thread to end; ``running`` tells whether it has."""
        self._stopping.set()
        with self._triggered:
            self._triggered.notify_all()
        if self._thread.ident:
            self._thread.join(timeout=STOP_TIMEOUT_S)

    def frame_arrived(self) -> None:
        """An image is there."""
        with self._triggered:
            if self.stats.busy_since_s is not None:
                self.stats.skipped += 1
            if self._trigger_s is None:
                self._trigger_s = time.monotonic()
            self._triggered.notify_all()

    # --- the thread ---

    def _run(self) -> None:
        due = 0.0
        while not self._stopping.is_set():
            early, pending = due - time.monotonic(), None
            if early > 0:
                self._stopping.wait(early)
                pending = self._trigger(0.0)  # a frame that came meanwhile; one that comes soon will be newer
            free_s = time.monotonic()
            arrived_s = self._trigger(0.5 if pending is None else FRESHER_S)
            if arrived_s is None and pending is not None:
                arrived_s = free_s = time.monotonic()
            if arrived_s is None or self._stopping.is_set():
                continue
            due = max(due + self._period_s, time.monotonic())
            try:
                self._infer(max(arrived_s, free_s))
            except PolicyUnavailableError as error:  # no fault of its code: no traceback
                self._fail(str(error))
            except Exception as error:  # whatever the policy raises: the node lives on and says so
                self._fail(f"the policy failed: {error!r}", traceback.format_exc())
            finally:
                self.stats.busy_since_s = None

    def _trigger(self, timeout_s: float) -> float | None:
        """Arrival of an image that no inference has used yet, once there is one; None after the time-out."""
        with self._triggered:
            self._triggered.wait_for(lambda: self._trigger_s is not None or self._stopping.is_set(), timeout_s)
            arrived_s, self._trigger_s = self._trigger_s, None
        return arrived_s

    def _infer(self, ready_s: float) -> None:
        """One inference; ``ready_s`` (monotonic) is when its newest frame was there and it could begin."""
        generation, task = self._generation(), self._task()  # in this order: a change of the task raises the generation
        if (episode := self._episode()) != self._begun:
            self._policy.restart(episode)
            self._begun = episode
        snapshot = self._snapshot()
        if snapshot.problems or not task:
            return  # the node's watch says so
        images = {key: snapshot.messages[key] for key in self._profile.cameras}
        stamp_ns = max(snapshot.stamps_ns[key] for key in images)
        if stamp_ns == self._last_stamp_ns:
            return
        self._last_stamp_ns = stamp_ns
        try:
            frame = robot_frame(self._profile, images, snapshot.messages)
        except MessageError as error:
            self._fail(str(error))
            return
        self.stats.busy_since_s = time.monotonic()
        before = time.perf_counter()
        output = self._policy.infer(frame, task)
        policy_ms = 1e3 * (time.perf_counter() - before)
        self.stats.busy_since_s = None
        changed = generation != self._generation() or task != self._task()
        if self._stopping.is_set() or changed or self._snapshot().problems:
            return  # nothing that was asked for is left of it
        try:
            output = self._checker.checked(output, self._policy.horizon, self._profile.layout.action_size)
        except OutputError as error:
            self._fail(str(error))
            return
        self.stats.no_progress = self._checker.reason
        self.stats.last_error = ""
        self._news.over()
        self._publish(Result(output, task, stamp_ns, policy_ms, generation))
        self.stats.count += 1
        self.stats.model_ms.append(policy_ms)
        self.stats.overhead_ms.append(1e3 * (time.monotonic() - ready_s) - policy_ms)

    def _fail(self, text: str, details: str = "") -> None:
        self.stats.failures += 1
        self._failed(text)
        if self._news.among([text]):
            self._logger.error("\n".join(part for part in (text, details) if part))
        self.stats.last_error = text
        self._stopping.wait(ERROR_PAUSE_S)
