"""The simulated Teleavatar as ROS 2 sees it: the topics, rules and rates of profile ``teleavatar``.

Threads: one steps the physics at 200 Hz and publishes states (main thread), one renders and publishes images on
snapshots, one runs the executor whose callbacks only store commands. `_lock` guards what callbacks and the physics
thread share: the state machine, gripper commands and the mode.
"""

from __future__ import annotations

import array
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32, Int32, String
from std_srvs.srv import SetBool

from pi05_progress.robots.teleavatar import gripper_command_from_effort, gripper_effort_from_command

from ..transport import use_image_transport
from .cameras import CameraRig, scaled_sizes
from .expert import Expert
from .gl import NoOpenGLError
from .robot_api import CommandError, State, StateMachine, clipped, ordered
from .tasks import TASKS
from .world import World

SIDES = ("left", "right")
STATE_HZ = 200
IMAGE_HZ = 30
FSM_HZ = 20
PRODUCTION_DOMAIN = 29
IMAGE_TOPICS = {
    "left_color": "/left/color/image_raw",
    "right_color": "/right/color/image_raw",
    "head_camera": "/head/image_raw",
}
TELEOPERATION, API = 0, 1
VELOCITY_TIMEOUT_S = 0.1  # a velocity is not run on for longer than this: no command means no motion
BEHIND_S = 0.2  # how far the simulation may lag the clock before it says so


class StartError(RuntimeError):
    """The node must not or cannot start; the message says why and what to do."""


def check_domain(domain: int, force: bool) -> None:
    """Refuse the production robot's domain.

    Raises:
        StartError: the domain is the robot's and it was not forced.
    """
    if domain == PRODUCTION_DOMAIN and not force:
        raise StartError(
            f"ROS_DOMAIN_ID={domain} is the production robot's: a simulation there could be taken for it. "
            "Use another domain, e.g. ROS_DOMAIN_ID=42, or set the parameter force_domain to true."
        )


def describe(text: str, read_only: bool = True, **ranges: Any) -> ParameterDescriptor:
    """A parameter's descriptor."""
    return ParameterDescriptor(description=text, read_only=read_only, **ranges)


