"""Records the scripted operator's episodes as one records a person's: over DDS, in real time, with the recorder node.

    python -m pi05_progress_ros.sim.record_live --task stack_cubes --episodes 10 --out recordings --fault gives_up:1 \\
        --fault-share 0.3

The simulated robot and the recorder are processes of their own. This program is the assistant beside the operator: it
starts and ends the recorder's episodes and marks milestones, through the recorder's services, when the simulation says
that they happened. Bags are the recorder's; beside each lies a JSON file with what the simulation knows of it, and
episodes.json has all of them. Episodes that are already there are kept: the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.yaml_lines import ConfigError

from ..demo import make_log_folder, own_variables
from ..starting.processes import LaunchError, Process
from ..starting.supervisor import Child, Supervisor, on_end_signals, session_environment
from .episodes.facts import SUMMARY, EpisodeFacts, read_facts, write_facts, write_summary
from .expert.faults import FAULTS, episode_faults, parse_fault
from .physics.cameras import scaled_sizes
from .physics.gl import NoOpenGLError, require_backend
from .physics.tasks import TASKS

START_LIMIT_S = 120.0  # until both are up, on a busy machine
SILENCE_LIMIT_S = 180.0  # longest time without an event while episodes run; they take less than a minute
SETTLE_S = 2.0  # for subscriptions to be matched before the first episode
ANSWER_LIMIT_S = 20.0


class RecordingError(RuntimeError):
    """Recording cannot go on; the message says why, and where to look."""


@dataclass(frozen=True)
class Options:
    """What is recorded."""

    task: str
    out: Path
    seeds: range
    profile: str
    image_scale: float
    faults: tuple[str, ...]
    fault_share: float


@dataclass
class OpenEpisode:
    """The episode that is going on; ``began_s`` is simulated time."""

    seed: int
    bag: str
    began_s: float
    milestones: list[tuple[str, float]] = field(default_factory=list)


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
            "faults": [*options.faults] or [""],
            "fault_share": options.fault_share,
        },
    )
    return recorder, robot


class Assistant:
    """Turns the simulation's events into requests to the recorder; one thread.

    Args:
        options: what is recorded.
        seeds: of the episodes still to be recorded.
        supervisor: whose processes are watched.
        children: recorder and simulated robot.
        say: where a line for people goes.
    """

    def __init__(
        self,
        options: Options,
        seeds: range,
        supervisor: Supervisor,
        children: Sequence[Child],
        say: Callable[[str], None],
    ) -> None:
        import rclpy  # only now: its settings are in the environment
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions
        from std_srvs.srv import Trigger

        from pi05_progress_msgs.msg import EpisodeEvent
        from pi05_progress_msgs.srv import MarkMilestone, StartEpisode, StopEpisode

        self._options, self._seeds, self._say = options, seeds, say
        self._supervisor, self._children = supervisor, children
        self._kind, self._open, self._done = EpisodeEvent, None, 0
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
            RecordingError: a process ended, nothing happens, or the recorder refuses.
        """
        ready = lambda: all(c.service_is_ready() for c in (self._reset, self._start, self._stop, self._mark))  # noqa: E731
        self._until(lambda: ready() and self._listened_to(), START_LIMIT_S, "the recorder and the simulated robot")
        self._until(lambda: False, SETTLE_S)
        self._events.clear()
        self._call(self._reset)  # the first episode began before anybody listened: it begins once more
        while self._done < len(self._seeds) and not self.interrupted:
            self._until(lambda: bool(self._events), SILENCE_LIMIT_S, "an event of the simulated robot")
            if self._events:
                self._handle(self._events.pop(0))

    def close(self) -> None:
        """End an open episode as one of unknown outcome, and leave DDS."""
        import rclpy

        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def _listened_to(self) -> bool:
        topics = [camera.topic for camera in RobotProfile.load(self._options.profile).cameras.values()]
        return all(self._node.count_publishers(topic) and self._node.count_subscribers(topic) for topic in topics)

    def _handle(self, event: Any) -> None:
        stamp_s = event.header.stamp.sec + 1e-9 * event.header.stamp.nanosec
        if event.event == self._kind.START:
            answer = self._call(self._start, task=event.task)
            if not answer.accepted:
                raise RecordingError(f"the recorder refuses: {answer.message}")
            self._open = OpenEpisode(self._seeds[self._done], answer.episode_id, stamp_s)
        elif self._open is None:
            return  # of the episode before the reset
        elif event.event == self._kind.MILESTONE:
            self._call(self._mark, label=event.label)
            self._open.milestones.append((event.label, round(stamp_s - self._open.began_s, 3)))
        elif event.event == self._kind.STOP:
            self._finish(event, stamp_s)

    def _finish(self, event: Any, stamp_s: float) -> None:
        answer = self._call(self._stop, outcome=event.outcome, note=event.label)
        episode, self._open = self._open, None
        bag = self._options.out / episode.bag
        if not bag.is_dir():
            raise RecordingError(f"the recorder did not complete {episode.bag}: {answer.message}")
        outcome = {self._kind.SUCCESS: "success", self._kind.FAILURE: "failure"}.get(event.outcome, "unknown")
        seconds = round(stamp_s - episode.began_s, 3)
        faults = episode_faults(episode.seed, self._options.faults, self._options.fault_share)
        milestones = episode.milestones
        write_facts(
            bag, EpisodeFacts(episode.seed, self._options.task, outcome, event.label, seconds, faults, milestones)
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
            if ended := self._supervisor.ended():
                child = ended[0]
                raise RecordingError(f"{child.process.name} ended, {child.how_it_ended()}:\n{child.last_words()}")
            if time.monotonic() > until:
                if not what:
                    return
                logs = ", ".join(str(child.log) for child in self._children)
                raise RecordingError(f"{what} did not come within {limit_s:g} s; look into {logs}")


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pi05_progress_ros.sim.record_live",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", required=True, choices=sorted(TASKS), help="what is done")
    parser.add_argument("--episodes", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the bags; made if it is not there")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode (default: %(default)s)")
    text = "image size as a share of the real cameras'; raw images take space (default: %(default)s)"
    parser.add_argument("--image-scale", type=float, default=0.2, help=text)
    text = f"KIND or KIND:PICK, may be repeated; kinds: {', '.join(FAULTS)}"
    parser.add_argument("--fault", action="append", default=[], metavar="FAULT", help=text)
    text = "share of the episodes in which each fault happens (default: %(default)s)"
    parser.add_argument("--fault-share", type=float, default=1.0, help=text)
    parser.add_argument("--profile", default="teleavatar", help="robot profile (default: %(default)s)")
    args = parser.parse_args(arguments)
    for name, low, high in (("episodes", 1, 10**6), ("seed", 0, 10**6)):
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name} {getattr(args, name)}: expected {low} to {high}")
    if not 0 <= args.fault_share <= 1:
        parser.error(f"--fault-share {args.fault_share}: expected 0 to 1")
    try:
        scaled_sizes(args.image_scale)
        for fault in args.fault:
            parse_fault(fault)
        require_backend()
        RobotProfile.load(args.profile)
        args.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, NoOpenGLError, ConfigError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--out {args.out}: {error.strerror or error}")
    seeds = range(args.seed, args.seed + args.episodes)
    return Options(
        args.task, args.out, seeds, args.profile, args.image_scale, tuple(args.fault), args.fault_share
    )  # fmt: skip


