"""The policy beside a robot: its sensors in, task progress and action chunks out, commands only if asked for.

A lifecycle node. Threads: the executor's runs callbacks, which only store, and two timers (watch, diagnostics);
``inference.py``'s makes estimates, ``commands.py``'s walks action chunks. Estimator and chunk counter belong to the
inference thread, the table of inputs has its own lock, instruction and flags are replaced as a whole.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32, Int32, String
from std_srvs.srv import Trigger

from pi05_progress.estimate.estimator import Estimate, ProgressEstimator, Status
from pi05_progress.observation import UNTRAINED
from pi05_progress.policies import device_memory
from pi05_progress.policies.backend import choose_backend
from pi05_progress.policy import Policy, PolicyUnavailableError, make_policy, use_compilation_cache
from pi05_progress.robots.messages import image_backend
from pi05_progress.robots.profile import IMAGE_TYPE, SIDES, RobotProfile
from pi05_progress_msgs.msg import ActionChunk, TaskProgress

from .commanding.chunks import Chunk
from .commanding.commands import CommandExecutor
from .commanding.robot_state import RobotState
from .inputs import Inputs, Snapshot, same_kind
from .node.diagnostics import commands_status, inference_status, input_statuses
from .node.inference import InferenceLoop, Result
from .node.node_parameters import declare_parameters, read_parameters
from .node.outputs import chunk_message, progress_message
from .parameters import ParameterError
from .transport import use_image_transport

WATCH_HZ = 20.0  # how often staleness is looked for
DIAGNOSTICS_HZ = 1.0
HEARTBEAT_S = 1.0
CLOCK_JUMP_S = 1.0
NO_TASK = "no task is set: set the parameter prompt or publish the instruction on ~/set_task"


class PolicyNode(LifecycleNode):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("policy_node")
        declare_parameters(self)
        self._prompt = self.get_parameter("prompt").value
        self.add_post_set_parameters_callback(self._on_parameters)
        self._policy: Policy | None = None
        self._commands: CommandExecutor | None = None
        self._inference: InferenceLoop | None = None
        self._lingering: InferenceLoop | None = None  # of an activation before, whose policy has not answered yet
        self._interfaces: list = []

    # --- lifecycle ---

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Read and check everything, load the model, compile it."""
        try:
            self._configure()
        except Exception as error:  # rclpy would swallow whatever it is
            known = isinstance(error, ValueError | OSError | PolicyUnavailableError)
            self.get_logger().error(f"cannot configure: {error if known else traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        p = self._settings = read_parameters(self)
        self._profile = RobotProfile.load(p.robot)
        if kinds := sorted({c.type for c in self._profile.cameras.values()} - {IMAGE_TYPE}):
            raise ValueError(f"cameras of {self._profile.name} arrive as {', '.join(kinds)}: not supported yet")
        use_compilation_cache()
        claim = device_memory.claim(p.gpu_memory_gb, os.environ)
        started = time.monotonic()
        self._policy = make_policy(
            self._profile, policy=p.policy, checkpoint=p.checkpoint, backend=p.backend, model=p.model,
            tokenizer=p.tokenizer, num_steps=p.num_steps, seed=p.seed, server_uri=p.server_uri,
            server_timeout_s=p.server_timeout_s,
        )  # fmt: skip
        self._policy.warm_up()
        computed_by = choose_backend(p.checkpoint, p.backend) if p.policy == "pi05" else f"policy {p.policy}"
        self.get_logger().info(device_memory.describe(claim, computed_by))
        backend = image_backend()
        self._trained = self._policy.model_id != UNTRAINED
        self._progress_pub = self.create_publisher(TaskProgress, "task_progress", 10)
        self._percent_pub = self.create_publisher(Float32, "task_progress/percent", 10)
        self._chunk_pub = self.create_publisher(ActionChunk, "action_chunk", 10)
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        model = f"model {self._policy.model_id}, images by {backend}"
        self.get_logger().info(f"configured for {self._profile.name} in {time.monotonic() - started:.1f} s: {model}")
        if not self._trained:
            text = "no checkpoint: random parameters, progress_raw means nothing and nothing will be commanded"
            self.get_logger().warning(text)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, infer, publish."""
        try:
            self._activate()
        except Exception as error:  # rclpy would swallow it
            known = isinstance(error, ValueError)
            self.get_logger().error(f"cannot activate: {error if known else traceback.format_exc()}")
            self._deactivate()
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def _activate(self) -> None:
        if self._lingering and self._lingering.running:
            raise ValueError("the policy is still busy with a call from before; wait for it, or restart the node")
        p = self._settings
        self._estimator, self._reset_estimator = ProgressEstimator(), False
        self._status = Status.UNKNOWN
        self._chunk_id = 0
        self._published_stamp_ns, self._last_published_s, self._problem = 0, 0.0, ""
        self._last_now_ns = self.get_clock().now().nanoseconds
        self._inputs = Inputs(p.limits())
        self._robot = RobotState(self._profile)
        self._commands = CommandExecutor(
            self, self._profile, p.commands(), self._robot, self._snapshot, self._against_commanding
        )
        self._inference = InferenceLoop(
            self._policy, self._profile, p.inference_rate_hz, snapshot=self._snapshot, task=lambda: self._prompt,
            publish=self._publish, failed=self._commands.refuse, logger=self.get_logger(),
        )  # fmt: skip
        self._subscribe()
        self._commands.set_wanted(self.get_parameter("publish_commands").value)
        self._commands.start()
        self._inference.start()

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
        if close := getattr(self._policy, "close", None):
            close()
        self._policy = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, _: LifecycleState) -> TransitionCallbackReturn:
        """End from any state."""
        self._deactivate()
        return TransitionCallbackReturn.SUCCESS

    def _end_threads(self) -> None:
        if self._commands and self._inference:
            self._commands.stop()  # first: the robot stops before anything else is waited for
            self._inference.stop()
            self._lingering = self._inference
        self._commands = self._inference = None

    def _subscribe(self) -> None:
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        profile = self._profile

        def subscribe(kind: type, topic: str, callback: object, qos: QoSProfile | int) -> None:
            interface = self.create_subscription(kind, topic, callback, qos)
            self._interfaces.append((self.destroy_subscription, interface))

        for key, camera in profile.cameras.items():
            self._inputs.add(key, camera.topic, image=True)
            subscribe(Image, camera.topic, lambda message, key=key: self._on_image(key, message), newest)
        for side in SIDES:
            topics = {"arm": profile.arms[side].state_topic, "gripper": profile.grippers[side].state_topic}
            for part, topic in topics.items():
                name = f"{side}_{part}"
                self._inputs.add(name, topic, image=False, required=part == "arm")
                subscribe(JointState, topic, lambda message, name=name: self._store(name, message), newest)
        subscribe(String, "~/set_task", self._on_task, 10)
        subscribe(Float32, profile.enable_topic, self._on_enable, 10)
        self._interfaces.append((self.destroy_service, self.create_service(Trigger, "~/reset", self._on_reset)))
        subscribe(String, profile.mode_topic, self._on_mode, 10)
        subscribe(Int32, profile.fsm_topic, lambda message: self._robot.hear_fsm(message.data), 10)
        # Not the node's clock: a stopped /clock must not stop the watch over it.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for rate_hz, callback in ((WATCH_HZ, self._watch), (DIAGNOSTICS_HZ, self._publish_diagnostics)):
            timer = self.create_timer(1 / rate_hz, callback, clock=steady)
            self._interfaces.append((self.destroy_timer, timer))

    # --- callbacks: they store ---

    def _store(self, name: str, message: Image | JointState) -> None:
        self._inputs.store(name, message, self.get_clock().now().nanoseconds)

    def _on_image(self, key: str, message: Image) -> None:
        self._store(key, message)
        self._inference.frame_arrived()

    def _on_task(self, message: String) -> None:
        self.set_parameters([Parameter("prompt", value=message.data)])

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset_estimator = True
        response.success, response.message = True, "the next estimate starts anew"
        return response

    def _on_enable(self, message: Float32) -> None:
        self._commands.hear_enable(message.data)

    def _on_mode(self, message: String) -> None:
        if problem := self._robot.hear_mode(message.data):
            self.get_logger().warning(problem, throttle_duration_sec=10.0)

    def _on_parameters(self, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == "prompt" and parameter.value != self._prompt:
                self._prompt = parameter.value
                if self._commands:
                    self._commands.forget()  # what was planned for the task before
                self.get_logger().info(f"task: {self._prompt!r}")
            elif parameter.name == "publish_commands" and self._commands:
                self._commands.set_wanted(parameter.value)

    def _against_commanding(self) -> str:
        if not self._trained:
            return "the model is untrained, its actions mean nothing: give a checkpoint"
        return "" if self._prompt else NO_TASK

    def _snapshot(self) -> Snapshot:
        return self._inputs.snapshot(self.get_clock().now().nanoseconds)

    # --- results, in the inference thread ---

    def _publish(self, result: Result) -> None:
        output, stamp_ns = result.output, result.stamp_ns
        now_ns, dt_s = self.get_clock().now().nanoseconds, self._policy.action_dt_s
        if self._reset_estimator:
            self._estimator.reset()
            self._reset_estimator = False
        estimate = self._estimator.update(stamp_ns * 1e-9, output, result.task, self._trained)
        self._status = estimate.status
        self._published_stamp_ns = stamp_ns
        self._send_progress(estimate, result.task, result.policy_ms, (now_ns - stamp_ns) * 1e-6)
        if estimate.progress is not None:
            self._percent_pub.publish(Float32(data=100 * estimate.progress))
        chunk = chunk_message(
            output, self._profile, chunk_id=self._chunk_id, stamp_ns=stamp_ns, now_ns=now_ns, dt_s=dt_s,
            model_ms=result.policy_ms,
        )  # fmt: skip
        self._chunk_id += 1
        self._chunk_pub.publish(chunk)
        # Last: what cannot be said in messages does not move the robot.
        planned = Chunk(stamp_ns * 1e-9, dt_s, output.actions.astype(float))
        self._commands.offer(planned, self.get_clock().now().nanoseconds * 1e-9)

    def _send_progress(
        self, estimate: Estimate, task: str, policy_ms: float | None = None, age_ms: float | None = None
    ) -> None:
        self._last_published_s = time.monotonic()
        message = progress_message(
            estimate, task=task, model_id=self._policy.model_id, stamp_ns=self._published_stamp_ns,
            inference_ms=policy_ms, age_ms=age_ms,
        )  # fmt: skip
        self._progress_pub.publish(message)

    # --- watch: heartbeat and diagnostics, in the executor's thread ---

    def _current_problem(self) -> str:
        problems = self._snapshot().problems
        if problems:
            return "; ".join(problems)
        if not self._prompt:
            return NO_TASK
        return self._inference.stats.last_error or self._inference.stats.slow()

    def _watch(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        if now_ns < self._last_now_ns - CLOCK_JUMP_S * 1e9:
            self.get_logger().warning("the clock jumped back: starting anew")
            self._inference.forget()
            self._inputs.clear()
            self._reset_estimator = True
            self._commands.refuse("the clock jumped back")
        self._last_now_ns = now_ns
        problem = self._current_problem()
        if problem and not same_kind(problem, self._problem):
            self.get_logger().warning(f"progress unknown: {problem}")
        elif self._problem and not problem:
            self.get_logger().info("progress is known again")
        if problem and (not self._problem or time.monotonic() - self._last_published_s >= HEARTBEAT_S):
            self._status = Status.UNKNOWN
            self._send_progress(Estimate(), self._prompt)
        self._problem = problem

    def _publish_diagnostics(self) -> None:
        name, problems = self.get_fully_qualified_name().lstrip("/"), self._snapshot().problems
        waiting = problems[0] if problems else ("" if self._prompt else NO_TASK)
        facts = {
            "model_id": self._policy.model_id,
            "checkpoint": self._settings.checkpoint or self._settings.server_uri or "none",
            "robot": self._profile.name,
            "task": self._prompt,
            "task_status": self._status.name,
        }
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status = [
            *input_statuses(name, self._inputs.state(), (*problems, self._inference.stats.last_error)),
            inference_status(name, self._inference.stats, waiting, facts),
            commands_status(
                name, self.get_parameter("publish_commands").value, self._commands.reason, self._commands.broken
            ),
        ]
        self._diagnostics_pub.publish(array)


def main() -> int:
    """Entry point; returns the exit status."""
    use_image_transport()
    # Signals only ask for the end: the robot is told to hold before the context goes.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
        if node.get_parameter("autostart").value and not stop.is_set():
            ok = TransitionCallbackReturn.SUCCESS
            if node.trigger_configure() != ok or (not stop.is_set() and node.trigger_activate() != ok):
                status = 1
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
