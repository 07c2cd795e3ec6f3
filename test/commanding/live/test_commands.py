"""The commands' thread by itself: chunks from before a change, a fault of its own, its end without a robot."""

import time

import numpy as np
from conftest import wait_for
from fake_robot import HOME
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32

from pi05_progress.robots.profile import DeadManProfile, RobotProfile
from pi05_progress_ros.commanding.chunks import Chunk
from pi05_progress_ros.commanding.command_rules import CommandSettings
from pi05_progress_ros.commanding.commands import CommandExecutor
from pi05_progress_ros.commanding.publishers import ACKNOWLEDGED_S
from pi05_progress_ros.commanding.robot_state import RobotState
from pi05_progress_ros.commanding.state_machine import Reason, State
from pi05_progress_ros.inputs import Snapshot

PROFILE = RobotProfile.load("teleavatar")


class Bench:
    """An executor, as a context, for a robot that always says that it is well."""

    def __init__(self, ros, profile=PROFILE, robot=RobotState, **settings):
        self.ros, self.node, self.enables, self.fault = ros, ros.create_node("commander"), [], None
        self.mode, self.targets, self.efforts = 1, [], [0.0] * 7
        self.robot, self.buttons = robot(profile), None
        self.node.create_subscription(Float32, PROFILE.enable_topic, lambda m: self.enables.append(m.data), 50)
        topic = PROFILE.target_topics()["left"]
        self.node.create_subscription(JointState, topic, lambda m: self.targets.append(m.position[0]), 50)
        settings = CommandSettings(**settings)
        self.commands = CommandExecutor(self.node, profile, settings, self.robot, self.snapshot, "")
        self.commands.allow(True)
        self.commands.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.commands.stop()
        self.node.destroy_node()

    def snapshot(self):
        if self.fault:
            raise self.fault
        arms = PROFILE.arms.items()
        messages = {f"{s}_arm": JointState(name=list(arm.joints), position=HOME[s].tolist()) for s, arm in arms}
        for message in messages.values():
            message.velocity, message.effort = [0.0] * 7, self.efforts
        return Snapshot(messages, {}, ())

    def until(self, condition, what):
        def spin():
            self.robot.hear_fsm(2)
            self.robot.hear_mode(f'{{"meta_mode": {self.mode}}}')
            self.robot.hear_relay("")
            if self.buttons:
                self.robot.hear_dead_man(self.buttons)
            self.ros.spin_once(self.node, timeout_sec=0.01)

        wait_for(condition, spin, what)

    def offer(self, generation, value=0.0):
        now_s = self.node.get_clock().now().nanoseconds * 1e-9
        rows = np.zeros((60, PROFILE.layout.action_size))
        for side, columns in PROFILE.layout.arms.items():
            rows[:, columns] = HOME[side]
        rows[:, 0] = value
        self.commands.offer(Chunk(now_s, 1.0, rows), now_s, generation)

    def state(self):
        return self.commands.situation().state

    def take_goal(self):
        self.until(lambda: not self.commands.arm(False, False)[1] and self.commands.accept(), "a goal")

    def carry_out(self):
        self.offer(self.commands.generation, HOME["left"][0])
        self.until(lambda: self.state() == State.RUNNING and 1.0 in self.enables, "a goal that is carried out")


def test_chunks_begun_before_a_change_move_nothing_and_a_fault_of_the_thread_pauses_the_robot(ros):
    with Bench(ros) as bench:
        bench.until(lambda: not bench.commands.arm(False, False)[1], "arming")
        begun = bench.commands.generation
        assert bench.commands.accept()
        bench.offer(begun)
        ticks = time.monotonic() + 0.3
        bench.until(lambda: time.monotonic() > ticks, "some ticks")
        assert bench.state() == State.ARMED and bench.enables == [], "a chunk for the task before"
        bench.offer(bench.commands.generation)
        bench.until(lambda: bench.state() == State.RUNNING and 1.0 in bench.enables, "a goal that is carried out")
        bench.fault = RuntimeError("no snapshot")
        bench.until(lambda: bench.enables[-1] == 0.0, "the pause")
        assert bench.state() == State.LOOKING and bench.commands.situation().broken


def test_arms_that_are_handed_back_go_where_the_newest_chunk_says_however_long_one_is_carried_out(ros):
    middle = HOME["left"][0]
    with Bench(ros, execute_s=10.0) as bench:
        bench.until(lambda: not bench.commands.arm(False, False)[1], "arming")
        assert bench.commands.accept()
        bench.offer(bench.commands.generation, -9.0)
        bench.until(lambda: bench.targets and bench.targets[-1] < middle - 0.01, "the first chunk")
        bench.mode = 0
        bench.until(lambda: bench.state() == State.TAKEN_OVER, "the takeover")
        for value in (-9.0, 9.0):
            bench.offer(bench.commands.generation, value)
        bench.mode = 1
        bench.until(lambda: not bench.commands.arm(False, True)[1], "handing back")
        bench.targets.clear()
        bench.until(lambda: bench.targets and abs(bench.targets[-1] - middle) > 0.01, "motion")
        assert bench.targets[-1] > middle