class RobotNode(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("simulated_robot")
        self._declare()
        check_domain(int(os.environ.get("ROS_DOMAIN_ID", "0") or 0), self._get("force_domain"))
        task = self._get("task")
        if task not in TASKS:
            raise StartError(f"parameter task: unknown task {task!r}; known tasks: {', '.join(TASKS)}")
        arm_command = self._get("arm_command")
        if arm_command not in ("position", "velocity"):
            raise StartError(f"parameter arm_command: {arm_command!r} is neither 'position' nor 'velocity'")
        self.world = World(task, self._get("seed"), arm_command)
        self._sizes = scaled_sizes(self._get("image_scale"))
        self._lock = threading.Lock()
        self._machine = StateMachine()
        self._grippers = dict.fromkeys(SIDES, 1.0)
        self._operator = Operator(self) if self._get("expert") else None
        self._mode = TELEOPERATION if self._get("teleoperation") or self._operator else API
        self._held: dict[str, np.ndarray | None] = {}  # per arm the pose it holds; None while it follows
        self._velocities: dict[str, tuple[float, np.ndarray]] = {}
        self._snapshot: tuple[Time, np.ndarray] | None = None
        self._new_frame = threading.Condition()
        self._stop = threading.Event()
        self._make_interfaces()

    def _declare(self) -> None:
        scale = [FloatingPointRange(from_value=0.05, to_value=1.0)]
        self.declare_parameter("task", "stack_cubes", describe(f"task on the table, one of {', '.join(TASKS)}"))
        seed = [IntegerRange(from_value=0, to_value=2**31 - 1)]
        self.declare_parameter("seed", 0, describe("decides where objects lie and which arm works", integer_range=seed))
        self.declare_parameter("arm_command", "position", describe("what arms follow: position (V2) or velocity (V1)"))
        text = "image size as a share of the real cameras' resolution"
        self.declare_parameter("image_scale", 0.5, describe(text, floating_point_range=scale))
        self.declare_parameter("images", True, describe("render and publish camera images"))
        self.declare_parameter("teleoperation", False, describe("start in teleoperation mode instead of API mode"))
        text = "a scripted operator does the task through the teleoperation topics (starts in teleoperation mode)"
        self.declare_parameter("expert", False, describe(text))
        self.declare_parameter("force_domain", False, describe("allow the production robot's ROS domain"))

    def _get(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _make_interfaces(self) -> None:
        states = QoSProfile(depth=10)
        images = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._clock_pub = self.create_publisher(Clock, "/clock", qos_profile_sensor_data)
        self._fsm_pub = self.create_publisher(Int32, "/fsm_state", states)
        self._mode_pub = self.create_publisher(String, "/api/current_mode", states)
        self._progress_pub = self.create_publisher(Float32, "/sim/progress", states)
        self._task_pub = self.create_publisher(String, "/sim/task", states)
        self._joint_pubs = {}
        for side in SIDES:
            for part in ("arm", "gripper"):
                self._joint_pubs[side, part] = self.create_publisher(JointState, f"/{side}_{part}/joint_states", states)
            self.create_subscription(
                JointState, f"/api/{side}_arm/joint_cmd", lambda m, s=side: self._arm_command(m, s, API), states
            )
            self.create_subscription(
                JointState, f"/{side}_arm/joint_cmd", lambda m, s=side: self._arm_command(m, s, TELEOPERATION), states
            )
            self.create_subscription(Float32, f"/api/{side}_gripper/cmd", lambda m, s=side: self._gripper(m, s), states)
            self.create_subscription(
                JointState, f"/{side}_gripper/joint_cmd", lambda m, s=side: self._operator_gripper(m, s), states
            )
        self.create_subscription(Float32, "/api/fsm/enable", self._enable, states)
        self.create_service(SetBool, "/sim/set_teleoperation", self._set_teleoperation)
        self._image_pubs = {key: self.create_publisher(Image, topic, images) for key, topic in IMAGE_TOPICS.items()}

    # --- callbacks: they validate and store ---

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text, throttle_duration_sec=1.0)

    def _arm_command(self, message: JointState, side: str, source: int) -> None:
        if source != self._mode:
            return
        topic = f"{'/api/' if source == API else '/'}{side}_arm/joint_cmd"
        names = self.world.joint_names(side)
        velocity_style = source == API and self.world.arm_command == "velocity"
        try:
            target = ordered(message.name, message.position, names, f"{topic} position")
            velocity = ordered(message.name, message.velocity, names, f"{topic} velocity") if velocity_style else None
        except CommandError as error:
            self._warn(f"rejected: {error}")
            return
        target, notes = clipped(target, self.world.joint_ranges(side), names)
        if notes:
            self._warn(f"{topic} clipped to the joint range: {'; '.join(notes)}")
        with self._lock:
            now = self.world.time_s
            if self._machine.state == State.PAUSE and source == API and not self._machine.enabled(now):
                self._warn(f"{topic} ignored in PAUSE: publish /api/fsm/enable (1.0, repeated) first")
            self._machine.command(side, target, now)
            if velocity is not None:
                self._velocities[side] = (now, velocity)
            if source == TELEOPERATION:  # the operator's hand on both arms is what enables
                self._machine.enable(1.0, now)

    def _gripper(self, message: Float32, side: str) -> None:
        if self._mode != API:
            return
        if not np.isfinite(message.data):
            self._warn(f"rejected: /api/{side}_gripper/cmd is {message.data}")
            return
        value = float(np.clip(message.data, 0.0, 1.0))
        if value != message.data:
            self._warn(f"/api/{side}_gripper/cmd {message.data:.3f} clipped to {value:.0f}")
        with self._lock:
            self._grippers[side] = value

    def _operator_gripper(self, message: JointState, side: str) -> None:
        if self._mode != TELEOPERATION:
            return
        try:
            effort = ordered(message.name, message.effort, [f"{side[0]}_joint8"], f"/{side}_gripper/joint_cmd effort")
        except CommandError as error:
            self._warn(f"rejected: {error}")
            return
        with self._lock:
            self._grippers[side] = float(gripper_command_from_effort(effort[0], side))

    def _enable(self, message: Float32) -> None:
        if self._mode == API:
            with self._lock:
                self._machine.enable(message.data if np.isfinite(message.data) else 0.0, self.world.time_s)

    def _set_teleoperation(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._lock:
            self._mode = TELEOPERATION if request.data else API
            self._machine.forget()
        response.success, response.message = True, "teleoperation" if request.data else "api"
        return response

    # --- physics thread ---

    def run(self) -> None:
        """Step in real time until shut down; publishes states at 200 Hz and hands snapshots to the cameras."""
        started, tick, warned = time.monotonic(), 0, 0.0
        while not self._stop.is_set():
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

    def _tick(self, tick: int) -> None:
        world = self.world
        with self._lock:
            positions = {side: world.arm_state(side).position for side in SIDES}
            follow = self._machine.update(positions, world.time_s)
            for side in SIDES:
                self._follow(side, follow[side])
                if self._machine.state != State.PAUSE:
                    world.set_gripper(side, self._grippers[side])
            while world.time_s < (tick + 1) / STATE_HZ - world.timestep_s / 2:
                world.step()
            state = self._machine.state
        stamp = self._stamp()
        self._clock_pub.publish(Clock(clock=stamp))
        self._publish_joints(stamp)
        if self._operator and tick % 2 == 0:
            self._operator.publish(stamp)
        if tick % (STATE_HZ // FSM_HZ) == 0:
            self._fsm_pub.publish(Int32(data=int(state)))
        if tick % STATE_HZ == 0:
            self._mode_pub.publish(String(data=json.dumps({"meta_mode": self._mode})))
            self._task_pub.publish(String(data=world.instruction))
        if tick * IMAGE_HZ // STATE_HZ != (tick - 1) * IMAGE_HZ // STATE_HZ:
            self._progress_pub.publish(Float32(data=world.task_status().progress))
            with self._new_frame:
                self._snapshot = (stamp, world.snapshot())
                self._new_frame.notify()

    def _follow(self, side: str, target: np.ndarray | None) -> None:
        world = self.world
        if target is None:
            if self._held.get(side) is None:
                self._held[side] = world.arm_state(side).position
                world.set_arm_position(side, self._held[side])
            return
        self._held[side] = None
        stamped = self._velocities.get(side)
        if self._machine.state == State.READY and stamped is not None and self._mode == API:
            fresh = world.time_s - stamped[0] <= VELOCITY_TIMEOUT_S
            world.set_arm_velocity(side, stamped[1] if fresh else np.zeros(7))
        else:
            world.set_arm_position(side, target)

    def _stamp(self) -> Time:
        nanoseconds = round(self.world.time_s * 1e9)
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

    def _publish_joints(self, stamp: Time) -> None:
        for side in SIDES:
            arm, gripper = self.world.arm_state(side), self.world.gripper_state(side)
            message = JointState(name=self.world.joint_names(side))
            message.header.stamp = stamp
            message.position, message.velocity, message.effort = (v.tolist() for v in arm)
            self._joint_pubs[side, "arm"].publish(message)
            message = JointState(name=[f"{side[0]}_joint8"])
            message.header.stamp = stamp
            message.position, message.velocity, message.effort = ([v] for v in gripper)
            self._joint_pubs[side, "gripper"].publish(message)

    # --- camera thread ---

    def run_cameras(self) -> None:
        """Render the newest snapshot whenever there is a new one."""
        rig = CameraRig(self.world.model, self._sizes)
        try:
            while not self._stop.is_set():
                with self._new_frame:
                    if not self._new_frame.wait_for(lambda: self._snapshot is not None, timeout=0.2):
                        continue
                    stamp, snapshot = self._snapshot
                    self._snapshot = None
                for key, image in rig.render(snapshot).items():
                    self._image_pubs[key].publish(image_message(image, stamp, key))
        finally:
            rig.close()

    def stopped(self) -> bool:
        """Whether the end was asked for."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End both threads."""
        self._stop.set()


class Operator:
    """The scripted expert at 100 Hz on the teleoperation topics; its commands come back to the robot through DDS.

    Runs in the physics thread, so it may look at the world without a lock.
    """

    def __init__(self, node: RobotNode) -> None:
        self._world, self._node = node.world, node
        self._expert = Expert(node.world, node.world.seed)
        parts = [(side, part) for side in SIDES for part in ("arm", "gripper")]
        self._pubs = {sp: node.create_publisher(JointState, f"/{sp[0]}_{sp[1]}/joint_cmd", 10) for sp in parts}
        self._reported = False

    def publish(self, stamp: Time) -> None:
        """Send what the operator commands now; after the episode the last pose is repeated."""
        command = self._expert.command()
        for side in SIDES:
            message = JointState(name=self._world.joint_names(side), position=getattr(command, side).tolist())
            message.header.stamp = stamp
            self._pubs[side, "arm"].publish(message)
            effort = float(gripper_effort_from_command(getattr(command, f"{side}_gripper"), side))
            message = JointState(name=[f"{side[0]}_joint8"], effort=[effort])
            message.header.stamp = stamp
            self._pubs[side, "gripper"].publish(message)
        if self._expert.finished and not self._reported:
            status = self._world.task_status()
            self._node.get_logger().info(f"episode {self._world.seed} ended: {status.outcome} {status.reason}")
            self._reported = True


def image_message(image: np.ndarray, stamp: Time, frame: str) -> Image:
    """An rgb8 message from uint8 (h, w, 3)."""
    message = Image(height=image.shape[0], width=image.shape[1], encoding="rgb8", step=image.shape[1] * 3)
    message.header.stamp, message.header.frame_id = stamp, frame
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).data.cast("B"))
    message.data = data
    return message


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
    cameras = threading.Thread(target=node.run_cameras)
    if node.get_parameter("images").value:
        cameras.start()
    callbacks = threading.Thread(target=_spin, args=(executor, node.stopped))
    callbacks.start()
    try:
        node.run()
    finally:
        node.stop()
        for thread in (callbacks, cameras):
            if thread.ident:
                thread.join()
        rclpy.try_shutdown()
    return 0


def _spin(executor: SingleThreadedExecutor, stopped: Callable[[], bool]) -> None:
    while not stopped():
        executor.spin_once(timeout_sec=0.1)


if __name__ == "__main__":
    sys.exit(main())
