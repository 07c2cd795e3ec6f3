"""The policy beside a robot: its sensors in, task progress and action chunks out, commands only if asked for.

A lifecycle node. Threads: the executor's runs callbacks, which only store, and two timers (watch, diagnostics);
``inference.py``'s makes estimates, which ``results.py`` publishes, ``commands.py``'s walks action chunks;
``loading.py``'s loads the policy, ``cameras/packets.py`` has one per camera that sends packets. The table of inputs has
its own lock, the instruction is replaced as a whole.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Float32, Int32, String
from std_srvs.srv import Trigger

from pi05_progress.checkpoints.starts import read_starts
from pi05_progress.policy import Policy, PolicyUnavailableError
from pi05_progress.robots.messages import image_backend
from pi05_progress.robots.profile import ArmProfile, RobotProfile
from pi05_progress_msgs.srv import Arm

from .cameras.cameras import check_cameras, open_cameras
from .command_line import program
from .commanding.commands import CommandExecutor
from .commanding.participants import NodeApart
from .commanding.robot_state import RELAY_TOPIC, RobotState
from .commanding.state_machine import Reason
from .inputs import Inputs, Snapshot
from .node.inference import InferenceLoop, Result
from .node.loading import PolicyLoader
from .node.node_parameters import NodeParameters
from .node.results import FingertipPaths, Results
from .node.run_task import RunTaskServer
from .node.watch import Watch
from .parameters import QosOverrides, declare_all, newest_only, read_all, warn_of_unused_overrides
from .ros_session import END_SIGNALS, end_at_once, ros_session, shared_memory, spin

WATCH_HZ = 20.0  # how often staleness is looked for
DIAGNOSTICS_HZ = 1.0
RESULT_S = 0.3  # for sending the result of a goal when the node ends
GOAL_HZ = 50.0  # how often a goal's end is looked for
UNTRAINED = "the model is untrained, its actions mean nothing: give a checkpoint"


class PolicyNode(QosOverrides, LifecycleNode):
    """See the module's docstring."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("policy_node")
        declare_all(self, NodeParameters)
        self._prompt = self.get_parameter("prompt").value
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._on_parameters)
        self._stop = stop  # set when the end is asked for
        self._loader = PolicyLoader(self.get_logger(), stop)
        self._policy: Policy | None = None
        self._commands: CommandExecutor | None = None
        self._goals: RunTaskServer | None = None  # while it is configured
        self._inference: InferenceLoop | None = None
        self._lingering: InferenceLoop | None = None  # of an activation before, whose policy has not answered yet
        self._interfaces: list = []
        with shared_memory() as apart:
            self._cameras = NodeApart(self, "cameras") if apart else None  # None: their subscriptions are this node's

    def run(self) -> int:
        """Work until the end is asked for; returns the exit status. The robot is told to hold before ROS goes."""
        executor = SingleThreadedExecutor()
        if self._cameras:
            executor.add_node(self._cameras.node)
        try:
            if self.get_parameter("autostart").value and not self._start():
                return 1
            spin(self, self._stop, executor)
        finally:
            goal = self._goals and self._goals.task
            self.on_shutdown(None)
            until_s = time.monotonic() + (RESULT_S if goal else 0.0)
            while time.monotonic() < until_s:  # the goal's result is sent
                executor.spin_once(timeout_sec=0.02)
            if self._cameras:
                executor.remove_node(self._cameras.node)
                self._cameras.close()
        return 0

    def _start(self) -> bool:
        """Configure and activate, unless the end is asked for meanwhile; False if one of them fails."""
        ok = TransitionCallbackReturn.SUCCESS
        return (self.trigger_configure() == ok or self._stop.is_set()) and (
            self._stop.is_set() or self.trigger_activate() == ok
        )

    @property
    def busy(self) -> bool:
        """Whether a thread still loads or asks a policy, which nothing can interrupt."""
        return self._loader.busy or bool(self._lingering and self._lingering.running)

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
        p = self._settings = read_all(self, NodeParameters)
        self._profile = RobotProfile.load(p.robot)
        check_cameras(self._profile, p.hardware_decoding)
        started = time.monotonic()
        self._policy = self._loader.load(self._profile, p)
        self._results = Results(self, self._profile, self._policy)
        self._paths = FingertipPaths(self, self._profile)
        starts = read_starts(Path(p.checkpoint), self._profile) if p.checkpoint else None
        self._goals = RunTaskServer(self, self._results, self._set_prompt, p.goals(), starts)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        model = f"model {self._policy.model_id}, images by {image_backend()}"
        self.get_logger().info(f"configured for {self._profile.name} in {time.monotonic() - started:.1f} s: {model}")
        # Later collections pass over the model's objects: to look through them all stops every thread for 0.2 s.
        gc.collect()
        gc.freeze()
        if not self._results.trained:
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
        p, goals = self._settings, self._goals
        self._results.begin()
        self._inputs = Inputs(p.limits(), self._profile)
        self._robot = RobotState(self._profile)
        commands = self._commands = CommandExecutor(
            self, self._profile, p.commands(), self._robot, self._snapshot, "" if self._results.trained else UNTRAINED
        )
        self._inference = InferenceLoop(
            self._policy, self._profile, p.inference_rate_hz, snapshot=self._snapshot, task=lambda: self._prompt,
            generation=lambda: commands.generation, publish=self._publish,
            failed=commands.refuse, logger=self.get_logger(),
            episode=lambda: p.seed + goals.begun - 1 if goals.begun else None,
        )  # fmt: skip
        facts = {
            "model_id": self._policy.model_id,
            "checkpoint": p.checkpoint or p.server_uri or "none",
            "robot": self._profile.name,
        }
        self._watch = Watch(
            self, inputs=self._inputs, inference=self._inference, commands=self._commands, results=self._results,
            task=lambda: self._prompt, facts=facts,
        )  # fmt: skip
        self._subscribe()
        grippers = [gripper.command_topic for gripper in self._profile.grippers.values()]
        commanded = (*self._profile.target_topics().values(), *grippers, self._profile.enable_topic)
        warn_of_unused_overrides(self, made_later=commanded)
        self._commands.allow(self.get_parameter("publish_commands").value)
        self._goals.activate(self._commands, lambda: self._snapshot().problems)
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
        self._goals.destroy()
        self._goals = None
        self._results.destroy()
        self._paths.destroy()
        self.destroy_publisher(self._diagnostics)
        self._policy.close()
        self._policy = None
        gc.unfreeze()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, _: LifecycleState) -> TransitionCallbackReturn:
        """End from any state."""
        self._deactivate()
        return TransitionCallbackReturn.SUCCESS

    def _end_threads(self) -> None:
        if self._commands and self._inference:
            self._commands.stop()  # first: the robot stops before anything else is waited for
            self._goals.deactivate()
            self._inference.stop()
            self._lingering = self._inference
        self._commands = self._inference = None

    def _subscribe(self) -> None:
        newest, no_events = newest_only()
        profile = self._profile

        def subscribe(kind: type, topic: str, callback: object, qos: QoSProfile | int) -> str:
            """Returns the topic's name as it is after remapping."""
            interface = self.create_subscription(
                kind, topic, callback, qos, event_callbacks=no_events if qos is newest else None
            )
            self._interfaces.append((self.destroy_subscription, interface))
            return interface.topic_name

        p, arrived = self._settings, self._inference.frame_arrived
        node = self._cameras or self
        cameras = open_cameras(node, profile, self._inputs, arrived, p.stream_port, p.hardware_decoding)
        self._interfaces += [(type(camera).close, camera) for camera in cameras]
        for name, part in profile.joint_parts().items():
            topic = subscribe(
                JointState, part.state_topic, lambda message, name=name: self._store(name, message), newest
            )
            self._inputs.add(name, topic, image=False, required=isinstance(part, ArmProfile))
        subscribe(String, "~/set_task", self._on_task, 10)
        subscribe(Float32, profile.enable_topic, self._on_enable, 10)
        for kind, name, answer in ((Trigger, "~/reset", self._on_reset), (Arm, "~/arm", self._on_arm)):
            self._interfaces.append((self.destroy_service, self.create_service(kind, name, answer)))
        if profile.arm_command == "relay":
            subscribe(DiagnosticStatus, RELAY_TOPIC, self._on_relay, 10)
        if profile.dead_man is not None:
            subscribe(Joy, profile.dead_man.topic, lambda message: self._robot.hear_dead_man(message.buttons), newest)
        subscribe(String, profile.mode_topic, self._on_mode, 10)
        subscribe(Int32, profile.fsm_topic, lambda message: self._robot.hear_fsm(message.data), 10)
        # Not the node's clock: a stopped /clock must not stop the watch over it.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        timers = (
            (GOAL_HZ, self._goals.look),
            (WATCH_HZ, self._watch.look),
            (DIAGNOSTICS_HZ, self._publish_diagnostics),
        )
        for rate_hz, callback in timers:
            timer = self.create_timer(1 / rate_hz, callback, clock=steady)
            self._interfaces.append((self.destroy_timer, timer))

    # --- callbacks: they store ---

    def _store(self, name: str, message: JointState) -> None:
        self._inputs.store(name, message, self.get_clock().now().nanoseconds)

    def _on_task(self, message: String) -> None:
        if reason := self._set_prompt(message.data):
            self.get_logger().warning(f"~/set_task: {reason}", throttle_duration_sec=10.0)

    def _set_prompt(self, task: str) -> str:
        """Look at another task; returns why not."""
        (result,) = self.set_parameters([Parameter("prompt", value=task)])
        return result.reason

    def _check_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        task = self._goals and self._goals.task
        if task is not None and any(p.name == "prompt" and p.value != task for p in parameters):
            text = f"the goal {task!r} is being carried out, and no other task can be looked at meanwhile"
            return SetParametersResult(successful=False, reason=text)
        return SetParametersResult(successful=True)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._results.reset_estimator()
        response.success, response.message = True, "the next estimate starts anew"
        return response

    def _on_arm(self, request: Arm.Request, response: Arm.Response) -> Arm.Response:
        if request.arm:
            response.state, against = self._commands.arm(
                request.full_speed, request.hand_back, request.accept_unwatched
            )
            response.accepted = not against
            response.message = f"not armed: {'; '.join(against)}" if against else "armed"
            if against:
                self.get_logger().warning(response.message)
        else:
            response.state = self._commands.situation().state
            self._commands.disarm(Reason.CANCELED, "disarmed by ~/arm")
            response.accepted, response.message = True, "disarmed"
        return response

    def _on_relay(self, message: DiagnosticStatus) -> None:
        self._robot.hear_relay("" if message.level == DiagnosticStatus.OK else message.message)

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
                    self._commands.forget()
                self.get_logger().info(f"task: {self._prompt!r}")
            elif parameter.name == "publish_commands" and self._commands:
                self._commands.allow(parameter.value)

    def _snapshot(self) -> Snapshot:
        return self._inputs.snapshot(self.get_clock().now().nanoseconds)

    def _publish_diagnostics(self) -> None:
        self._diagnostics.publish(self._watch.diagnostics())

    # --- called by the inference thread ---

    def _publish(self, result: Result) -> None:
        chunk = self._results.publish(result)
        # Not before: what cannot be said in messages does not move the robot.
        self._commands.offer(chunk, self.get_clock().now().nanoseconds * 1e-9, result.generation)
        self._paths.publish(chunk)


@program("policy_node")
def main() -> int:
    """Entry point; returns the exit status."""
    with ros_session(signals=(*END_SIGNALS, signal.SIGHUP), commands=True) as stop:
        node = PolicyNode(stop)
        status = node.run()
    if node.busy:
        end_at_once(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
