"""The simulated Teleavatar as ROS 2 sees it: the topics, rules and rates of profile ``teleavatar``.

Threads: one steps the physics at 200 Hz and publishes states (main thread), one renders and publishes images on
snapshots, one runs the executor whose callbacks only store commands. `_lock` guards what callbacks and the physics
thread share: the robot and the mode.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32
from std_srvs.srv import SetBool, Trigger

from pi05_progress.robots.joints import MessageError, clipped, ordered
from pi05_progress.robots.profile import IMAGE_TYPE, SIDES, RobotProfile
from pi05_progress.robots.teleavatar import gripper_command_from_effort
from pi05_progress.robots.yaml_lines import ConfigError

from ..parameters import declare, refuse_unknown
from ..transport import use_image_transport
from .expert.faults import parse_fault
from .physics.cameras import scaled_sizes
from .physics.gl import NoOpenGLError, require_backend
from .physics.tasks import TASKS
from .physics.world import World
from .robot.domain import StartError, check_domain
from .robot.image_publisher import ImagePublisher
from .robot.robot import STATE_HZ, Robot
from .robot.robot_api import State
from .robot.states import API, IMAGE_HZ, TELEOPERATION, StatePublisher, is_image_tick, to_time
from .robot.truth import Truth

if TYPE_CHECKING:
    from .expert.operator import Operator

ARM_COMMANDS = ("auto", "position", "velocity")
BEHIND_S = 0.2  # how far the simulation may lag the clock before it says so
DISCOVERY_S = 1.5  # how long another robot in this domain is looked for
NAME_S, UNKNOWN_NAME = 2.0, "_NODE_NAME_UNKNOWN_"
RENDER_TIMEOUT_S = 10.0  # how long a lockstep step waits for the cameras


def publisher_names(node: Node, topic: str) -> list[str]:
    """Names of the nodes that publish a topic; waits a little, since a name is known later than its publisher."""
    until = time.monotonic() + NAME_S
    while True:
        names = sorted({info.node_name for info in node.get_publishers_info_by_topic(topic)})
        if UNKNOWN_NAME not in names or time.monotonic() > until:
            return names
        time.sleep(0.05)


def check_alone(node: Node, topic: str) -> None:
    """Refuse to be a second robot: two that answer to the same topics cannot be told apart.

    Raises:
        StartError: somebody already publishes the topic in this domain.
    """
    until = time.monotonic() + DISCOVERY_S
    while time.monotonic() < until:
        if node.count_publishers(topic):
            names, domain = ", ".join(publisher_names(node, topic)), os.environ.get("ROS_DOMAIN_ID", "0")
            raise StartError(
                f"{topic} is already published by {names} in ROS domain {domain}: "
                "another robot or simulation is running. Stop it, or use another ROS_DOMAIN_ID."
            )
        time.sleep(0.05)


class RobotNode(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("simulated_robot")
        self._declare()
        check_domain(int(os.environ.get("ROS_DOMAIN_ID", "0") or 0), self._get("force_domain"))
        self._profile = self._load_profile()
        self._robot = Robot(World(self._checked("task", TASKS), self._get("seed"), self._arm_command()))
        self._lockstep = self._get("lockstep")
        check_alone(self, self._profile.arms["left"].state_topic)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._requests = threading.Condition()  # guards the two below: services ask, the physics thread does
        self._steps_asked, self._reset_asked = 0, False
        self._make_interfaces()
        self._states = StatePublisher(self, self._robot, self._profile)
        self._truth = Truth(self, self._robot)
        self._operator = self._make_operator() if self._get("expert") else None
        self._mode = TELEOPERATION if self._get("teleoperation") or self._operator else API
        self._images = self._make_images() if self._get("images") else None

    # --- parameters ---

    def _declare(self) -> None:
        count = (0, 2**31 - 1)
        declare(self, "profile", "teleavatar", "robot profile: a name, or the path of a YAML file")
        declare(self, "task", "stack_cubes", f"task on the table, one of {', '.join(TASKS)}")
        text = "decides where objects lie and which arm works; a new value counts from the next reset"
        declare(self, "seed", 0, text, between=count, read_only=False)
        text = "what arms follow on /api: position (V2), velocity (V1) or auto (as the profile says)"
        declare(self, "arm_command", "auto", text)
        text = "image size as a share of the real cameras' resolution"
        declare(self, "image_scale", 0.5, text, between=(0.05, 1.0))
        declare(self, "images", True, "render and publish camera images")
        declare(self, "teleoperation", False, "start in teleoperation mode instead of API mode")
        text = "a scripted operator does the task through the teleoperation topics (starts in teleoperation mode)"
        declare(self, "expert", False, text)
        text = "how many episodes the expert does, each with the next seed; 0 for no end"
        declare(self, "expert_episodes", 1, text, between=count)
        text = "what goes wrong in the expert's episodes: KIND or KIND:PICK, e.g. missed_grasp:0"
        declare(self, "faults", [""], text)
        text = "share of the episodes in which each fault happens; which ones, the seed decides"
        declare(self, "fault_share", 1.0, text, between=(0.0, 1.0))
        declare(self, "lockstep", False, "step only when /sim/step is called")
        text = "simulated time of one lockstep step, s"
        declare(self, "lockstep_step_s", 1 / IMAGE_HZ, text, between=(1 / STATE_HZ, 10.0))
        declare(self, "force_domain", False, "allow the production robot's ROS domain")
        refuse_unknown(self)

    def _get(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _checked(self, name: str, known: Any) -> str:
        value = self._get(name)
        if value not in known:
            raise StartError(f"parameter {name}: unknown {name} {value!r}; known: {', '.join(known)}")
        return value

    def _load_profile(self) -> RobotProfile:
        try:
            profile = RobotProfile.load(self._get("profile"))
        except ConfigError as error:
            raise StartError(f"parameter profile: {error}") from error
        if kinds := sorted({c.type for c in profile.cameras.values()} - {IMAGE_TYPE}):
            raise StartError(
                f"parameter profile: cameras of {profile.name} arrive as {', '.join(kinds)}; "
                f"the simulated robot publishes {IMAGE_TYPE} only: use profile teleavatar"
            )
        return profile

    def _arm_command(self) -> str:
        value = self._checked("arm_command", ARM_COMMANDS)
        if value != "auto":
            return value
        return "velocity" if self._profile.arm_command == "relay" else "position"

    def _make_operator(self) -> Operator:
        from .expert.operator import Operator  # its solver takes seconds to import; only those who need it wait

        faults = [text for text in self._get("faults") if text]
        for text in faults:
            parse_fault(text)
        self._episodes_left = self._get("expert_episodes") or float("inf")
        return Operator(self, self._robot.world, self._profile, faults, self._get("fault_share"))

    def _make_images(self) -> ImagePublisher:
        require_backend()
        images = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        cameras = self._profile.cameras
        publishers = {key: self.create_publisher(Image, camera.topic, images) for key, camera in cameras.items()}
        return ImagePublisher(self._robot.world.model, scaled_sizes(self._get("image_scale")), publishers)

    def _make_interfaces(self) -> None:
        states, profile = QoSProfile(depth=10), self._profile
        self._clock_pub = self.create_publisher(Clock, "/clock", qos_profile_sensor_data)
        for side in SIDES:
            arm, gripper = profile.arms[side], profile.grippers[side]
            for topic, source in ((arm.command_topic, API), (arm.teleoperation_topic, TELEOPERATION)):

                def follow(message: JointState, side: str = side, source: int = source, topic: str = topic) -> None:
                    self._on_arm(message, side, source, topic)

                self.create_subscription(JointState, topic, follow, states)
            self.create_subscription(Float32, gripper.command_topic, lambda m, s=side: self._on_gripper(m, s), states)
            self.create_subscription(
                JointState, gripper.teleoperation_topic, lambda m, s=side: self._on_operator_gripper(m, s), states
            )
        self.create_subscription(Float32, profile.enable_topic, self._on_enable, states)
        self.create_service(SetBool, "/sim/set_teleoperation", self._set_teleoperation)
        self.create_service(Trigger, "/sim/reset", self._on_reset)
        self.create_service(Trigger, "/sim/step", self._on_step)

    # --- callbacks: they validate and store ---

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text, throttle_duration_sec=1.0)

    def _on_arm(self, message: JointState, side: str, source: int, topic: str) -> None:
        if source != self._mode:
            return
        names = self._profile.arms[side].joints
        velocity_style = source == API and self._robot.world.arm_command == "velocity"
        try:
            target = ordered(message.name, message.position, names, f"{topic} position")
            velocity = ordered(message.name, message.velocity, names, f"{topic} velocity") if velocity_style else None
        except MessageError as error:
            self._warn(f"rejected: {error}")
            return
        target, notes = clipped(target, self._profile.arms[side].limits(), names)
        if notes:
            self._warn(f"{topic} clipped to the joint range: {'; '.join(notes)}")
        with self._lock:
            machine, now = self._robot.machine, self._robot.now_s
            if machine.state == State.PAUSE and source == API and not machine.enabled(now):
                self._warn(f"{topic} ignored in PAUSE: publish {self._profile.enable_topic} (1.0, repeated) first")
            self._robot.command_arm(side, target, velocity)
            if source == TELEOPERATION:  # the operator's hand on both arms is what enables
                machine.enable(1.0, now)

    def _on_gripper(self, message: Float32, side: str) -> None:
        if self._mode != API:
            return
        topic = self._profile.grippers[side].command_topic
        if not np.isfinite(message.data):
            self._warn(f"rejected: {topic} is {message.data}")
            return
        value = float(np.clip(message.data, 0.0, 1.0))
        if value != message.data:
            self._warn(f"{topic} {message.data:.3f} clipped to {value:.0f}")
        with self._lock:
            self._robot.command_gripper(side, self._opening(value))

    def _on_operator_gripper(self, message: JointState, side: str) -> None:
        if self._mode != TELEOPERATION:
            return
        gripper = self._profile.grippers[side]
        try:
            effort = ordered(message.name, message.effort, [gripper.joint], f"{gripper.teleoperation_topic} effort")
        except MessageError as error:
            self._warn(f"rejected: {error}")
            return
        command = float(gripper_command_from_effort(effort[0], side, self._profile.gripper_curve))
        with self._lock:
            self._robot.command_gripper(side, self._opening(command))

    def _opening(self, command: float) -> float:
        return command if self._profile.gripper_closed == 0 else 1.0 - command

    def _on_enable(self, message: Float32) -> None:
        if self._mode == API:
            with self._lock:
                value = message.data if np.isfinite(message.data) else 0.0
                self._robot.machine.enable(value, self._robot.now_s)

    def _set_teleoperation(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._lock:
            self._mode = TELEOPERATION if request.data else API
            self._robot.machine.forget()
        response.success, response.message = True, "teleoperation" if request.data else "api"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._requests:
            self._reset_asked = True
            self._requests.notify_all()
            done = self._requests.wait_for(lambda: self.stopped() or not self._reset_asked, 5.0)
        response.success, response.message = bool(done) and not self.stopped(), f"seed {self._robot.world.seed}"
        return response

    def _on_step(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._lockstep:
            response.message = "the simulation runs by itself; start it with lockstep:=true to step it"
            return response
        with self._requests:
            self._steps_asked += 1
            self._requests.notify_all()
            done = self._requests.wait_for(lambda: self.stopped() or not self._steps_asked, RENDER_TIMEOUT_S + 5.0)
        response.success = bool(done) and not self.stopped()
        response.message = f"{self._robot.now_s:.6f}" if response.success else "the step was not completed"
        return response

    # --- physics thread ---

    def run(self) -> None:
        """Step until shut down, in real time or when told; publishes states at 200 Hz and hands out snapshots."""
        if self._images:
            self._images.start()
        if self._lockstep:
            self._run_lockstep()
        else:
            self._run_real_time()

    def _run_real_time(self) -> None:
        started, tick, warned = time.monotonic(), 0, 0.0
        while not self._stop.is_set():
            self._serve_reset()
            self._tick(tick)
            tick += 1
            delay = started + tick / STATE_HZ - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            elif delay < -BEHIND_S:
                if time.monotonic() - warned > 5.0:
                    self.get_logger().warning("the simulation cannot keep up with real time; lower image_scale")
                    warned = time.monotonic()
                started -= delay  # let simulated time lag rather than race to catch up

    def _run_lockstep(self) -> None:
        tick, until_s = 0, 0.0
        while not self._stop.is_set():
            with self._requests:
                if not self._requests.wait_for(lambda: self._steps_asked or self._reset_asked, timeout=0.2):
                    continue
                stepping = self._steps_asked > 0
            self._serve_reset()
            if not stepping:
                continue
            until_s += self._get("lockstep_step_s")
            while (tick + 1) / STATE_HZ <= until_s + 1e-9 and not self._stop.is_set():
                self._tick(tick)
                tick += 1
                if self._images and not self._images.wait_idle(RENDER_TIMEOUT_S):
                    self.get_logger().error("the cameras did not finish; images of this step are missing")
            with self._requests:
                self._steps_asked -= 1
                self._requests.notify_all()

    def _serve_reset(self) -> None:
        with self._requests:
            asked = self._reset_asked
        if asked:
            self._reset(self._get("seed"))
            with self._requests:
                self._reset_asked = False
                self._requests.notify_all()

    def _reset(self, seed: int) -> None:
        self._truth.end_episode()
        with self._lock:
            self._robot.reset(seed)
        if self._operator:
            self._operator.new_episode()

    def _tick(self, tick: int) -> None:
        with self._lock:
            self._robot.advance()
        world = self._robot.world
        stamp = to_time(self._robot.stamp_ns(world.time_s))
        self._clock_pub.publish(Clock(clock=stamp))
        self._states.publish(tick, stamp, self._mode)
        if is_image_tick(tick):
            self._truth.publish()
            if self._images:
                self._images.offer(stamp, world.snapshot())
        if self._operator and tick % 2 == 0:
            over = self._operator.publish(stamp)
            if self._operator.gave_up:
                self._truth.give_up()
            if over and self._episodes_left > 1:
                self._episodes_left -= 1
                self._reset(world.seed + 1)

    # --- end ---

    def stopped(self) -> bool:
        """Whether the end was asked for."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask for the end; safe in a signal handler."""
        self._stop.set()

    def end(self) -> None:
        """Close the episode and end the camera thread. Call it when ``run`` has returned."""
        self.stop()
        self._truth.end_episode()
        if self._images:
            self._images.stop()


def main() -> int:
    """Entry point; returns the exit status."""
    use_image_transport()
    # Signals only ask for the end: the context stays valid until both threads have published their last message.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = RobotNode()
    except (StartError, NoOpenGLError, ValueError) as error:
        print(f"simulated_robot: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: node.stop())
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    callbacks = threading.Thread(target=_spin, args=(executor, node.stopped), name="callbacks")
    callbacks.start()
    try:
        node.run()
    finally:
        node.end()
        callbacks.join()
        rclpy.try_shutdown()
    return 0


def _spin(executor: SingleThreadedExecutor, stopped: Callable[[], bool]) -> None:
    while not stopped():
        executor.spin_once(timeout_sec=0.1)


if __name__ == "__main__":
    sys.exit(main())
