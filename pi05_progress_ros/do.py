"""Have the policy do a task until it is done, has failed, or is canceled (Ctrl-C); shows how far it has come.

    python -m pi05_progress_ros.do "stack the cubes" --max-duration 60

It arms the policy node, after asking, and disarms it in the end; it touches neither the goal of another, unless told to
preempt it, nor arms that the operator has taken over. Exit status: 0 the task is done, 1 it has failed or
the node has gone, 2 an argument is wrong, 3 arming or the goal was refused, 4 not known to be done (time is up, no
progress, another goal), 5 stopped (a pause, a lost input, robot or policy, a limit), 130 canceled. ROS arguments
follow --ros-args.
"""

from __future__ import annotations

import math
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future
from rclpy.utilities import remove_ros_args
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from tyro.conf import Positional

from pi05_progress.errors import UserError
from pi05_progress_msgs.action import RunTask
from pi05_progress_msgs.srv import Arm

from .command_line import program, read_options
from .commanding.state_machine import Reason, State
from .monitoring.charts import percent
from .monitoring.screen import remaining, status_of
from .ros_session import END_SIGNALS, onlooker, ros_session

MODULE = "pi05_progress_ros.do"
FIND_S = 10.0  # how long the node is looked for
GONE_S = 3.0  # without a word of it a node has gone
EXIT = {Reason.SUCCEEDED: 0, Reason.ALREADY_DONE: 0, Reason.FAILED: 1, Reason.CANCELED: 130}
UNDECIDED, STOPPED, REFUSED = 4, 5, 3


@dataclass(frozen=True)
class Options:
    """Command line."""

    task: Positional[str]
    """Instruction, as the operator would say it."""
    max_duration: float = 0.0
    """End after so long, s; 0: the node's parameter goal_max_duration_s."""
    yes: bool = False
    """Arm without asking."""
    full_speed: bool = False
    """Arm for links that move faster than 0.25 m/s: nobody may be near."""
    accept_unwatched: bool = False
    """Arm although limits are not watched, which arming names otherwise."""
    look_only: bool = False
    """Command nothing, only tell how far it has come and when it is done."""
    preempt: bool = False
    """End the goal of another for this one."""
    node: str = "policy_node"
    """Name of the policy node, with its namespace if it has one."""


def _check(options: Options) -> None:
    if not options.task.strip():
        raise UserError("the task is empty")
    if not 0 <= options.max_duration < float("inf"):
        raise UserError(f"--max-duration {options.max_duration:g}: expected 0 or more")