def test_at_the_end_a_robot_that_does_not_answer_is_waited_for_once_not_per_topic(ros, monkeypatch):
    waited_s = []

    def never(_, timeout):
        waited_s.append(timeout.nanoseconds * 1e-9)
        time.sleep(waited_s[-1])

    monkeypatch.setattr(Publisher, "wait_for_all_acked", never)
    bench = Bench(ros)
    bench.until(lambda: not bench.commands.arm(False, False)[1], "arming")
    bench.commands.stop()
    assert len(waited_s) == 5 and sum(waited_s) <= ACKNOWLEDGED_S + 1e-6


def test_arming_is_refused_for_what_is_untested_or_not_watched(ros):
    with Bench(ros, profile=PROFILE.model_copy(update={"tested_stop": None, "geometry": None})) as bench:

        def alone():
            against = bench.commands.arm(False, False)[1]
            return len(against) == 2 and "no tested stop" in against[0]

        bench.until(alone, "nothing else that speaks against it")
        stop, links = bench.commands.arm(False, False)[1]
        assert "the profile teleavatar names no tested stop" in stop
        assert "not watched is the speed of links" in links and "arm with accept_unwatched if that may be" in links
        assert bench.commands.arm(False, False, accept_unwatched=True)[1] == (stop,)


def test_what_is_accepted_while_the_thread_looks_is_not_held_against_it(ros):
    class Asked(RobotState):
        """Arms between two steps of a tick, which asks for the state twice: is the robot lost, and what is it?"""

        arm, asked = None, 0

        @property
        def fsm(self):
            self.asked += 1
            if self.arm and self.asked % 2 == 0 and not self.arm()[1]:
                self.arm, self.asked = None, 0
            return super().fsm

    with Bench(ros, PROFILE.model_copy(update={"geometry": None}), Asked) as bench:
        bench.robot.arm = lambda: bench.commands.arm(False, False, accept_unwatched=True)
        bench.until(lambda: not bench.robot.arm and bench.robot.asked > 4, "further ticks")
        assert bench.state() == State.ARMED, bench.commands.situation().text


def test_a_dead_mans_button_is_held_and_after_a_stop_pressed_anew(ros):
    def refused(text):
        return any(text in against for against in bench.commands.arm(False, False)[1])

    with Bench(ros, profile=PROFILE.model_copy(update={"dead_man": DeadManProfile(topic="/joy", button=1)})) as bench:
        bench.until(lambda: refused("button 1 of /joy: nothing for more than 0.2 s"), "the button's silence")
        bench.buttons = [0, 0]
        bench.until(lambda: refused("button 1 of /joy is not held"), "the button")
        bench.buttons = [0, 1]
        bench.until(lambda: not bench.commands.arm(False, False)[1], "arming")
        bench.commands.disarm(Reason.CANCELED, "enough")
        bench.until(lambda: refused("release it and press it anew"), "the button")
        for bench.buttons in ([0, 0], [0, 1]):
            bench.until(lambda: not refused("release it"), "the button")
        bench.take_goal()
        bench.carry_out()
        bench.buttons = [0, 0]
        bench.until(lambda: bench.enables[-1] == 0.0, "the pause")
        ended = bench.commands.situation().ended
        assert bench.state() == State.LOOKING and ended.reason == Reason.ROBOT_LOST and "not held" in ended.text


def test_a_limit_ends_the_goal_and_names_link_value_and_remedy(ros):
    with Bench(ros) as bench:
        bench.take_goal()
        rows = np.full((60, PROFILE.layout.action_size), -9.0)  # down into the table
        now_s = bench.node.get_clock().now().nanoseconds * 1e-9
        bench.commands.offer(Chunk(now_s, 1.0, rows), now_s, bench.commands.generation)
        bench.until(lambda: bench.commands.situation().ended, "the end")
        ended = bench.commands.situation().ended
        assert bench.state() == State.LOOKING and ended.reason == Reason.LIMIT
        assert "and table would be" in ended.text and "move the arms apart" in ended.text
        bench.until(lambda: bench.enables[-1] == 0.0, "the pause")


def test_what_is_not_watched_any_more_ends_the_goal(ros):
    with Bench(ros) as bench:
        bench.take_goal()
        bench.carry_out()
        bench.efforts = []
        bench.until(lambda: bench.commands.situation().ended, "the end")
        ended = bench.commands.situation().ended
        assert ended.reason == Reason.LIMIT and "not watched any more is the effort of the left arm" in ended.text
        assert any("accept_unwatched" in text for text in bench.commands.arm(False, False)[1])
