"""The simulated robot at work, the policy driving it or beside it, and progress in this terminal: ``make demo``.

Environment: DEMO (``policy``: it drives, by goals of ``RunTask``; ``watch``: a scripted expert drives), ROBOT (its
profile), TASK (task of the simulation), FAULTS (what goes wrong when the expert drives; it pauses before its second
object), CHECKPOINT (folder; without it the shipped model, ``none`` for an untrained one), DEMO_SECONDS (end
so long after the policy node is up, and exit 0 only if progress was published from fresh images). Ctrl-C ends
everything.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi05_progress.errors import INTERRUPTED, UserError
from pi05_progress.files.config_files import shipped_checkpoint
from pi05_progress.robots.profile import RobotProfile

from .command_line import program
from .starting.bringup import BRINGUP
from .starting.processes import DEFAULT_ROBOT, ROBOT_DOMAINS, Process, asked_domain, make_log_folder, own_variables
from .starting.supervisor import Child, Supervisor, on_end_signals, session_environment

if TYPE_CHECKING:
    from .sim.driving.live_episodes import LiveEpisode

MIN_MESSAGES = 10
MAX_AGE_MS = 1000.0  # from picture to answer, on a slow and busy machine, too
MAX_SILENCE_S = 2.0


@dataclass
class ProgressCheck:
    """Fed with every ``TaskProgress``; ``missing`` says what there is to say against them.

    A good message has a finite ``progress_raw`` in [0, 1], a stamp later than that of the good one before, and an
    observation that was young when it was published.
    """

    received: int = 0
    good: int = 0
    model_id: str = ""
    task: str = ""
    _last_good_s: float = 0.0
    _last_stamp_ns: int = -1
    _faults: dict[str, int] = field(default_factory=dict)

    def add(self, message: Any, now_s: float) -> None:
        """A ``TaskProgress`` has arrived at a time of any steady clock, s."""
        self.received += 1
        self.model_id, self.task = message.model_id, message.task
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if fault := self._fault(message, stamp_ns):
            self._faults[fault] = self._faults.get(fault, 0) + 1
            return
        self.good, self._last_good_s, self._last_stamp_ns = self.good + 1, now_s, stamp_ns

    def _fault(self, message: Any, stamp_ns: int) -> str:
        if not math.isfinite(message.progress_raw):
            return "progress_raw is not a number (the node reports UNKNOWN)"
        if not 0.0 <= message.progress_raw <= 1.0:
            return "progress_raw is outside of [0, 1]"
        if stamp_ns <= self._last_stamp_ns:
            return "the stamp does not advance: the images are not fresh"
        if not 0.0 <= message.observation_age_ms <= MAX_AGE_MS:
            return f"observation_age_ms is not between 0 and {MAX_AGE_MS:g}"
        return ""

    def missing(self, now_s: float) -> list[str]:
        """What is missing for success; empty if nothing is."""
        if not self.received:
            return ["no TaskProgress arrived"]
        problems = []
        if self.good < MIN_MESSAGES:
            problems.append(
                f"{self.good} good TaskProgress messages of {self.received} that arrived, "
                f"at least {MIN_MESSAGES} are needed"
            )
            problems += [f"{count} times: {fault}" for fault, count in self._faults.items()]
        elif now_s - self._last_good_s > MAX_SILENCE_S:
            problems.append(f"the last good TaskProgress came {now_s - self._last_good_s:.1f} s before the end")
        return problems


POLICY, WATCH = "policy", "watch"
CHECKPOINT = "tiny_acting"  # of those that are shipped
BEST_TASK = "lift_cube"  # that it does best, where it drives
DRIVING = {"execute_s": 0.5, "noise": "zero"}  # parameters of the policy node that drives
# Of the real cameras' size: a laptop renders that in real time, and small models have learnt from such pictures.
IMAGE_SCALES = {POLICY: "0.15", WATCH: "0.25"}
FAULTS = "long_pause:1"  # in every episode: progress has to stand still, which a clock would not
NONE = "none"
START_LIMIT_S = 300.0  # for loading and compiling a model, on a slow and busy machine, too
WAITING_PERIOD_S = 5.0  # how often waiting is reported, before the policy node says anything
LOGGED = "[policy_node]: "  # before what it logs


@dataclass(frozen=True)
class Settings:
    """What the environment asks for."""

    given: dict[str, str]  # arguments of the bringup
    seconds: float | None  # end so long after the policy node is up; None for no end
    drives: bool = False  # whether the policy does the task, and not the expert


def settings(environment: Mapping[str, str]) -> Settings:
    """Read the environment; a ``UserError`` names the variable whose value it cannot have."""
    text = environment.get("DEMO_SECONDS", "")
    try:
        seconds = float(text) if text else None
    except ValueError:
        seconds = -1.0
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UserError(f"DEMO_SECONDS={text}: expected a number of seconds above 0")
    checkpoint = environment.get("CHECKPOINT", "")
    mode = environment.get("DEMO") or (WATCH if checkpoint == NONE else POLICY)
    if mode not in (POLICY, WATCH):
        raise UserError(f"DEMO={mode}: expected {POLICY} or {WATCH}")
    if not checkpoint:
        try:
            checkpoint = str(shipped_checkpoint(CHECKPOINT))
        except FileNotFoundError as error:
            raise UserError(
                f"{error}; give another by CHECKPOINT=, or CHECKPOINT={NONE} for an untrained one"
            ) from None
    elif checkpoint == NONE:
        checkpoint = ""
    faults = environment.get("FAULTS")
    given = {"sim": "true", "sim_image_scale": IMAGE_SCALES[mode], "checkpoint": checkpoint}
    if mode == WATCH:
        given["sim_faults"] = FAULTS if faults is None else faults
    elif faults:
        raise UserError(f"FAULTS={faults}: these are the scripted expert's, and the policy drives; set DEMO={WATCH}")
    elif not checkpoint:
        raise UserError(f"CHECKPOINT={NONE}: an untrained model drives no robot; set DEMO={WATCH}")
    else:
        given |= {"publish_commands": "true", "sim_episodes": "policy", "sim_task": BEST_TASK}
    if task := environment.get("TASK", ""):
        given["sim_task"] = task
    if robot := environment.get("ROBOT", ""):
        given["robot"] = robot
    return Settings(given, seconds, mode == POLICY)


def greeting(chosen: Settings, variables: Mapping[str, str], log_folder: Path) -> str:
    """What a person should know before looking."""
    task, robot = chosen.given.get("sim_task", "stack_cubes"), chosen.given.get("robot", DEFAULT_ROBOT)
    model = f"checkpoint {chosen.given['checkpoint']}"
    if not chosen.given["checkpoint"]:
        model = "a small UNTRAINED model: its raw progress means nothing, the status stays UNKNOWN"
    worker = "the policy itself, at full speed as nobody is near," if chosen.drives else "a scripted expert"
    ending = f"it ends after {chosen.seconds:g} s" if chosen.seconds else "Ctrl-C ends it"
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return "\n".join(
        [
            f"simulated robot: {robot}, {task}, {worker} at work, one episode after another",
            f"what goes wrong: {chosen.given.get('sim_faults') or 'nothing on purpose'}",
            f"policy: {model}",
            "to look from another terminal:",
            f"  export {exports}",
            f"  {sys.executable} -m pi05_progress_ros.monitor --once",
            f"logs: {log_folder}",
            f"{ending}; loading and compiling the model first: about a minute the first time, 10 to 20 s later",
        ]
    )


class Demo:
    """One run: what was started, what was seen of it, and why it ends."""

    def __init__(self, chosen: Settings) -> None:
        self._chosen = chosen
        self._started_s = time.monotonic()
        self._up_s: float | None = None  # when the policy node was heard for the first time
        self.check = ProgressCheck()
        self.interrupted = False
        self.dead: list[Child] = []
        self.told: list[str] = []  # of the policy's episodes, as long as a full screen leaves no room for it
        self._screen = False
        self._won: list[bool] = []  # of each of these episodes

    def interrupt(self, _: int) -> None:
        """A signal asks for the end."""
        self.interrupted = True

    def over(self, supervisor: Supervisor) -> bool:
        """Whether to end now."""
        self.dead = self.dead or supervisor.ended()
        seconds, now = self._chosen.seconds, time.monotonic()
        if self._up_s is None:
            late = now - self._started_s >= START_LIMIT_S
        else:
            late = seconds is not None and now - self._up_s >= seconds
        return bool(self.interrupted or self.dead or late)

    def watch(self, supervisor: Supervisor) -> None:
        """Show progress until the end."""
        from pi05_progress_msgs.msg import TaskProgress  # only now: ROS's settings are in the environment

        from .monitoring.seen import Monitor
        from .monitoring.terminal import can_draw, show
        from .ros_session import onlooker, ros_session

        with ros_session(["demo"], signals=()), onlooker("demo") as (node, spin):
            node.create_subscription(TaskProgress, "/task_progress", self._on_progress, 50)
            if self._chosen.drives:
                from .sim.driving.live_episodes import LiveEpisodes

                profile = RobotProfile.load(self._chosen.given.get("robot", DEFAULT_ROBOT))
                LiveEpisodes(node, "/policy_node", profile, self._tell, self._on_episode)
            monitor = Monitor(node)
            self._wait(lambda: spin(0.1), supervisor)
            self._screen = can_draw(sys.stdout, os.environ)
            if not self.over(supervisor):
                show(monitor, spin, lambda: self.over(supervisor))

    def _wait(self, spin: Callable[[], None], supervisor: Supervisor) -> None:
        """Until the policy node is heard; what it does meanwhile is told as it says it, and that it goes on."""
        (node,) = (child for child in supervisor.children if child.process.name == "policy_node")
        told, report_s = 0, self._started_s + WAITING_PERIOD_S
        while self._up_s is None and not self.over(supervisor):
            spin()
            said = [line for line in node.lines() if LOGGED in line]
            for line in said[told:]:
                print(f"{time.monotonic() - self._started_s:4.0f} s  {line.partition(LOGGED)[2]}", flush=True)
            if not said and time.monotonic() >= report_s:
                print(f"{report_s - self._started_s:4.0f} s  starting: Python's libraries are read", flush=True)
                report_s += WAITING_PERIOD_S
            told = len(said)

    def _on_progress(self, message: object) -> None:
        if self._up_s is None:
            self._up_s = time.monotonic()
            print(f"the policy node is up after {self._up_s - self._started_s:.0f} s", flush=True)
        self.check.add(message, time.monotonic())

    def _on_episode(self, episode: LiveEpisode) -> None:
        self._won.append(episode.outcome == "success")
        self._tell(f"{episode}; {sum(self._won)} of {len(self._won)} episodes done")

    def _tell(self, text: str) -> None:
        if self._screen:
            self.told.append(text)
        else:
            print(text, flush=True)

    def verdict(self) -> tuple[int, list[str]]:
        """Exit status and what there is to say. Call it before anything is ended."""
        if self.dead:
            lines = [f"{c.process.name} has ended by itself, {c.how_it_ended()}:\n{c.last_words()}" for c in self.dead]
            return 1, lines
        if self.interrupted:
            return (INTERRUPTED if self._chosen.seconds else 0), []
        if self._up_s is None:
            return 1, [f"the policy node said nothing for {START_LIMIT_S:g} s"]
        if self._chosen.seconds is None:
            return 0, []  # q on the monitor
        if missing := self.check.missing(time.monotonic()):
            return 1, [f"the demo failed after {self._chosen.seconds:g} s:", *(f"  {text}" for text in missing)]
        text = f"the demo works: {self.check.good} times progress from fresh images, model {self.check.model_id}"
        return 0, [f"{text}, task {self.check.task!r}"]


def run(chosen: Settings, processes: tuple[Process, ...], log_folder: Path) -> int:
    """Start, watch, end; returns the exit status."""
    demo = Demo(chosen)
    on_end_signals(demo.interrupt)
    with Supervisor(session_environment(), log_folder) as supervisor:
        for process in processes:
            supervisor.start(process)
        try:
            demo.watch(supervisor)
        except OSError:  # whoever read the output is gone: a closed pipe or terminal
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (else Python complains at exit)
        status, lines = demo.verdict()
        if demo.interrupted:
            print("ending", flush=True)
    print("".join(f"{line}\n" for line in demo.told), end="")
    for line in lines:
        print(line, file=sys.stderr if status else sys.stdout)
    if status not in (0, INTERRUPTED):
        print(f"  logs: {log_folder}", file=sys.stderr)
    return status


@program("demo")
def main() -> int:
    """Entry point; returns the exit status."""
    try:
        chosen = settings(os.environ)
        variables = own_variables(os.environ, alone=chosen.drives)
        if (asked := asked_domain(os.environ)) in ROBOT_DOMAINS:
            print(f"ROS_DOMAIN_ID={asked} is where robots live: the demo takes {variables['ROS_DOMAIN_ID']} instead")
        os.environ.update(variables)
        processes = BRINGUP.processes(chosen.given, os.environ)
        if chosen.drives:
            processes = tuple(
                replace(p, parameters={**p.parameters, **DRIVING}) if p.name == "policy_node" else p for p in processes
            )
    except UserError as error:
        raise UserError(in_variables(str(error))) from error
    log_folder = make_log_folder(os.environ)
    os.environ["ROS_LOG_DIR"] = str(log_folder)
    print(greeting(chosen, variables, log_folder), flush=True)
    return run(chosen, processes, log_folder)


def in_variables(text: str) -> str:
    """An error about launch arguments in the words of this program's environment variables."""
    for argument, variable in (
        ("robot:=", "ROBOT="),
        ("sim_task:=", "TASK="),
        ("checkpoint:=", "CHECKPOINT="),
        ("sim_faults:=", "FAULTS="),
    ):
        text = text.replace(argument, variable)
    return text


if __name__ == "__main__":
    sys.exit(main())
