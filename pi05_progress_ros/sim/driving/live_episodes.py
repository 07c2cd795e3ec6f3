"""A policy node beside the simulated robot, in real time: armed without asking, for full speed, and given a goal for
every episode.

That is for a simulation only: nothing is armed, the first time or again, unless the robot's states come from the
process that tells of simulated episodes, and from no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from rclpy.topic_endpoint_info import TopicEndpointInfo
from std_srvs.srv import Trigger

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.action import RunTask
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_msgs.srv import Arm

from ...commanding.state_machine import Reason
from ...ros_session import publisher_names

EVENTS = "/sim/events"
LOOK_S = 0.1  # how often is looked at what there is to do
AGAIN_S = 1.0  # between attempts to arm, or to give a goal
LOST_S = 10.0  # after which a service's answer is not waited for any more
STALL_S = 60.0  # an episode is over by then: physics ends the goal, and not a policy that hesitates
AS_MEANT = (Reason.SUCCEEDED, Reason.ALREADY_DONE, Reason.CANCELED)  # endings that need no words of their own
FOR_GOOD = (*AS_MEANT, Reason.FAILED, Reason.STALLED, Reason.TIMED_OUT, Reason.LIMIT)  # the episode gets no more goals
REFUSED = "refused"
OUTCOMES = {EpisodeEvent.SUCCESS: "success", EpisodeEvent.FAILURE: "failure"}


@dataclass(frozen=True)
class LiveEpisode:
    """What became of one episode."""

    name: str  # task and seed
    outcome: str  # from physics: ``success``, ``failure``, or ``unknown`` if it was broken off
    reason: str  # for it
    goal: str  # how its goals ended, by the node's account

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.name}: {self.outcome}{why}; goal {self.goal}"


class LiveEpisodes:
    """Works in the callbacks of a node that somebody spins; the simulation's parameter ``episodes`` is ``policy``.

    The node of the full name ``policy_node`` is given the goals; ``say`` takes a line about what is done, ``ended``
    every episode that has ended.
    """

    def __init__(
        self,
        node: Node,
        policy_node: str,
        profile: RobotProfile,
        say: Callable[[str], None],
        ended: Callable[[LiveEpisode], None],
    ) -> None:
        self._node, self._say, self._ended = node, say, ended
        parts = (*profile.arms.values(), *profile.grippers.values())
        self._states = (profile.fsm_topic, *(part.state_topic for part in parts))
        self._arm = node.create_client(Arm, f"{policy_node}/arm")
        self._reset = node.create_client(Trigger, "/sim/reset")
        self._goals = ActionClient(node, RunTask, f"{policy_node}/run_task")
        self._began: EpisodeEvent | None = None  # of the episode that goes on
        self._stopped: EpisodeEvent | None = None  # of the last one that has ended
        node.create_subscription(EpisodeEvent, EVENTS, self._on_event, 50)
        work = self._work()
        self._timer = node.create_timer(LOOK_S, lambda: next(work))

    def close(self) -> None:
        """Do no more, and be no client any more: a goal that goes on is ended by the policy node."""
        self._timer.cancel()
        self._goals.destroy()

    def _on_event(self, event: EpisodeEvent) -> None:
        if event.event == EpisodeEvent.START:
            self._began = event
        elif event.event == EpisodeEvent.STOP:
            self._began, self._stopped = None, event

    def _work(self) -> Generator[None]:
        """Everything, in order; goes on a little whenever it is asked for the next item."""
        yield from self._armed()
        self._began = None
        yield from _ask(self._reset, Trigger.Request())  # nobody could act until now: begun once more
        while True:
            while (began := self._began) is None:
                yield
            goals: list[str] = []
            while self._began is began:
                goals.append((yield from self._do(began, goals)))
            outcome, reason = "unknown", ""
            if self._stopped is not None and self._stopped.episode_id == began.episode_id:
                outcome, reason = OUTCOMES.get(self._stopped.outcome, "unknown"), self._stopped.label
            self._ended(LiveEpisode(began.episode_id, outcome, reason, "; ".join(dict.fromkeys(goals)) or "none"))

    def _do(self, began: EpisodeEvent, before: list[str]) -> Generator[None, None, str]:
        """Give an episode's goal; how it ended, as did those before. If that may pass, the episode still goes on."""
        yield from self._armed()
        request = RunTask.Goal(task=began.task, stall_timeout_s=STALL_S)
        goal = yield from _answer(self._goals.send_goal_async(request))
        if not goal.accepted:
            if REFUSED not in before:
                self._say(f"{began.episode_id}: the goal is {REFUSED}, see the policy node's log")
            yield from _wait(AGAIN_S)
            return REFUSED
        self._say(f"{began.episode_id}: goal {began.task!r}")
        ending, canceled = goal.get_result_async(), False
        while not ending.done():
            if self._began is not began and not canceled:
                canceled = bool(goal.cancel_goal_async())
            yield
        result = ending.result().result
        reason = Reason(result.termination_reason)
        if reason not in AS_MEANT:
            self._say(f"{began.episode_id}: {reason.name}, {result.message}")
        while reason in FOR_GOOD and self._began is began:
            yield
        return f"{reason.name}, {result.message}"

    def _armed(self) -> Generator[None]:
        said = ""
        while True:
            while not all(c.service_is_ready() for c in (self._reset, self._arm)) or not self._goals.server_is_ready():
                yield
            if not (message := self._not_simulated()):
                answer = yield from _ask(self._arm, Arm.Request(arm=True, full_speed=True))
                if answer.accepted:
                    return
                message = answer.message
            if message != said:
                said = message
                self._say(said)
            yield from _wait(AGAIN_S)

    def _not_simulated(self) -> str:
        """Which of the robot's states are not the simulation's alone; empty if all are."""
        [simulation, *others] = {_process(info) for info in self._node.get_publishers_info_by_topic(EVENTS)} or {b""}
        for topic in self._states:
            processes = {_process(info) for info in self._node.get_publishers_info_by_topic(topic)}
            if others or processes - {simulation}:
                names = ", ".join(publisher_names(self._node, topic))
                return f"not armed: {topic} is published by {names}, and must be by the simulation alone"
        return ""


def _process(publisher: TopicEndpointInfo) -> bytes:
    """What is the same for all publishers of a process: DDS numbers its participants by it."""
    return bytes(publisher.endpoint_gid[:12])


def _answer(asked: Future) -> Generator[None, None, Any]:
    while not asked.done():
        yield
    return asked.result()


def _ask(client: Client, request: Any) -> Generator[None, None, Any]:
    """A service's answer to what may be asked twice: where the two know each other only half, an answer gets lost."""
    while True:
        asked, until_s = client.call_async(request), time.monotonic() + LOST_S
        while time.monotonic() < until_s:
            if asked.done():
                return asked.result()
            yield
        client.remove_pending_request(asked)


def _wait(seconds: float) -> Generator[None]:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        yield
