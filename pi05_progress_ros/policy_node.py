"""The policy beside a robot: its sensors in, task progress and action chunks out, commands only if asked for.

A lifecycle node. Threads: the executor's runs callbacks, which only store, and the timers (heartbeat, diagnostics); one
thread runs inferences on the newest inputs, never a queue; one walks action chunks (``commands.py``). The inference
thread owns the estimator; the table of inputs has its own lock; the instruction is replaced as a whole.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32, Int32, String

from pi05_progress.estimator import Estimate, ProgressEstimator, Status
from pi05_progress.observation import PolicyOutput
from pi05_progress.policy import UNTRAINED, Policy, make_policy, use_compilation_cache
from pi05_progress.robots.messages import MessageError, image_backend, robot_frame
from pi05_progress.robots.profile import IMAGE_TYPE, SIDES, RobotProfile
from pi05_progress_msgs.msg import ActionChunk, TaskProgress

from .chunks import Chunk
from .commands import CommandExecutor
from .diagnostics import InferenceStats, diagnostics
from .inputs import Inputs, Snapshot
from .node_parameters import declare_parameters, read_parameters
from .outputs import chunk_message, progress_message
from .parameters import ParameterError
from .transport import use_image_transport

WATCH_HZ = 20.0  # how often staleness is looked for
HEARTBEAT_S = 1.0
ERROR_PAUSE_S = 0.5  # after a failed inference
CLOCK_JUMP_S = 1.0
TELEOPERATION = 0  # meta_mode


class PolicyNode(LifecycleNode):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("policy_node")
        declare_parameters(self)
        self._prompt = self.get_parameter("prompt").value
        self.add_post_set_parameters_callback(self._on_parameters)
        self._policy: Policy | None = None
        self._commands: CommandExecutor | None = None
        self._thread: threading.Thread | None = None

    # --- lifecycle ---

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Read and check everything, load the model, compile it."""
        try:
            p = self._settings = read_parameters(self)
            self._profile = RobotProfile.load(p.robot)
            if kinds := sorted({c.type for c in self._profile.cameras.values()} - {IMAGE_TYPE}):
                raise ValueError(f"cameras of {self._profile.name} arrive as {', '.join(kinds)}: not supported yet")
            use_compilation_cache()
            started = time.monotonic()
            self._policy = make_policy(
                self._profile, policy=p.policy, checkpoint=p.checkpoint, model=p.model, tokenizer=p.tokenizer,
                num_steps=p.num_steps, seed=p.seed,
            )  # fmt: skip
            self._policy.warm_up()
            backend = image_backend()
        except (ValueError, OSError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self._trained = self._policy.model_id != UNTRAINED
        self._inputs = Inputs(p.limits())
        self._stats = InferenceStats()
        self._estimator = ProgressEstimator()
        self._status = Status.UNKNOWN
        self._progress_pub = self.create_publisher(TaskProgress, "task_progress", 10)
        self._percent_pub = self.create_publisher(Float32, "task_progress/percent", 10)
        self._chunk_pub = self.create_publisher(ActionChunk, "action_chunk", 10)
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._interfaces = []
        model = f"model {self._policy.model_id}, images by {backend}"
        self.get_logger().info(f"configured for {self._profile.name} in {time.monotonic() - started:.1f} s: {model}")
        if not self._trained:
            self.get_logger().warning("no checkpoint: random parameters, progress_raw means nothing")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, infer, publish."""
        try:
            self._activate()
        except Exception:  # rclpy would swallow it
            self.get_logger().error(f"cannot activate:\n{traceback.format_exc()}")
            self._deactivate()
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def _activate(self) -> None:
        self._active, self._reset_estimator = True, True
        self._chunk_id = 0
        self._last_stamp_ns, self._last_published_s, self._problem = 0, 0.0, None
        self._last_now_ns = self.get_clock().now().nanoseconds
        self._triggered = threading.Condition()
        self._trigger_s: float | None = None  # arrival of an image that no inference has used yet
        self._subscribe()
        self._commands = CommandExecutor(
            self, self._profile, self._settings.commands(), self._snapshot, self._against_commanding
        )
        self._mode_is_teleoperation = False
        self._commands.set_wanted(self.get_parameter("publish_commands").value)
        self._commands.start()
        self._thread = threading.Thread(target=self._run, name="inference")
        self._thread.start()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop at once, hold."""
        self._deactivate()
        return super().on_deactivate(state)

    def _deactivate(self) -> None:
        self._end_threads()
        for destroy, interface in self._interfaces:
            destroy(interface)
        self._interfaces.clear()

    def on_cleanup(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        for publisher in (self._progress_pub, self._percent_pub, self._chunk_pub, self._diagnostics_pub):
            self.destroy_publisher(publisher)
        self._policy = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, _: LifecycleState) -> TransitionCallbackReturn:
        """End from any state."""
        self._end_threads()
        return TransitionCallbackReturn.SUCCESS

    def _end_threads(self) -> None:
        self._active = False
        if self._commands:
            self._commands.stop()  # first: the robot stops before anything else is waited for
            self._commands = None
        if self._thread:
            with self._triggered:
                self._triggered.notify_all()
            self._thread.join(timeout=15.0)
            self._thread = None

    def _subscribe(self) -> None:
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        profile = self._profile

        def keep(interface: object) -> None:
            self._interfaces.append((self.destroy_subscription, interface))

        for key, camera in profile.cameras.items():
            self._inputs.add(key, camera.topic, image=True)
            callback = lambda message, key=key: self._on_image(key, message)  # noqa: E731
            keep(self.create_subscription(Image, camera.topic, callback, newest))
        for side in SIDES:
            for part, topic in (
                ("arm", profile.arms[side].state_topic),
                ("gripper", profile.grippers[side].state_topic),
            ):
                name = f"{side}_{part}"
                self._inputs.add(name, topic, image=False, required=part == "arm")
                callback = lambda message, name=name: self._store(name, message)  # noqa: E731
                keep(self.create_subscription(JointState, topic, callback, newest))
        keep(self.create_subscription(String, "~/set_task", self._on_task, 10))
        keep(self.create_subscription(String, profile.mode_topic, self._on_mode, 10))
        keep(self.create_subscription(Int32, profile.fsm_topic, self._on_fsm, 10))
        for period, callback in ((1 / WATCH_HZ, self._watch), (1.0, self._publish_diagnostics)):
            # Wall time: a stopped /clock must not stop the watch over it.
            timer = self.create_timer(
                period, callback, clock=rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)
            )
            self._interfaces.append((self.destroy_timer, timer))

    # --- callbacks: they store ---

    def _store(self, name: str, message: Image | JointState) -> None:
        self._inputs.store(name, message, self.get_clock().now().nanoseconds)

    def _on_image(self, key: str, message: Image) -> None:
        self._store(key, message)
        with self._triggered:
            if self._stats.busy_since_s is not None and self._profile.cameras[key].model_input.startswith("base"):
                self._stats.skipped += 1
            self._trigger_s = time.monotonic()
            self._triggered.notify_all()

    def _on_task(self, message: String) -> None:
        self.set_parameters([Parameter("prompt", value=message.data)])

    def _on_mode(self, message: String) -> None:
        try:
            self._mode_is_teleoperation = json.loads(message.data)["meta_mode"] == TELEOPERATION
        except (ValueError, TypeError, KeyError):
            text = f"{self._profile.mode_topic}: expected JSON with meta_mode, got {message.data[:80]!r}"
            self.get_logger().warning(text, throttle_duration_sec=10.0)

    def _on_parameters(self, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == "prompt" and parameter.value != self._prompt:
                self._prompt = parameter.value
                self.get_logger().info(f"task: {self._prompt!r}")
            elif parameter.name == "publish_commands" and self._commands:
                self._commands.set_wanted(parameter.value)

    def _on_fsm(self, message: Int32) -> None:
        if self._commands:
            self._commands.set_fsm(message.data)

    def _against_commanding(self) -> str:
        if self._mode_is_teleoperation:
            return "the robot is in teleoperation mode and ignores commands"
        return "" if self._prompt else "no task is set"

    def _snapshot(self) -> Snapshot:
        return self._inputs.snapshot(self.get_clock().now().nanoseconds)

    # --- inference thread ---

    def _run(self) -> None:
        period, due = 1 / self._settings.inference_rate_hz, 0.0
        while self._active:
            with self._triggered:
                self._triggered.wait_for(lambda: self._trigger_s is not None or not self._active, timeout=0.5)
                arrived_s, self._trigger_s = self._trigger_s, None
            if arrived_s is None or not self._active:
                continue
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)  # then take the newest, not the one that was waited for
                with self._triggered:
                    arrived_s, self._trigger_s = self._trigger_s or arrived_s, None
            due = max(due + period, time.monotonic() - period)
            try:
                self._infer(arrived_s)
            except Exception as error:  # whatever the policy raises: the node lives on and says so
                self._fail(f"the policy failed: {error!r}", traceback.format_exc())
            finally:
                self._stats.busy_since_s = None

    def _fail(self, text: str, details: str = "") -> None:
        self._stats.failures += 1
        if text != self._stats.last_error and details:
            self.get_logger().error(f"{text}\n{details}")
        self._stats.last_error = text
        if self._commands:
            self._commands.refuse(text)
        time.sleep(ERROR_PAUSE_S)

    def _infer(self, arrived_s: float) -> None:
        snapshot = self._snapshot()
        if snapshot.problems:
            return  # the watch says so
        images = {key: snapshot.messages[key] for key in self._profile.cameras}
        stamp_ns = max(snapshot.stamps_ns[key] for key in images)
        if stamp_ns == self._last_stamp_ns:
            return
        task = self._prompt
        try:
            frame = robot_frame(self._profile, images, snapshot.messages)
        except MessageError as error:
            self._fail(str(error), "the input cannot be used")
            return
        self._stats.busy_since_s = time.monotonic()
        before = time.perf_counter()
        output = self._policy.infer(frame, task)
        policy_ms = 1e3 * (time.perf_counter() - before)
        self._stats.busy_since_s = None
        if problem := output_problem(output, self._policy.horizon):
            self._fail(problem, "the policy's answer cannot be used")
            return
        if not self._active:
            return
        self._stats.last_error = ""
        self._publish(output, task, stamp_ns, policy_ms)
        self._stats.count += 1
        self._stats.model_ms.append(policy_ms)
        self._stats.overhead_ms.append(1e3 * (time.monotonic() - arrived_s) - policy_ms)

    def _publish(self, output: PolicyOutput, task: str, stamp_ns: int, policy_ms: float) -> None:
        now_ns = self.get_clock().now().nanoseconds
        dt_s = self._policy.action_dt_s
        self._commands.offer(Chunk(stamp_ns * 1e-9, dt_s, output.actions.astype(float)), now_ns * 1e-9)
        if self._reset_estimator:
            self._estimator.reset()
            self._reset_estimator = False
        estimate = self._estimator.update(stamp_ns * 1e-9, output, task, self._trained)
        self._status = estimate.status
        message = progress_message(
            estimate, task=task, model_id=self._policy.model_id, stamp_ns=stamp_ns, inference_ms=policy_ms,
            age_ms=(now_ns - stamp_ns) * 1e-6,
        )  # fmt: skip
        self._last_stamp_ns, self._last_published_s, self._problem = stamp_ns, time.monotonic(), None
        self._progress_pub.publish(message)
        if estimate.progress is not None:
            self._percent_pub.publish(Float32(data=100 * estimate.progress))
        chunk = chunk_message(
            output, self._profile, chunk_id=self._chunk_id, stamp_ns=stamp_ns, now_ns=now_ns, dt_s=dt_s,
            model_ms=policy_ms,
        )  # fmt: skip
        self._chunk_id += 1
        self._chunk_pub.publish(chunk)

    # --- watch: heartbeat and diagnostics, in the executor's thread ---

    def _current_problem(self) -> str:
        problems = self._snapshot().problems
        if problems:
            return "; ".join(problems)
        if self._stats.last_error:
            return self._stats.last_error
        if self._stats.busy_s() > HEARTBEAT_S:
            return "the policy has been busy for more than a second"
        return ""

    def _watch(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        if now_ns < self._last_now_ns - CLOCK_JUMP_S * 1e9:
            self.get_logger().warning("the clock jumped back: starting anew")
            self._inputs.clear()
            self._last_stamp_ns, self._reset_estimator = 0, True
            self._commands.refuse("the clock jumped back")
        self._last_now_ns = now_ns
        problem = self._current_problem()
        if not problem:
            if self._problem:
                self.get_logger().info("inputs are good again")
                self._problem = None
            return
        noticed = problem != self._problem
        if noticed:
            self.get_logger().warning(f"progress unknown: {problem}")
        silent = time.monotonic() - self._last_published_s
        if (noticed and not self._problem) or silent >= HEARTBEAT_S:
            self._status = Status.UNKNOWN
            self._last_published_s = time.monotonic()
            message = progress_message(
                Estimate(), task=self._prompt, model_id=self._policy.model_id, stamp_ns=self._last_stamp_ns,
                inference_ms=None, age_ms=None,
            )  # fmt: skip
            self._progress_pub.publish(message)
        self._problem = problem

    def _publish_diagnostics(self) -> None:
        wanted = self.get_parameter("publish_commands").value
        self._diagnostics_pub.publish(
            diagnostics(
                self.get_fully_qualified_name().lstrip("/"),
                self.get_clock().now().to_msg(),
                inputs=self._inputs.state(),
                problems=self._snapshot().problems,
                stats=self._stats,
                model_id=self._policy.model_id,
                status=self._status.name,
                wanted=wanted,
                reason=self._commands.reason if self._commands else "inactive",
            )
        )


def output_problem(output: PolicyOutput, horizon: int) -> str:
    """What is wrong with a policy's answer; empty if nothing."""
    if output.actions.shape != (horizon, 16):
        return f"the policy's actions are {output.actions.shape}, expected ({horizon}, 16)"
    if not np.isfinite(output.actions).all():
        return "the policy's actions are not finite"
    if output.progress is not None and not (math.isfinite(output.progress) and 0 <= output.progress <= 1):
        return f"the policy's progress is {output.progress}, expected a number in [0, 1]"
    return ""


def main() -> int:
    """Entry point; returns the exit status."""
    use_image_transport()
    # Signals only ask for the end: the robot is told to hold before the context goes.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        node = PolicyNode()
    except ParameterError as error:
        print(f"policy_node: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    status = 0
    try:
        if node.get_parameter("autostart").value:
            ok = TransitionCallbackReturn.SUCCESS
            if stop.is_set() or node.trigger_configure() != ok or node.trigger_activate() != ok:
                status = 0 if stop.is_set() else 1
                stop.set()
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    finally:
        node.on_shutdown(None)
        rclpy.try_shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main())
