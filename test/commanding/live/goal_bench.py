"""The simulated robot, its relay, its cameras' driver and a policy node; what is commanded, by stamps."""

import functools
import math
import os
import signal
import time
from typing import NamedTuple

import numpy as np
from conftest import wait_for
from expert_policies import SWITCH, WORDS
from fake_robot import LONG, Operator, parameters, stamp_s, start_node
from places import SUPPORT
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32
from std_srvs.srv import SetBool, Trigger
from test_commanding import RELAY, ROBOT, without_shared_memory

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.action import RunTask
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_ros.commanding.state_machine import State

PROFILE = RobotProfile.load("teleavatar")
AGES = {"image_timeout_s": 1.0, "joint_timeout_s": 1.0, "skew_limit_s": 0.5, "stamp_past_limit_s": 5.0}
CAMERAS = [camera.topic for camera in PROFILE.cameras.values()]
ONE_TICK = 8  # messages: what was on its way when the goal ended, and the pose that is held


class Command(NamedTuple):
    """Something that was sent to the robot, and when, s; for ``enable`` whether it keeps the robot enabled."""

    sent_s: float
    what: str
    enables: bool = False


class Goal:
    """One that was accepted."""

    def __init__(self, bench, client, task, preempt=False):
        self.bench, self.task, self.feedback = bench, task, []
        request = RunTask.Goal(task=task, preempt=preempt, **LONG)
        sent = client.send_goal_async(request, lambda message: self.feedback.append(message.feedback))
        bench.until(sent.done, "an answer to the goal")
        self.accepted = sent.result().accepted
        if self.accepted:
            self.handle, self.ending = sent.result(), sent.result().get_result_async()
            self.id = bytes(self.handle.goal_id.uuid).hex()

    def state(self):
        return self.feedback[-1].state if self.feedback else State.ARMED

    def reaches(self, *states):
        """Whether it is in one of the states once it is, or has ended."""
        self.bench.until(lambda: self.ending.done() or self.state() in states, f"one of {states}")
        return not self.ending.done()

    def stop_s(self):
        """When it ended, by the node's event of that."""
        self.bench.until(lambda: self.id in self.bench.stops, "the event of the end")
        return self.bench.stops[self.id]


