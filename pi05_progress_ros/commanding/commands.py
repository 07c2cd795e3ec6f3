"""Commanding the robot: a thread that obeys the state machine at the control rate, and says in which state it is.

At every tick the thread itself judges what is known and sends what the state machine allows then; publishers exist only
while commands are allowed.

Threads: methods in the first part are called by others, all else belongs to the executor's own thread. `_lock` guards
the state machine, the chunks and what is asked for; `_against`, `_unwatched`, `_broken` and `_waits_for` are single
values that only this thread replaces.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from rclpy.node import Node

from pi05_progress.robots.joints import JointValues, MessageError, joint_values
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState, Mode

from ..inputs import Snapshot, same_kind
from .chunks import Chunk, Timeline
from .command_rules import CommandRules, CommandSettings, positions
from .participants import NodeApart
from .publishers import OWN_PAUSE, CommandPublishers, OtherCommanders
from .ramp import Ramp
from .robot_state import RobotState
from .state_machine import PAUSED, Ending, Facts, Reason, Send, State, StateMachine

SLOW = "the policy is too slow"
UNTESTED = "the profile {} names no tested stop: try on the robot what stops it, and say so in its key tested_stop"
NOT_ALLOWED = "the parameter publish_commands is false"


class Situation(NamedTuple):
    """How commanding stands."""

    state: State  # of the state machine
    text: str  # what there is to say about it; empty if there is nothing
    full_speed: bool  # whether arming asked for it
    against: tuple[str, ...]  # everything that speaks against arming at present
    broken: bool  # whether a fault has ended the commands' thread
    ended: Ending | None = None  # how the last goal ended; None while there is one, or if there was none
    interventions: int = 0  # of the operator in it
    unwatched: tuple[str, ...] = ()  # which limits are not watched, and why
    operated: bool = False  # whether the robot is in teleoperation mode


class CommandExecutor:
    """See the module's docstring.

    Topics and parameters are the node's, the publishers are in a participant of their own. ``snapshot`` gives the
    inputs as they are now, with what speaks against using them; ``unfit`` is why the policy must not command any
    robot, empty if it may.
    """

    def __init__(
        self,
        node: Node,
        profile: RobotProfile,
        settings: CommandSettings,
        robot: RobotState,
        snapshot: Callable[[], Snapshot],
        unfit: str,
    ) -> None:
        self._node, self._profile, self._settings, self._robot = node, profile, settings, robot
        self._sender = NodeApart(node, "commands")  # never spun
        self._snapshot, self._unfit = snapshot, unfit
        self._untested = "" if profile.tested_stop else UNTESTED.format(profile.name)
        self._against, self._broken = ("the node was activated just now",), False
        self._unwatched: tuple[str, ...] = ()
        self._accepted: tuple[str, ...] = ()  # what was not watched when it was armed
        self._lock = threading.Lock()
        self._machine, self._timeline = StateMachine(), Timeline(settings.blend_s, settings.execute_s)
        self._allowed, self._failing, self._waits_for = False, "", ""
        self._generation = 0
        self._ramp: Ramp | None = None  # of the goal there is, if it is to go to a pose
        # From here on the thread's own:
        self._said = (State.LOOKING, "")
        self._walks = False  # whether the last tick took the arms along the ramp
        self._publishers: CommandPublishers | None = None
        self._others: OtherCommanders | None = None
        self._rules = CommandRules(profile, settings)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commands")

    # --- called by other threads ---

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop commanding, hold, and end the thread; returns when that is done."""
        self._ended.set()
        if self._thread.ident:
            self._thread.join()
        self._sender.close()

    def allow(self, allowed: bool) -> None:
        """Whether arming is possible at all."""
        with self._lock:
            self._allowed = allowed

    def arm(self, full_speed: bool, hand_back: bool, accept_unwatched: bool = False) -> tuple[State, tuple[str, ...]]:
        """Arm for goals, or hand the arms back; returns the state before, and everything that speaks against it."""
        with self._lock:
            before, refused = self._machine.state, self._machine.refuses(hand_back)
            blind = () if accept_unwatched or hand_back else self._unwatched
            unwatched = [f"not watched is {text}; arm with accept_unwatched if that may be" for text in blind]
            texts = (refused, self._robot.released(), *self._against, *unwatched)
            against = tuple(dict.fromkeys(filter(None, texts)))
            if self._machine.arm(against, full_speed, time.monotonic(), hand_back) and not hand_back:
                self._accepted = self._unwatched
        return before, against

    def disarm(self, reason: Reason, text: str) -> None:
        """End the goal, if there is one, and disarm."""
        with self._lock:
            if self._machine.state != State.LOOKING:
                self._robot.stopped()
            self._machine.disarm(reason, text, time.monotonic())

    @property
    def generation(self) -> int:
        """Of what is planned: a chunk of an earlier one, whose computation began before a change, moves nothing."""
        return self._generation

    def forget(self, failing: str = "") -> None:
        """Drop what was planned and said before a change, and what is being computed; ``failing``: see ``refuse``."""
        with self._lock:
            self._forget(failing)

    def _forget(self, failing: str = "") -> None:
        self._generation, self._failing = self._generation + 1, failing
        self._timeline.clear()

    def accept(self, pose: np.ndarray | None = None) -> bool:
        """A goal is to move the robot: by chunks whose computation begins from now on. Whether it may.

        With a ``pose`` of all arms' joints, rad, the arms go there slowly, whatever the policy says.
        """
        ramp = None
        if pose is not None:
            if len(arms := self.arms()) < len(self._profile.arms):
                return False
            ramp = Ramp(arms, pose, self._profile, self._settings.max_joint_speed)  # takes too long to do in the lock
        with self._lock:
            accepted = self._machine.accept(time.monotonic())
            if accepted:
                self._forget()
                self._ramp = ramp
            return accepted

    def arms(self) -> dict[str, np.ndarray]:
        """Where the arms are, rad, those of which it is known."""
        return positions(self._measured(self._snapshot())[0])

    def finish(self, reason: Reason, text: str) -> None:
        """End the goal, if there is one; the robot is paused, and stays armed."""
        with self._lock:
            self._machine.finish(reason, text, time.monotonic())

    def offer(self, chunk: Chunk, now_s: float, generation: int) -> None:
        """A newer chunk, rad and N m (h, n), all of it finite, and the generation when its computation began."""
        late_s, length_s = now_s - chunk.start_s, chunk.end_s - chunk.start_s
        with self._lock:
            if generation != self._generation or self._ramp:
                return
            self._failing = ""
            if self._machine.state not in (State.RUNNING, State.HOLDING):  # none is carried out: the newest counts
                self._timeline.clear()
            self._timeline.add(chunk, now_s)
            if late_s >= length_s:
                self._failing = f"{SLOW}: actions came after {late_s:.1f} s, a chunk lasts {length_s:.2f} s"

    def refuse(self, reason: str) -> None:
        """The policy has no answer that can be used."""
        with self._lock:
            if self._ramp is None:
                self._failing = reason
                self._timeline.clear()

    def hear_enable(self, value: float) -> None:
        """What somebody published to the robot's heartbeat; this node's own pauses carry a minus sign (-0.0)."""
        own = value == OWN_PAUSE and math.copysign(1.0, value) == math.copysign(1.0, OWN_PAUSE)
        if not value > 0 and not own:
            self.disarm(Reason.PAUSED, PAUSED)

    def situation(self) -> Situation:
        """How it stands."""
        with self._lock:
            machine, against = self._machine, self._against
            text = machine.text or self._waits_for
            return Situation(
                machine.state, text, machine.full_speed, against, self._broken, machine.ended, machine.interventions,
                self._unwatched, self._robot.mode[1] == Mode.TELEOPERATION,
            )  # fmt: skip

    # --- the thread ---

    def _run(self) -> None:
        period = 1 / self._settings.rate_hz
        due, ending = time.monotonic(), Ending(Reason.DEACTIVATED, "the node was deactivated")
        try:
            while not self._ended.is_set():
                self._tick(period)
                due += period
                delay = due - time.monotonic()
                if delay > 0:
                    self._ended.wait(delay)
                else:
                    due = time.monotonic()
        except Exception as error:  # a dead thread must not leave the robot enabled
            ending = Ending(Reason.DEACTIVATED, f"commands ended by a fault in this node, restart it: {error!r}")
            self._broken, self._against = True, (ending.text,)
            self._node.get_logger().fatal(ending.text)
        finally:
            self.disarm(*ending)
            try:
                measured = self.arms()
            except Exception:  # the fault may be there: no pose is known, and the robot is paused all the same
                measured = {}
            try:
                self._halt(measured)
            finally:
                self._close()

    def _tick(self, period: float) -> None:
        snapshot, now_s = self._snapshot(), time.monotonic()
        arms, missing = self._measured(snapshot)
        measured, limits = positions(arms), self._rules.limits
        self._unwatched = (*limits.unwatched, *self._unmeasured(snapshot))
        if not self._allowed:
            self.disarm(Reason.CANCELED, NOT_ALLOWED)
            self._against = (NOT_ALLOWED,)
            self._halt(measured)
            self._close()
            self._say()
            return
        self._open()
        losses = [text for text in (*self._robot.lost(), self._others.against()) if text]
        lost = Ending(Reason.ROBOT_LOST, losses[0]) if losses else self._rules.limit(arms, now_s)
        outside, unheard = limits.outside(measured), self._publishers.unheard()
        (mode_s, mode), fsm = self._robot.mode, self._robot.fsm
        missing = snapshot.problems[0] if snapshot.problems else missing
        with self._lock:
            if blind := [text for text in self._unwatched if text not in self._accepted]:
                lost = lost or Ending(Reason.LIMIT, f"not watched any more is {blind[0]}")
            ramp = self._ramp = None if self._machine.ended else self._ramp
            if ramp and (ending := ramp.ending(measured)):
                self._machine.finish(*ending, now_s)
            target = self._timeline.target(self._node.get_clock().now().nanoseconds * 1e-9)
            facts = Facts(fsm, mode, mode_s, lost, missing, self._failing, bool(ramp) or target is not None)
            if facts.chunk and not missing and not outside:
                self._machine.begin(now_s)
            before, send = self._machine.state, self._machine.tick(facts, now_s)
            if before != State.LOOKING and self._machine.state == State.LOOKING:
                self._robot.stopped()
            limits.full_speed = self._machine.full_speed
            operated = "the robot is in teleoperation mode and ignores commands" if mode == Mode.TELEOPERATION else ""
            problems = (*snapshot.problems, missing, *losses, unheard, operated, outside, self._failing)
            texts = (self._unfit, self._untested, *problems)
            self._against = tuple(dict.fromkeys(filter(None, texts)))
        walks = bool(ramp) and send == Send.CHUNK and fsm == FsmState.READY
        if walks:
            if not self._walks:
                ramp.restart(measured)  # nothing took the arms along it: they may be elsewhere now
            target = ramp.target()
        self._waits_for, self._walks = "", walks
        if send in (Send.CHUNK, Send.POSE):
            step = self._rules.step(fsm, target if send == Send.CHUNK else None, measured, period)
            if isinstance(step, Ending):
                self.disarm(*step)
                self._halt(measured)
            else:
                self._waits_for = step.waits_for
                if walks:
                    ramp.advance(period)
                    step = step._replace(grippers={})  # which have no part in it
                self._publishers.send(step)
        else:
            self._halt(measured)
            if send == Send.PAUSE:
                self._publishers.enable(False)
        self._say()

    def _halt(self, measured: dict[str, np.ndarray]) -> None:
        """Stop at once: the pose the arms have becomes their target, and the robot is paused. Grippers keep theirs."""
        if not self._rules.commanding:
            return
        self._rules.stop()
        with self._lock:
            self._timeline.clear()
        try:
            self._publishers.send_arms(measured)
        finally:
            self._publishers.enable(False, at_once=True)

    def _open(self) -> None:
        if self._publishers is None:
            self._publishers = CommandPublishers(self._sender, self._profile)
            self._others = OtherCommanders(self._sender, self._profile)

    def _close(self) -> None:
        if self._publishers is not None:
            self._publishers.destroy()
            self._publishers = self._others = None

    def _say(self) -> None:
        """Log the state and what there is to say about it, when either changes."""
        state, text, *_ = self.situation()
        if state == self._said[0] and same_kind(text, self._said[1]):
            return
        self._said = state, text
        logger, line = self._node.get_logger(), f"{state.name}: {text}" if text else state.name
        if state in (State.ARMED, State.RUNNING):
            logger.info(line)
        else:
            logger.warning(line)

    def _measured(self, snapshot: Snapshot) -> tuple[dict[str, JointValues], str]:
        """The joints of the arms of which they are known, and what is wrong with another."""
        found, wrong = {}, ""
        for side, arm in self._profile.arms.items():
            name = f"{side}_arm"
            if name in snapshot.stale or name not in snapshot.messages:
                wrong = f"{name}: no fresh joint state"
                continue
            try:
                found[side] = joint_values(snapshot.messages[name], arm.joints, name)
            except MessageError as error:
                wrong = str(error)
        return found, wrong

    def _unmeasured(self, snapshot: Snapshot) -> list[str]:
        """What the arms' drivers do not tell of that which has a limit."""
        return [
            f"the {what} of the {side} arm: its joint states hold none"
            for side, arm in self._profile.arms.items()
            for what, limited in (("effort", arm.max_effort is not None), ("velocity", True))
            if limited and not len(getattr(snapshot.messages.get(f"{side}_arm"), what, "?"))
        ]
