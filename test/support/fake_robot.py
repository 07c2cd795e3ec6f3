"""A made-up robot in front of the policy node, that can be given any fault; it follows commands at once."""

import contextlib
import json
import math
import os
import re
import threading
import time
from collections import Counter
from itertools import takewhile

import numpy as np
from conftest import answer_of, wait_for
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from places import SUPPORT
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32, Int32, String
from undisturbed import MissedError

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.action import RunTask
from pi05_progress_msgs.msg import ActionChunk, TaskProgress
from pi05_progress_msgs.srv import Arm
from pi05_progress_ros.commanding.state_machine import LATE

NODE = "pi05_progress_ros.policy_node"
PROFILE = RobotProfile.load("teleavatar")
PAUSE, READY = 0, 2
HOME = {
    s: np.clip(arm.limits().mean(axis=1) + 0.3, *arm.limits().T) for s, arm in PROFILE.arms.items()
}  # off the table
SAG_RAD = 0.02  # by which the arms stay behind their targets
QUIET_SPINS = 50  # without a command: those that were on their way have come


def parameters(**values):
    """As a command line."""
    return ["--ros-args", *(a for key, value in values.items() for a in ("-p", f"{key}:={value}"))]


def start_node(start, *remaps, **values):
    """A policy node with the policy of node_policies.py unless told otherwise."""
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    given = parameters(**{"policy": "node_policies:by_task", **values})
    return start(NODE, *given, *(a for remap in remaps for a in ("-r", remap)), PYTHONPATH=path)


def said_s(log, text):
    """When the first line with this text was logged, s since the epoch: by the stamp of the node that said it."""
    line = next(line for line in log.splitlines() if text in line)
    return float(re.search(r"\[(\d+\.\d+)\]", line)[1])


def stamp_s(message):
    """Of its header, s since the epoch."""
    return to_s(message.header.stamp)


def to_s(stamp):
    """Of a stamp, s since the epoch."""
    return stamp.sec + stamp.nanosec * 1e-9


def set_parameter(ros, node, name, value, spin=None, node_name="policy_node"):
    """Set a parameter of a node from another one; returns whether it was taken."""
    spin = spin or (lambda: ros.spin_once(node, timeout_sec=0.01))
    client = node.create_client(SetParameters, f"/{node_name}/set_parameters")
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    answer = answer_of(client, request, spin)
    node.destroy_client(client)
    return answer.results[0].successful


LONG = {"max_duration_s": 3600.0, "stall_timeout_s": 3600.0}  # of a goal, for a policy that stands still


class Operator:
    """Arms a policy node and gives it goals, as a person would."""

    def __init__(self, node, name="policy_node"):
        self.client, self.asked_s, self.future, self.answer = node.create_client(Arm, f"/{name}/arm"), 0.0, None, ""
        self.run_task, self.goal = ActionClient(node, RunTask, f"/{name}/run_task"), None  # the last accepted one

    def move(self, task):
        """Arm and give a goal, as often as this is called and needed."""
        if self.arm():
            self.send(task)

    def send(self, task, **options):
        """Give a goal; returns the future of its handle."""
        sent = self.run_task.send_goal_async(RunTask.Goal(task=task, **{**LONG, **options}))
        sent.add_done_callback(
            lambda sent: setattr(self, "goal", sent.result() if sent.result().accepted else self.goal)
        )
        return sent

    def arm(self, arm=True, hand_back=False):
        """Ask now and then, as long as this is called; ``answer`` is the newest one. Returns that it is accepted."""
        if self.future and self.future.done():
            self.answer, accepted, self.future = self.future.result().message, self.future.result().accepted, None
            return accepted and self.asked == (arm, hand_back)
        lost = time.monotonic() > self.asked_s + 10.0
        again = self.future is None and time.monotonic() > self.asked_s + 0.3
        if (again or lost) and self.client.service_is_ready():
            self.asked, self.asked_s = (arm, hand_back), time.monotonic()
            self.future = self.client.call_async(Arm.Request(arm=arm, hand_back=hand_back))
        return False


