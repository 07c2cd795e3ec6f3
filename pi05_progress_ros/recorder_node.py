"""Records episodes, one MCAP bag each: started and ended by services, or by the operator's buttons.

Needs no rosbag2: messages are taken as bytes and written with their definitions, under the time at which they arrived.
Everything runs in one thread, the executor's. A recording ends by itself before the disk is full.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Joy

from pi05_progress.errors import UserError
from pi05_progress.robots.episode_notes import ABORTED
from pi05_progress.robots.message_store import message_store
from pi05_progress.robots.profile import PACKET_TYPE, MarksProfile, RobotProfile
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_msgs.srv import MarkMilestone, StartEpisode, StopEpisode

from .cameras.message_class import message_class
from .cameras.subscription import PacketSubscription
from .command_line import program
from .parameters import QosOverrides, declare_all, parameter, read_all, warn_of_unused_overrides
from .recording.bag_writer import PARTIAL, learn_type, type_name
from .recording.episodes import Episodes, Topic, Traffic, further_topic
from .recording.topics import EVENTS, recorded_topics
from .ros_session import ros_session, spin

WATCH_S = 1.0  # between looks at rates and at the disk
COMMANDS = ("teleoperation", "policy", "none")


@dataclass(frozen=True)
class RecorderParameters:
    """The values of all parameters, as they were when the node started; the defaults say what each means."""

    robot: str = parameter("teleavatar", "robot profile: a name, or the path of a YAML file")
    output: str = parameter("recordings", "folder of the bags, one folder in it per episode")
    task: str = parameter("", "instruction of episodes that the operator's button starts", read_only=False)
    images: str = parameter("raw", "which form of Image topics: raw, or compressed (<topic>/compressed)")
    topics: Sequence[str] = parameter(("",), "further topics, each as NAME:PACKAGE/msg/TYPE")
    commands: str = parameter(
        "teleoperation", "whose commands an episode is of no use without: teleoperation, policy, none"
    )
    min_free_gb: float = parameter(
        2.0, "free space, GB, below which nothing is recorded", between=(0.0, 10_000.0), read_only=False
    )

    def check(self) -> None:
        """Raises UserError for a text that is none of those known."""
        for name, known in (("images", ("raw", "compressed")), ("commands", COMMANDS)):
            if (value := getattr(self, name)) not in known:
                raise UserError(f"parameter {name}: {value!r} is refused, expected one of {', '.join(known)}")


class RecorderNode(QosOverrides, Node):
    """See the module's docstring; a ``UserError`` if a parameter cannot be used."""

    def __init__(self) -> None:
        super().__init__("recorder")
        declare_all(self, RecorderParameters)
        given = read_all(self, RecorderParameters)
        given.check()
        profile, output, store = RobotProfile.load(given.robot), Path(given.output).expanduser(), message_store()
        self._traffic = Traffic(self._topics(given, profile))
        for topic in self._traffic.topics:  # now, not when its first message comes in the middle of an episode
            learn_type(store, type_name(topic.kind))
        self._report_leftovers(output)
        self._episodes = Episodes(self, profile.name, output, store, self._traffic)
        self._subscribe(profile.marks)
        warn_of_unused_overrides(self)
        self.create_service(StartEpisode, "~/start_episode", self._on_start)
        self.create_service(StopEpisode, "~/stop_episode", self._on_stop)
        self.create_service(MarkMilestone, "~/mark_milestone", self._on_milestone)
        clock = rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)
        self.create_timer(WATCH_S, self._watch, clock=clock)
        self.get_logger().info(f"ready for {profile.name}: {len(self._traffic.topics)} topics into {output}")

    def end(self) -> None:
        """Complete an episode that is open when the node ends."""
        if self._episodes.current:
            self._episodes.finish(EpisodeEvent.UNKNOWN, f"{ABORTED}the recorder was stopped")

    def _topics(self, given: RecorderParameters, profile: RobotProfile) -> list[Topic]:
        events = self.resolve_topic_name(EVENTS)
        topics = [
            Topic(topic.name, message_class(topic.type), topic.required, topic.expected_hz)
            for topic in recorded_topics(profile, self.get_namespace(), given.images, given.commands)
            if topic.name != events  # what this node publishes it writes itself
        ]
        return topics + [further_topic(text) for text in given.topics if text]

    def _report_leftovers(self, output: Path) -> None:
        if left := sorted(path.name for path in (output / PARTIAL).glob("*")):
            text = f"left by a recorder that was killed, readable but without index: {', '.join(left)}"
            self.get_logger().warning(f"{output / PARTIAL}: {text}")

    def _subscribe(self, marks: MarksProfile) -> None:
        # Best effort takes what reliable and best-effort publishers send; the queue holds while the disk is busy.
        qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
        for topic in self._traffic.topics:
            # Two arguments: rclpy then tells when the middleware received it, before it waited in the queue.
            def store(data: bytes, info: dict[str, int], topic: Topic = topic) -> None:
                self._episodes.store(topic, data, info.get("received_timestamp", 0))

            def lose(status: Any, topic: Topic = topic) -> None:
                self._episodes.lose(topic, status.total_count_change)

            if type_name(topic.kind) == PACKET_TYPE:
                made = PacketSubscription(self, topic.kind, topic.name, store, lose, raw=True)
            else:
                events = SubscriptionEventCallbacks(message_lost=lose)
                made = self.create_subscription(topic.kind, topic.name, store, qos, raw=True, event_callbacks=events)
            topic.heard = made.topic_name
        self._marks, self._pressed = marks, {}
        self.create_subscription(Joy, marks.topic, self._on_buttons, 10)

    # --- services and buttons ---

    def _on_start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> StartEpisode.Response:
        problem, episodes = self._episodes.start(request.task), self._episodes
        response.accepted = not problem
        response.episode_id = episodes.current.id if response.accepted and episodes.current else ""
        silent = self._traffic.silent() if response.accepted else ""
        response.message = problem or f"recording {response.episode_id}" + (f"; WARNING: {silent}" if silent else "")
        return response

    def _on_stop(self, request: StopEpisode.Request, response: StopEpisode.Response) -> StopEpisode.Response:
        known = (EpisodeEvent.UNKNOWN, EpisodeEvent.SUCCESS, EpisodeEvent.FAILURE)
        if self._episodes.current is None:
            response.message = "no episode is being recorded"
        elif request.outcome not in known:
            response.message = f"outcome {request.outcome}: expected 0 (unknown), 1 (success) or 2 (failure)"
        else:
            response.episode_id = self._episodes.current.id
            response.accepted, response.message = self._episodes.finish(request.outcome, request.note)
        return response

    def _on_milestone(self, request: MarkMilestone.Request, response: MarkMilestone.Response) -> MarkMilestone.Response:
        label = request.label.strip()
        if self._episodes.current is None:
            response.message = "no episode is being recorded: start one first"
        elif not label:
            response.message = "the label is empty: name the milestone, e.g. grasped"
        else:
            response.accepted, response.episode_id = True, self._episodes.current.id
            self._episodes.mark(label)
            response.message = f"milestone {label}"
        return response

    def _on_buttons(self, message: Joy) -> None:
        """Rising edges of the operator's buttons; the button that stops leaves the outcome open."""
        for button, act in ((self._marks.start_button, self._press_start), (self._marks.stop_button, self._press_stop)):
            down = button < len(message.buttons) and bool(message.buttons[button])
            if down and not self._pressed.get(button, True):
                act()
            self._pressed[button] = down

    def _press_start(self) -> None:
        if problem := self._episodes.start(str(self.get_parameter("task").value)):
            self.get_logger().warning(f"the start button has no effect: {problem}")

    def _press_stop(self) -> None:
        if self._episodes.current is None:
            self.get_logger().warning("the stop button has no effect: no episode is being recorded")
        else:
            self._episodes.finish(EpisodeEvent.UNKNOWN, "")

    # --- watch ---

    def _watch(self) -> None:
        self._traffic.look()
        if self._episodes.current is None:
            return
        if problem := self._episodes.disk_problem():
            self.get_logger().error(f"the episode is ended before the disk is full: {problem}")
            self._episodes.finish(EpisodeEvent.UNKNOWN, f"{ABORTED}{problem}")
            return
        for good, text in self._traffic.changes():
            if good:  # rclpy allows one severity a line of code
                self.get_logger().info(text)
            else:
                self.get_logger().warning(text)


@program("recorder")
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    with ros_session(arguments) as stop:
        node = RecorderNode()
        try:
            spin(node, stop)
        finally:
            node.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