class Doing:
    """One task on one node; everything runs in this thread. ``stop`` is set when the end is asked for."""

    def __init__(self, node: Node, spin: Callable[[float], None], options: Options, stop: threading.Event) -> None:
        self._spin, self._options, self._stop = spin, options, stop
        name = f"/{options.node.lstrip('/')}"
        self._action = ActionClient(node, RunTask, f"{name}/run_task")
        self._arm = node.create_client(Arm, f"{name}/arm")
        self._name, self._heard_s = name, time.monotonic()
        self._disarms = False  # in the end: what it armed itself, or has moved by a goal of its own

    def run(self) -> int:
        """Returns the exit status."""
        action, arm = self._action, self._arm
        self._until(lambda: self._stop.is_set() or (action.server_is_ready() and arm.service_is_ready()), FIND_S)
        options = self._options
        if options.look_only:
            return self._goal()
        if not options.yes:
            _ask(options, self._stop)
        if self._stop.is_set():
            return _canceled()
        request = Arm.Request(arm=True, full_speed=options.full_speed, accept_unwatched=options.accept_unwatched)
        armed = self._answer(arm.call_async(request))
        replaces = options.preempt and armed.state in (State.RUNNING, State.HOLDING)  # what another has armed
        if not armed.accepted and not replaces:
            print(f"do: {armed.message}", file=sys.stderr)
            return REFUSED
        self._disarms = armed.state == State.LOOKING
        try:
            return self._goal()
        finally:
            if self._disarms and arm.service_is_ready():
                self._answer(arm.call_async(Arm.Request(arm=False)))

    def _goal(self) -> int:
        options, before = self._options, self._disarms
        if self._stop.is_set():
            return _canceled()
        request = RunTask.Goal(
            task=options.task, max_duration_s=options.max_duration, preempt=options.preempt, look_only=options.look_only
        )
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}")
        with Progress(*columns, console=Console(stderr=True)) as progress:
            shown = progress.add_task("waiting", total=1.0, said="")

            def show(message: Any) -> None:
                self._heard_s, newest = time.monotonic(), message.feedback.progress
                done = newest.progress if math.isfinite(newest.progress) else 0.0
                words = percent(newest.progress), status_of(newest.status)[0], f"{remaining(newest)} left"
                said = ", ".join(filter(None, (*words, message.feedback.state_text)))
                progress.update(shown, description=State(message.feedback.state).name, completed=done, said=said)

            self._disarms = not options.look_only  # also if there is no answer
            goal = self._answer(self._action.send_goal_async(request, feedback_callback=show))
            if not goal.accepted:
                self._disarms = before
                print(f"do: the goal was refused, the log of {self._name} says why", file=sys.stderr)
                return REFUSED
            ending, canceled = goal.get_result_async(), False
            while not ending.done():
                self._spin(0.05)
                if self._stop.is_set() and not canceled:
                    canceled = bool(goal.cancel_goal_async())
                if time.monotonic() - self._heard_s > GONE_S and not self._action.server_is_ready():
                    raise UserError(f"{self._name} has gone; the robot pauses by itself within 1 s")
        if ending.result().result.termination_reason == Reason.PREEMPTED:
            self._disarms = False  # the arms are the other goal's now
        return _tell(ending.result())

    def _answer(self, asked: Future) -> Any:
        self._until(asked.done, FIND_S)
        return asked.result()

    def _until(self, met: Callable[[], bool], limit_s: float) -> None:
        until_s = time.monotonic() + limit_s
        while not met():
            self._spin(0.05)
            if time.monotonic() > until_s:
                raise UserError(f"no answer of {self._name} in {limit_s:g} s: is it running, active, in this domain?")


def _ask(options: Options, stop: threading.Event) -> None:
    """Have a person agree to what is to come; returns when he has, or ``stop`` is set.

    Raises:
        UserError: the answer is no, or there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise UserError("nobody can be asked here whether the robot may move: give --yes")
    print(f"The robot will move: {options.task!r}. Nobody in its reach, emergency stop in hand?")
    if options.full_speed:
        print("Its links may be faster than 0.25 m/s.")
    if options.accept_unwatched:
        print("Limits may be exceeded that are not watched; /diagnostics names them (not_watched).")
    print("Arm it? [y/N] ", end="", flush=True)
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        if stop.is_set():
            return
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("not armed")


def _canceled() -> int:
    print("do: canceled before anything was armed or begun", file=sys.stderr)
    return EXIT[Reason.CANCELED]


def _tell(answer: Any) -> int:
    """Say what became of it; returns the exit status."""
    result, reason = answer.result, Reason(answer.result.termination_reason)
    print(f"{reason.name}: {result.message} ({result.elapsed_s:.1f} s, progress {percent(result.final_progress)})")
    if answer.status == GoalStatus.STATUS_CANCELED:
        return EXIT[Reason.CANCELED]
    undecided = reason in (Reason.STALLED, Reason.TIMED_OUT, Reason.PREEMPTED)
    return EXIT.get(reason, UNDECIDED if undecided else STOPPED)


@program("do")
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    argv = ["do", *(sys.argv[1:] if argv is None else argv)]
    options = read_options(Options, MODULE, __doc__, remove_ros_args(argv)[1:], _check)
    with ros_session(argv, (*END_SIGNALS, signal.SIGHUP)) as stop, onlooker("do") as (node, spin):
        return Doing(node, spin, options, stop).run()


if __name__ == "__main__":
    sys.exit(main())