def missing(options: Options) -> list[range]:
    """Runs of seeds that are not recorded yet; the simulated robot counts up by itself within each."""
    there = {facts["seed"] for facts in read_facts(options.out) if facts["task"] == options.task}
    runs: list[range] = []
    for seed in options.seeds:
        if seed in there:
            continue
        if runs and runs[-1].stop == seed:
            runs[-1] = range(runs[-1].start, seed + 1)
        else:
            runs.append(range(seed, seed + 1))
    return runs


def record(options: Options, seeds: range, console: Console) -> int:
    """Record the episodes of these seeds; returns the exit status."""
    variables = own_variables(os.environ)
    os.environ |= variables
    logs = make_log_folder(os.environ)
    console.print(f"ROS domain {variables['ROS_DOMAIN_ID']}, logs {logs}; {len(seeds)} episodes in real time")
    with Supervisor({**session_environment(), **variables}, logs) as supervisor:
        children = [supervisor.start(process) for process in processes(options, seeds)]
        assistant = Assistant(options, seeds, supervisor, children, lambda text: console.print(text, soft_wrap=True))
        on_end_signals(lambda _: setattr(assistant, "interrupted", True))
        try:
            assistant.run()
        finally:
            assistant.close()
    if assistant.interrupted:
        console.print("stopped; the same command goes on with what is missing")
        return 130
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options, console = parse(arguments), Console(highlight=False)
    runs = missing(options)
    kept = len(options.seeds) - sum(len(seeds) for seeds in runs)
    if kept:
        console.print(f"{kept} of {len(options.seeds)} episodes are already there and are kept")
    status = 0
    for seeds in runs:
        try:
            status = record(options, seeds, console)
        except (RecordingError, LaunchError, OSError) as error:
            print(f"record_live: {error}\nfinished episodes are kept, the same command goes on", file=sys.stderr)
            return 1
        if status:
            break
    facts = write_summary(options.out)
    successes = sum(f["outcome"] == "success" for f in facts)
    console.print(f"{len(facts)} episodes in {options.out}, {successes} successful; summary in {options.out / SUMMARY}")
    return status


if __name__ == "__main__":
    sys.exit(main())
