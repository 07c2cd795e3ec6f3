"""The assistant beside the operator: turns the simulation's events into requests to the recorder node. One thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_msgs.srv import MarkMilestone, StartEpisode, StopEpisode

from ...starting.simulation_choices import episode_faults
from .options import EpisodeFacts, EpisodeOptions, write_facts

START_LIMIT_S = 120.0  # until both are up, on a busy machine
SILENCE_LIMIT_S = 180.0  # longest time without an event while episodes run; they take less than a minute
SETTLE_S = 2.0  # for subscriptions to be matched before the first episode
ANSWER_LIMIT_S = 20.0
OUTCOMES = {EpisodeEvent.SUCCESS: "success", EpisodeEvent.FAILURE: "failure"}


@dataclass
class OpenEpisode:
    """The episode that is going on; ``began_s`` is simulated time."""

    seed: int
    bag: str
    began_s: float
    milestones: list[tuple[str, float]] = field(default_factory=list)


class Assistant:
    """See the module's docstring."""

    def __init__(
        self, options: EpisodeOptions, seeds: range, check: Callable[[], None], logs: str, say: Callable[[str], None]
    ) -> None:
        self._options, self._seeds, self._check, self._logs, self._say = options, seeds, check, logs, say
        self._open: OpenEpisode | None = None
        self._done = 0
        self._events: list[EpisodeEvent] = []
        self.interrupted = False
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("assistant", enable_rosout=False, start_parameter_services=False)
        self._node.create_subscription(EpisodeEvent, "/sim/events", self._events.append, 50)
        client = self._node.create_client
        self._reset = client(Trigger, "/sim/reset")
        self._start = client(StartEpisode, "/recorder/start_episode")
        self._stop = client(StopEpisode, "/recorder/stop_episode")
        self._mark = client(MarkMilestone, "/recorder/mark_milestone")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)

    def run(self) -> None:
        """Record all episodes.

        Raises:
            UserError: a process ended, nothing happens, or the recorder refuses.
        """
        self._until(self._ready, START_LIMIT_S, "the recorder and the simulated robot")
        self._until(lambda: False, SETTLE_S)
        self._events.clear()
        self._call(self._reset)  # the first episode began before anybody listened: it begins once more
        while self._done < len(self._seeds) and not self.interrupted:
            self._until(lambda: bool(self._events), SILENCE_LIMIT_S, "an event of the simulated robot")
            if self._events:
                self._handle(self._events.pop(0))

    def close(self) -> None:
        """Leave DDS."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def _ready(self) -> bool:
        if not all(client.service_is_ready() for client in (self._reset, self._start, self._stop, self._mark)):
            return False
        topics = [camera.topic for camera in RobotProfile.load(self._options.profile).cameras.values()]
        return all(self._node.count_publishers(topic) and self._node.count_subscribers(topic) for topic in topics)

    def _handle(self, event: EpisodeEvent) -> None:
        stamp_s = event.header.stamp.sec + 1e-9 * event.header.stamp.nanosec
        if event.event == EpisodeEvent.START:
            answer = self._call(self._start, task=event.task)
            if not answer.accepted:
                raise UserError(f"the recorder refuses: {answer.message}")
            self._open = OpenEpisode(self._seeds[self._done], answer.episode_id, stamp_s)
        elif self._open is None:
            return  # of the episode before the reset
        elif event.event == EpisodeEvent.MILESTONE:
            self._call(self._mark, label=event.label)
            self._open.milestones.append((event.label, round(stamp_s - self._open.began_s, 3)))
        elif event.event == EpisodeEvent.STOP:
            self._finish(self._open, event, stamp_s)

    def _finish(self, episode: OpenEpisode, event: EpisodeEvent, stamp_s: float) -> None:
        options, self._open = self._options, None
        answer = self._call(self._stop, outcome=event.outcome, note=event.label)
        bag = options.out / episode.bag
        if not bag.is_dir():
            raise UserError(f"the recorder did not complete {episode.bag}: {answer.message}")
        outcome, seconds = OUTCOMES.get(event.outcome, "unknown"), round(stamp_s - episode.began_s, 3)
        faults = episode_faults(episode.seed, options.fault, options.fault_share)
        write_facts(
            bag, EpisodeFacts(episode.seed, options.task, outcome, event.label, seconds, faults, episode.milestones)
        )
        self._done += 1
        reason = f" ({event.label})" if event.label else ""
        self._say(f"{self._done}/{len(self._seeds)} seed {episode.seed}: {outcome}{reason}; {answer.message}")

    def _call(self, client: Any, **fields: Any) -> Any:
        future = client.call_async(client.srv_type.Request(**fields))
        self._until(future.done, ANSWER_LIMIT_S, f"an answer of {client.srv_name}", patient=True)
        return future.result()

    def _until(self, done: Callable[[], bool], limit_s: float, what: str = "", patient: bool = False) -> None:
        """Spin until done, interrupted (unless patient) or late; without ``what`` being late is fine."""
        until = time.monotonic() + limit_s
        while not done() and (patient or not self.interrupted):
            self._executor.spin_once(timeout_sec=0.05)
            self._check()
            if time.monotonic() > until:
                if not what:
                    return
                raise UserError(f"{what} did not come within {limit_s:g} s; look into {self._logs}")
