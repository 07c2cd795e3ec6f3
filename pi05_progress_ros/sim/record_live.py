"""Records the scripted operator's episodes as one records a person's: over DDS, in real time, with the recorder node.

    python -m pi05_progress_ros.sim.record_live --task stack_cubes --episodes 10 --out recordings --fault gives_up:1 \\
        --fault-share 0.3

The simulated robot and the recorder are processes of their own. This program is the assistant beside the operator: it
starts and ends the recorder's episodes and marks milestones, through the recorder's services, when the simulation says
that they happened. Bags are the recorder's; beside each lies a JSON file with what the simulation knows of it, and
episodes.json has all of them. Episodes that are already there are kept: the same command goes on with what is missing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from rclpy.node import Node
from std_srvs.srv import Trigger

from pi05_progress.errors import INTERRUPTED, UserError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_msgs.srv import MarkMilestone, StartEpisode, StopEpisode

from ..command_line import program, read_options
from ..ros_session import onlooker, ros_session
from ..starting.processes import Process, make_log_folder, own_variables
from ..starting.simulation_choices import episode_faults
from ..starting.supervisor import Supervisor, on_end_signals, session_environment
from .episodes.options import SUMMARY, EpisodeFacts, EpisodeOptions, read_facts, write_facts, write_summary

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
    """Turns the simulation's events into requests to the recorder node, in one thread."""

    def __init__(
        self,
        node: Node,
        spin: Callable[[float], None],
        options: EpisodeOptions,
        seeds: range,
        check: Callable[[], None],
        logs: str,
    ) -> None:
        self._options, self._seeds, self._check, self._logs = options, seeds, check, logs
        self._node, self._spin = node, spin
        self._open: OpenEpisode | None = None
        self._done = 0
        self._events: list[EpisodeEvent] = []
        self.interrupted = False
        node.create_subscription(EpisodeEvent, "/sim/events", self._events.append, 50)
        client = node.create_client
        self._reset = client(Trigger, "/sim/reset")
        self._start = client(StartEpisode, "/recorder/start_episode")
        self._stop = client(StopEpisode, "/recorder/stop_episode")
        self._mark = client(MarkMilestone, "/recorder/mark_milestone")

    def run(self) -> None:
        """Record all episodes; a ``UserError`` if a process ended, nothing happens, or the recorder refuses."""
        self._until(self._ready, START_LIMIT_S, "the recorder and the simulated robot")
        self._until(lambda: False, SETTLE_S)
        self._events.clear()
        self._call(self._reset)  # the first episode began before anybody listened: it begins once more
        while self._done < len(self._seeds) and not self.interrupted:
            self._until(lambda: bool(self._events), SILENCE_LIMIT_S, "an event of the simulated robot")
            if self._events:
                self._handle(self._events.pop(0))

    def _ready(self) -> bool:
        if not all(client.service_is_ready() for client in (self._reset, self._start, self._stop, self._mark)):
            return False
        topics = [camera.source[0] for camera in RobotProfile.load(self._options.profile).cameras.values()]
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
        print(f"{self._done}/{len(self._seeds)} seed {episode.seed}: {outcome}{reason}; {answer.message}", flush=True)

    def _call(self, client: Any, **fields: Any) -> Any:
        future = client.call_async(client.srv_type.Request(**fields))
        self._until(future.done, ANSWER_LIMIT_S, f"an answer of {client.srv_name}", patient=True)
        return future.result()

    def _until(self, done: Callable[[], bool], limit_s: float, what: str = "", patient: bool = False) -> None:
        """Spin until done, interrupted (unless patient) or late; without ``what`` being late is fine."""
        until = time.monotonic() + limit_s
        while not done() and (patient or not self.interrupted):
            self._spin(0.05)
            self._check()
            if time.monotonic() > until:
                if not what:
                    return
                raise UserError(f"{what} did not come within {limit_s:g} s; look into {self._logs}")


MODULE = "pi05_progress_ros.sim.record_live"
KEPT = "finished episodes are kept, the same command goes on with what is missing"


@dataclass(frozen=True)
class Options(EpisodeOptions):
    """Command line."""

    image_scale: float = 0.2
    """Image size as a share of the real cameras'; raw images take space."""


def check(options: Options) -> None:
    """See ``EpisodeOptions.check``."""
    options.check()
    if RobotProfile.load(options.profile).stream:
        text = "its video stream is no topic before a policy node receives it: use sim.generate"
        raise UserError(f"--profile {options.profile}: {text}")


def processes(options: Options, seeds: range) -> tuple[Process, Process]:
    """The recorder and the simulated robot with its operator."""
    recorder = Process(
        "recorder",
        module="pi05_progress_ros.recorder_node",
        parameters={"robot": options.profile, "output": str(options.out)},
    )
    robot = Process(
        "simulated_robot",
        module="pi05_progress_ros.sim.robot_node",
        parameters={
            "profile": options.profile,
            "task": options.task,
            "seed": seeds[0],
            "expert": True,
            "expert_episodes": len(seeds),
            "image_scale": options.image_scale,
            "faults": [*options.fault] or [""],
            "fault_share": options.fault_share,
            "laboratory": options.laboratory,
            "shift": options.shift,
        },
    )
    return recorder, robot


def missing(options: Options) -> list[range]:
    """Runs of seeds that are not recorded yet; the simulated robot counts up by itself within each."""
    there = {facts["seed"] for facts in read_facts(options.out) if facts["task"] == options.task}
    runs = [list(seeds) for absent, seeds in groupby(options.seeds, lambda seed: seed not in there) if absent]
    return [range(seeds[0], seeds[-1] + 1) for seeds in runs]


def record(options: Options, seeds: range) -> int:
    """Record the episodes of these seeds; returns the exit status."""
    variables = own_variables(os.environ)
    os.environ |= variables
    logs = make_log_folder(os.environ)
    print(f"ROS domain {variables['ROS_DOMAIN_ID']}, logs {logs}; {len(seeds)} episodes in real time", flush=True)
    with Supervisor({**session_environment(), **variables}, logs) as supervisor:
        children = [supervisor.start(process) for process in processes(options, seeds)]

        def check() -> None:
            if ended := supervisor.ended():
                child = ended[0]
                raise UserError(f"{child.process.name} ended, {child.how_it_ended()}; {KEPT}:\n{child.last_words()}")

        files = ", ".join(str(child.log) for child in children)
        with ros_session(["record_live"], signals=()), onlooker("assistant") as (node, spin):
            assistant = Assistant(node, spin, options, seeds, check, files)
            on_end_signals(lambda _: setattr(assistant, "interrupted", True))
            assistant.run()
    if assistant.interrupted:
        print(f"stopped; {KEPT}")
        return INTERRUPTED
    return 0


@program("record_live", kept=KEPT)
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = read_options(Options, MODULE, __doc__, arguments, check)
    runs = missing(options)
    kept = len(options.seeds) - sum(len(seeds) for seeds in runs)
    if kept:
        print(f"{kept} of {len(options.seeds)} episodes are already there and are kept")
    status = 0
    for seeds in runs:
        if status := record(options, seeds):
            break
    facts = write_summary(options.out)
    successes = sum(f["outcome"] == "success" for f in facts)
    print(f"{len(facts)} episodes in {options.out}, {successes} successful; summary in {options.out / SUMMARY}")
    return status


if __name__ == "__main__":
    sys.exit(main())