class FakeRobot:
    """Publishes whatever its attributes say; the node's answers are collected."""

    def __init__(self, ros, process=None):
        self.ros, self.process, self.node = ros, process, ros.create_node("fake_robot")
        self.executor = SingleThreadedExecutor()  # of its own: rclpy's would take the node in anew at every spin
        self.executor.add_node(self.node)
        create, subscribe = self.node.create_publisher, self.node.create_subscription
        self.images = {k: create(Image, c.topic, qos_profile_sensor_data) for k, c in PROFILE.cameras.items()}
        self.arms = {s: create(JointState, PROFILE.arms[s].state_topic, 10) for s in PROFILE.arms}
        self.fsm_pub, self.mode_pub = create(Int32, PROFILE.fsm_topic, 10), create(String, PROFILE.mode_topic, 10)
        self.enable_pub = create(Float32, PROFILE.enable_topic, 10)
        self.task_pub, self.task = create(String, "/policy_node/set_task", 10), "swing"
        self.relay_pub, self.operator = create(DiagnosticStatus, "/arm_relay/status", 10), Operator(self.node)
        self.progress, self.chunks, self.diagnostics, self.percent = [], [], [], []
        self.targets, self.grippers, self.enables = [], [], []  # arms' with stamp and side, grippers' with side
        self.halts = []  # of the targets those that hold an arm where it was measured, with stamp and side
        subscribe(TaskProgress, "/task_progress", self.progress.append, 50)
        subscribe(Float32, "/task_progress/percent", self.percent.append, 50)
        subscribe(ActionChunk, "/action_chunk", self.chunks.append, 50)
        self.told = {}  # texts of the newest diagnostics by the last word of their names
        subscribe(DiagnosticArray, "/diagnostics", self.on_diagnostics, 50)
        for side in PROFILE.arms:
            subscribe(JointState, PROFILE.arms[side].target_topic, lambda m, s=side: self.on_target(m, s), 50)
            subscribe(Float32, PROFILE.grippers[side].command_topic, lambda m, s=side: self.on_gripper(m, s), 50)
        subscribe(Float32, PROFILE.enable_topic, self.on_enable, 50)
        # Positions as they were published lately; what does not exist yet is like no target.
        self.measured = {s: np.full((300, len(arm.joints)), np.inf) for s, arm in PROFILE.arms.items()}
        self.measurements = 0
        self.sent = Counter()  # messages by topic
        self.positions = dict(HOME)
        self.enabled_s, self.last_enable, self.last_is_measured = -math.inf, None, {}
        self.spins_since_command = 0
        self.watched_from, self.looked_s, self.withheld = None, 0.0, False  # see ``undisturbed``
        self.heal()
        threading.Thread(target=self.report, daemon=True).start()

    def heal(self):
        """Without any fault."""
        self.size, self.encoding, self.offset_s = (64, 48), "rgb8", 0.0
        self.frozen, self.silent, self.hanging, self.stamps = set(), set(), set(), {}
        self.change = lambda side, message: message
        self.meta_mode, self.paused, self.follows, self.fsm_says = 1, False, True, None
        self.next_image = self.next_joint = self.next_slow = 0.0
        self.relay(True)

    def relay(self, there):
        """Whether there is one, by its reports."""
        self.relayed = there

    def report(self):
        """As the relay does, whatever else keeps the test busy."""
        with contextlib.suppress(
            rclpy_implementation.InvalidHandle, rclpy_implementation.RCLError
        ):  # until the node is gone
            while self.ros.ok():
                if self.relayed:
                    self.relay_pub.publish(DiagnosticStatus())
                time.sleep(0.05)

    def on_diagnostics(self, message):
        self.diagnostics.append(message)
        self.told.update({s.name.rpartition(" ")[2]: s.message for s in message.status})

    def on_target(self, message, side):
        self.targets.append((stamp_s(message), side, list(message.position)))
        self.spins_since_command = 0
        target = np.array(message.position)
        # Whether this is where the arms were measured lately: to hold them there, and not to go on.
        self.last_is_measured[side] = np.abs(self.measured[side] - target).max(axis=1).min() < 1e-5
        if self.last_is_measured[side]:
            self.halts.append((stamp_s(message), side))
        elif self.follows and self.fsm() == READY:
            self.positions[side] = target - SAG_RAD

    def on_gripper(self, message, side):
        self.grippers.append((side, message.data))
        self.spins_since_command = 0

    def on_enable(self, message):
        self.enables.append(message.data)
        self.last_enable = message.data
        self.enabled_s = time.monotonic() if message.data > 0 else -math.inf
        if message.data > 0:
            self.spins_since_command = 0

    def fsm(self):
        if self.fsm_says is not None:
            return self.fsm_says
        # A robot's patience is 1 s; here a slow machine is none of the faults.
        return READY if time.monotonic() - self.enabled_s < 5.0 and not self.paused else PAUSE

    def spin(self, _=None):
        """Publish what is due and take in what has come."""
        now = time.monotonic()
        self.spins_since_command += 1
        self.withheld |= bool(self.silent) or not self.relayed
        if now >= self.next_joint:
            self.next_joint = now + 0.01
            self.measurements += 1
            for side in PROFILE.arms:
                message = JointState(name=list(PROFILE.arms[side].joints), position=list(self.positions[side]))
                message.velocity = message.effort = [0.0] * len(message.name)
                self.measured[side][self.measurements % 300] = self.positions[side]
                self.send(f"{side}_arm", self.arms[side], message, lambda m, side=side: self.change(side, m))
        if now >= self.next_image:
            self.next_image = now + 1 / 30
            width, height = self.size
            for key, publisher in self.images.items():
                message = Image(width=width, height=height, step=3 * width, encoding=self.encoding)
                seen = 0 if key in self.hanging else self.sent[publisher.topic_name]  # another picture every time
                message.data = bytes([seen % 251]) * (3 * width * height)
                self.send(key, publisher, message)
        if now >= self.next_slow:
            self.next_slow = now + 0.05
            if "fsm" not in self.silent:
                self.fsm_pub.publish(Int32(data=self.fsm()))
            if "mode" not in self.silent:
                self.mode_pub.publish(String(data=json.dumps({"meta_mode": self.meta_mode})))
        self.executor.spin_once(timeout_sec=0.003)

    def send(self, name, publisher, message, change=lambda message: message):
        if name in self.silent:
            return
        if name not in self.frozen or name not in self.stamps:
            nanoseconds = self.node.get_clock().now().nanoseconds + round(self.offset_s * 1e9)
            self.stamps[name] = Time(nanoseconds=nanoseconds).to_msg()
        message.header.stamp = self.stamps[name]
        publisher.publish(change(message))
        self.sent[publisher.topic_name] += 1

    def forget(self):
        """Keep only what comes from now on."""
        for _ in range(10):  # what was on its way
            self.spin()
        collected = (self.progress, self.chunks, self.diagnostics, self.percent)
        for messages in (*collected, self.targets, self.halts, self.grippers, self.enables):
            messages.clear()
        self.told.clear()

    def run(self, seconds):
        """Go on for a while, for what must not happen meanwhile; ``until`` is for what must."""
        self.forget()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.spin()

    def assert_alive(self):
        """The node has not ended; else what it said."""
        assert self.process is None or self.process.poll() is None, self.process.log()
        now = time.monotonic()
        if self.watched_from is not None and now > self.looked_s + 0.5:
            self.looked_s = now
            if self.missed():
                raise MissedError(self.process.log()[self.watched_from :])

    def missed(self):
        """Whether the node missed what was sent to it, or was too slow, since a test began that withholds nothing."""
        if not self.process or self.withheld:
            return False
        said = self.process.log()[self.watched_from :]
        return "nothing for more than" in said or LATE in said

    def until(self, condition, what):
        """Go on until it is so."""

        def met():
            self.assert_alive()
            return condition()

        try:
            wait_for(met, self.spin, what)
        except AssertionError as error:
            said = self.process.log() if self.process else ""
            raise AssertionError(f"{error}; the node's last words:\n{said[-3000:]}") from None

    def set_task(self, task):
        """Look at another task; while a goal is carried out, by another in its place, or by canceling it."""
        self.task, operator = task, self.operator
        self.until(operator.run_task.server_is_ready, "the action")
        if task:
            sent = operator.send(task, preempt=True)
            self.until(sent.done, "an answer to the goal")
            if sent.result().accepted:
                self.forget()  # what was true of the task before
                return
        elif operator.goal:
            canceled = operator.goal.cancel_goal_async()
            self.until(canceled.done, "an answer to canceling the goal")
            self.diagnostics.clear()
            self.told.clear()
        self.until(self.task_pub.get_subscription_count, "a listener for the task")
        self.progress.clear()
        told_s = -math.inf

        def looks():
            nonlocal told_s
            if time.monotonic() > told_s + 0.5:  # none is taken before a goal that failed has ended
                told_s = time.monotonic()
                self.task_pub.publish(String(data=task))
            return self.progress and self.progress[-1].task == task

        self.until(looks, "progress of the task")

    def set_parameter(self, name, value):
        """Whether the node took it."""

        def spin():
            self.assert_alive()
            self.spin()

        return set_parameter(self.ros, self.node, name, value, spin)

    def good(self):
        return bool(self.progress) and math.isfinite(self.progress[-1].progress_raw)

    def unknown(self):
        return bool(self.progress) and math.isnan(self.progress[-1].progress_raw) and self.progress[-1].status == 0

    def moved(self):
        """Whether arms were commanded beyond holding them, within the last second by the stamps."""
        since_s = time.time() - 1.0
        recent = [p for _, s, p in takewhile(lambda target: target[0] > since_s, reversed(self.targets)) if s == "left"]
        return len(recent) > 1 and np.ptp(recent, axis=0).max() > 1e-3

    def moving(self):
        """Whether the policy moves it and says its progress; see ``running``."""
        return self.running() and self.good() and self.moved()

    def running(self):
        """Whether a goal is carried out; the node is armed for that as often as needed, as by a patient operator.

        A busy machine may miss an input at any time, which ends a goal: what is waited for while one is carried out is
        waited for with this.
        """
        if self.state() == "TAKEN_OVER":
            self.operator.arm(hand_back=True)
        elif self.state() in ("LOOKING", "ARMED"):
            self.operator.move(self.task)
        return self.state() == "RUNNING"

    def state(self):
        """In which state commanding is, by the newest diagnostics."""
        return self.statuses().get("commands", "").partition(":")[0]

    def refused(self, text):
        """Whether arming is refused for this reason."""
        return not self.operator.arm() and text in self.operator.answer

    def quiet(self):
        """Whether nothing has been commanded lately."""
        return self.spins_since_command > QUIET_SPINS

    def held(self, seconds=1.0, pose=True):
        """Go on: the robot is paused where it was measured (if that is known), and nothing is commanded after that."""
        self.until(lambda: self.last_enable == 0.0 and self.quiet(), "the pause")
        assert not pose or self.last_is_measured == {"left": True, "right": True}
        self.run(seconds)
        assert self.targets == []
        assert self.grippers == []
        assert [value for value in self.enables if value > 0] == []

    def statuses(self):
        """Texts of the newest diagnostics by the last word of their names."""
        return self.told


def with_fields(message, **fields):
    """The message with other values."""
    for key, value in fields.items():
        setattr(message, key, value)
    return message