class Bench:
    """The simulated robot, its relay, its cameras' driver and the node; who arms, and everything that is commanded."""

    def __init__(self, ros, start, folder, rng):
        self.rng, self.folder = rng, folder
        self.policy, self.lost = folder / "policy", folder / "lost"
        self.policy.write_text("")
        self.lost.write_text("")
        path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
        self.run = functools.partial(start, **without_shared_memory(folder), PYTHONPATH=path)
        self.scene, self.next, self.then = "stack_cubes", None, ""
        self.start_robot()
        self.relay = self.run(RELAY)
        self.run("camera_driver", str(self.lost), *CAMERAS)
        environment = {**without_shared_memory(folder), SWITCH: str(self.policy)}
        given = {"policy": "expert_policies:experts", "use_sim_time": "true", "publish_commands": "true", **AGES}
        self.process = start_node(functools.partial(start, **environment), **given)

        self.node, self.other = ros.create_node("operator"), ros.create_node("other_client")
        self.executor = SingleThreadedExecutor()
        for node in (self.node, self.other):
            self.executor.add_node(node)
        self.operator = Operator(self.node)
        self.clients = (self.operator.run_task, ActionClient(self.other, RunTask, "/policy_node/run_task"))
        create, subscribe = self.node.create_client, self.node.create_subscription
        self.reset, self.teleoperation = create(Trigger, "/sim/reset"), create(SetBool, "/sim/set_teleoperation")
        self.commands, self.stops, self.truth = [], {}, [(0.0, 0.0)]
        for side, arm in PROFILE.arms.items():
            subscribe(JointState, arm.target_topic, lambda m, info: self.heard("target", info), 200)
            topic = PROFILE.grippers[side].command_topic
            subscribe(Float32, topic, lambda m, info: self.heard("gripper", info), 200)
        self.somebody = self.node.create_publisher(Float32, PROFILE.enable_topic, 10)
        subscribe(Float32, PROFILE.enable_topic, self.on_enable, 200)
        subscribe(EpisodeEvent, "/episode_event", self.on_event, 50)
        subscribe(Float32, "/sim/progress", lambda m, info: self.truth.append((sent_s(info), m.data)), 50)

    def start_robot(self):
        """The next one has the other task's scene."""
        self.scene = next(scene for scene in WORDS.values() if scene != self.scene)
        remaps = [word for topic in CAMERAS for word in ("-r", f"{topic}:=/driver{topic}")]
        self.robot = self.run(ROBOT, *parameters(image_scale=0.05, task=self.scene, seed=3), *remaps)

    def heard(self, what, info, enables=False):
        self.commands.append(Command(sent_s(info), what, enables))

    def on_enable(self, message, info):
        if message.data > 0 or math.copysign(1, message.data) < 0:  # else a pause of somebody else's
            self.heard("enable", info, message.data > 0)

    def on_event(self, message, info):
        if message.event == EpisodeEvent.STOP:
            self.stops[message.episode_id] = sent_s(info)

    def spin(self):
        assert self.process.poll() is None, self.process.log()[-3000:]
        self.executor.spin_once(timeout_sec=0.02)

    def until(self, condition, what):
        try:
            wait_for(condition, self.spin, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the node's last words:\n{self.process.log()[-3000:]}") from None

    def wait(self, seconds, unless=lambda: False):
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and not unless():
            self.spin()

    def ask(self, client, request):
        """An answer, of a server that may have been started just now."""

        def answered():
            asked = client.call_async(request)
            self.wait(3.0, asked.done)
            return asked.done() and asked.result().success

        self.until(lambda: client.service_is_ready() and answered(), f"an answer of {client.srv_name}")

    def poses(self, seconds):
        """Of all joints, rad (n, 14), from now on for so long by the robot's stamps."""
        found = {side: [] for side in PROFILE.arms}
        subscriptions = [
            self.node.create_subscription(JointState, arm.state_topic, found[side].append, 10)
            for side, arm in PROFILE.arms.items()
        ]
        enough = lambda of: of and stamp_s(of[-1]) - stamp_s(of[0]) >= seconds  # noqa: E731
        self.until(lambda: all(map(enough, found.values())), "states of the arms")
        for subscription in subscriptions:
            self.node.destroy_subscription(subscription)
        rows = min(map(len, found.values()))
        return np.concatenate([np.array([m.position for m in of[-rows:]]) for of in found.values()], axis=1)

    # --- what is looked for ---

    def commanded(self, since_s, until_s=math.inf):
        """What was commanded between two moments although the goal had ended, or the operator had taken over.

        What was on its way at the first of them, before the pause, does not count.
        """
        before = [c for c in self.commands if c.what == "enable" and c.sent_s <= since_s]
        from_s = since_s
        if before and max(before).enables:  # then a pause comes
            paused = lambda: [c.sent_s for c in self.commands if self.pauses(c) and c.sent_s > since_s]  # noqa: E731
            self.until(paused, "the pause")
            from_s = min(paused())
            on_its_way = [c for c in self.commands if since_s < c.sent_s < from_s]
            assert len(on_its_way) <= ONE_TICK, sorted(on_its_way)[:20]
        after = sorted(c for c in self.commands if c.sent_s > from_s and not self.pauses(c))
        return [c for c in after if c.sent_s <= until_s]

    @staticmethod
    def pauses(command):
        return command.what == "enable" and not command.enables

    def paused(self):
        """Whether the last that was said to the robot is a pause."""
        enables = [command for command in self.commands if command.what == "enable"]
        return not enables or not max(enables).enables

    def done(self, until_s):
        """Whether the simulator says that its task was done at a moment, and since when, s."""
        told = [(at_s, value) for at_s, value in self.truth if at_s <= until_s]
        began = next((i for i in range(len(told) - 1, -1, -1) if told[i][1] < 1.0), -1)
        return (True, told[began + 1][0]) if told[-1][1] == 1.0 else (False, math.nan)

    def last_state(self):
        said = [line.split("]: ", 1)[-1] for line in self.process.log().splitlines()]
        return next((s for s in (words.partition(":")[0] for words in reversed(said)) if s in State.__members__), "")

    # --- from goal to goal ---

    def goal(self, task):
        """Arm, begin anew in the simulation, and give a goal; patiently, as an operator would."""
        while True:
            self.until(self.operator.arm, "arming")
            self.ask(self.reset, Trigger.Request())
            self.wait(0.3)
            moved = [command for command in self.commands if command.what != "enable" or command.enables]
            assert not moved, f"commanded before there was a goal: {moved[:5]}"
            goal = Goal(self, self.clients[0], task)
            if goal.accepted:
                return goal

    def now(self, goal):
        """The time at which something befalls the goal, s; in which state it is then is kept."""
        self.then = State(goal.state()).name
        return time.time()

    def heal(self):
        """Everything as it should be, whatever was done."""
        self.policy.write_text("")
        self.lost.write_text("")
        self.robot.send_signal(signal.SIGCONT)
        if self.robot.poll() is not None:
            self.start_robot()
        if self.relay.poll() is not None:
            self.relay = self.run(RELAY)
        self.ask(self.teleoperation, SetBool.Request(data=False))


def sent_s(info):
    return info["source_timestamp"] * 1e-9
