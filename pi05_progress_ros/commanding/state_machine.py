"""Who may move the robot: one state machine. It knows neither ROS nor a clock; docs/commanding.md is its page.

Parameters only allow. A person, or a program on a person's behalf, arms. A goal moves. Whoever commands a robot tells
the machine what happens and, at every tick, what is known; the machine says what may be sent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import NamedTuple

from pi05_progress.robots.states import FsmState, Mode

HOLD_S = 1.0  # how long a goal may be held: an input that is missed, a chunk that is late
IDLE_S = 600.0  # how long it stays armed without a goal, or taken over
PAUSE_S = 0.5  # after the robot was paused, until what it says of itself is news again
FIRST_S = 10.0  # how long a goal's first actions are waited for
READY_S = 5.0  # how long a robot may take to become READY once it is enabled
NEWS_S = 0.05  # a mode that was heard so much later than something else was published after it
AGAIN = "call ~/arm to go on"
HAND_BACK = "back in API mode, call ~/arm with hand_back"
PAUSED = "the robot was paused by another while it was commanded"
LATE = "the next actions are late"


class State(IntEnum):
    """What the node may do; docs/commanding.md says how each is left."""

    LOOKING = 0
    ARMED = 1
    RUNNING = 2
    HOLDING = 3
    TAKEN_OVER = 4


class Reason(IntEnum):
    """Why a goal ended."""

    NONE = 0
    SUCCEEDED = 1
    ALREADY_DONE = 2
    FAILED = 3
    STALLED = 4
    TIMED_OUT = 5
    CANCELED = 6
    PREEMPTED = 7
    PAUSED = 8
    INPUTS_LOST = 9
    ROBOT_LOST = 10
    LIMIT = 11
    POLICY_LOST = 12
    DEACTIVATED = 13


class Send(Enum):
    """What may be sent at this tick."""

    NOTHING = "nothing"
    PAUSE = "pause"  # enable 0
    POSE = "pose"  # the pose that was measured when it began, with enable 1
    CHUNK = "chunk"  # what the chunk says, with enable 1


class Ending(NamedTuple):
    """That a goal ended, and why, for programs and for people."""

    reason: Reason
    text: str


class Facts(NamedTuple):
    """What is known at one tick."""

    fsm: int = FsmState.READY  # of the robot's own state machine, as heard last
    mode: int = Mode.API  # whose commands the robot follows
    mode_s: float = math.inf  # when that was heard
    lost: Ending | None = None  # what ends a goal and disarms at once; None if nothing does
    missing: str = ""  # which input cannot be used; empty if all can
    failing: str = ""  # why the policy's newest answer cannot be used; empty if it can
    chunk: bool = True  # whether there are actions for this moment


class StateMachine:
    """See the module's docstring. Times are s of one clock that only goes forward; not thread-safe."""

    def __init__(self) -> None:
        self.state, self.text = State.LOOKING, ""  # why it is in this state, for people; empty if there is no need
        self.full_speed = False  # whether arming asked for it
        self.ended: Ending | None = None  # how the last goal ended; None if none has since the last one was accepted
        self.interventions = 0  # how often the operator took over since then
        self._goal = False  # whether there is one, carried out already or not
        self._since_s = -math.inf  # of the state
        self._paused_s: float | None = None  # since when this node has paused the robot, until it enables it again
        self._enabled_s = -math.inf  # when the robot was enabled last, after a pause
        self._highest = FsmState.PAUSE  # that the robot has reached since it was enabled
        self._fell_s: float | None = None  # when it was found to have gone back without being told to by this node
        self._well_s = -math.inf  # when the policy last had an answer, while armed

    # --- events ---

    def arm(self, against: Sequence[str], full_speed: bool, now_s: float, hand_back: bool = False) -> bool:
        """Somebody arms, or hands the arms back after a takeover; refused while anything speaks against it."""
        if against or self.refuses(hand_back):
            return False
        self.full_speed = full_speed
        if hand_back:
            self._enable_anew(now_s)
            self._enter(State.RUNNING, "", now_s)
        else:
            self._enter(State.ARMED, "nothing moves before there is a goal", now_s)
            self._well_s = now_s
        return True

    def refuses(self, hand_back: bool) -> str:
        """Why this state is no place to arm, or to hand back; empty if it is one."""
        if hand_back:
            return "" if self.state == State.TAKEN_OVER else "nothing was taken over that could be handed back"
        if self.state == State.TAKEN_OVER:
            return f"the operator took over by teleoperation: {HAND_BACK}"
        return "a goal is there already, and goes on as it was armed" if self._goal else ""

    def disarm(self, reason: Reason, text: str, now_s: float) -> None:
        """What ends a goal and disarms, whatever the state."""
        if self.state != State.LOOKING:
            self._end_goal(reason, text)
            self._enter(State.LOOKING, f"{text}: {AGAIN}", now_s)

    def accept(self, now_s: float) -> bool:
        """A goal that is to move the robot, if that is armed and has no other; returns whether it is taken."""
        if self.state != State.ARMED or self._goal:
            return False
        self._goal, self.ended, self.interventions, self._well_s = True, None, 0, now_s
        self._enter(State.ARMED, "the goal's first actions are waited for", now_s)
        return True

    def begin(self, now_s: float) -> bool:
        """The goal's first actions are there: it is carried out, unless the robot was paused just now."""
        if self.state != State.ARMED or not self._goal or self._pausing(now_s):
            return False
        self._enable_anew(now_s)
        self._enter(State.RUNNING, "", now_s)
        return True

    def finish(self, reason: Reason, text: str, now_s: float) -> None:
        """The goal's end, by which nothing is disarmed, unless the operator has the arms: only he hands them back."""
        if self.state == State.TAKEN_OVER:
            self.disarm(reason, text, now_s)
        elif self._goal:
            self._end_goal(reason, text)
            self._enter(State.ARMED, text, now_s)
            self._well_s = now_s

    def _end_goal(self, reason: Reason, text: str) -> None:
        if self._goal:
            self._goal, self.ended = False, Ending(reason, text)

    def _enter(self, state: State, text: str, now_s: float) -> None:
        if self.state in (State.RUNNING, State.HOLDING) and state not in (State.RUNNING, State.HOLDING):
            self._pause(now_s)
        self.state, self.text, self._since_s = state, text, now_s

    def _pause(self, now_s: float) -> None:
        self._highest = FsmState.PAUSE
        if self._paused_s is None:
            self._paused_s = now_s

    def _enable_anew(self, now_s: float) -> None:
        self._paused_s = self._fell_s = None
        self._highest, self._enabled_s = FsmState.PAUSE, now_s

    def _pausing(self, now_s: float) -> bool:
        return self._paused_s is not None and now_s - self._paused_s < PAUSE_S

    # --- ticks ---

    def tick(self, facts: Facts, now_s: float) -> Send:
        """What may be sent now, by what is known."""
        if self.state != State.LOOKING:
            self._judge(facts, now_s)
        if self.state not in (State.RUNNING, State.HOLDING):
            return Send.NOTHING
        if self._paused_s is not None:
            return Send.PAUSE
        self._highest = max(self._highest, FsmState(facts.fsm))
        return Send.CHUNK if self.state == State.RUNNING else Send.POSE

    def _judge(self, facts: Facts, now_s: float) -> None:
        if facts.lost:
            self.disarm(*facts.lost, now_s)
        elif facts.mode == Mode.TELEOPERATION and self.state == State.ARMED:
            self.disarm(Reason.PAUSED, "the operator took the robot into teleoperation mode", now_s)
        elif facts.mode == Mode.TELEOPERATION and self.state != State.TAKEN_OVER:
            self._enter(State.TAKEN_OVER, f"the operator took over by teleoperation: {HAND_BACK}", now_s)
            self.interventions += 1
        elif self.state in (State.ARMED, State.TAKEN_OVER) and now_s - self._since_s > IDLE_S:
            what = "no goal" if self.state == State.ARMED else "the takeover has not ended"
            self.disarm(Reason.TIMED_OUT, f"{what} for {IDLE_S / 60:g} min", now_s)
        elif self.state == State.ARMED:
            self._well_s = self._well_s if facts.failing else now_s
            if now_s - self._well_s > HOLD_S:
                self.disarm(Reason.POLICY_LOST, facts.failing, now_s)
            elif self._goal and now_s - self._since_s > FIRST_S:
                reason = Reason.INPUTS_LOST if facts.missing else Reason.POLICY_LOST
                self.disarm(reason, facts.missing or f"the policy had no actions for {FIRST_S:g} s", now_s)
        elif self.state != State.TAKEN_OVER:
            self._watch_goal(facts, now_s)

    def _watch_goal(self, facts: Facts, now_s: float) -> None:
        if self._fell_s is None and facts.fsm < self._highest:
            # The robot goes PAUSE, SLOW_START, READY by itself, and back only if somebody wants it to. Whether the
            # operator took over is in its mode, which comes once a second.
            self._fell_s = now_s
        trouble, at_once = self._trouble(facts, now_s)
        if not trouble:
            if self.state == State.HOLDING:
                if self._paused_s is not None:
                    self._enable_anew(now_s)
                self._enter(State.RUNNING, "", now_s)
            return
        if self.state == State.RUNNING:
            self._enter(State.HOLDING, trouble.text, now_s)
        if self._fell_s is not None or facts.missing:
            self._pause(now_s)
        if at_once or now_s - self._since_s >= HOLD_S:
            self.disarm(*trouble, now_s)

    def _trouble(self, facts: Facts, now_s: float) -> tuple[Ending | None, bool]:
        """What keeps the goal from being carried out now, if anything; and whether it ends the goal at once."""
        if self._fell_s is not None:
            return Ending(Reason.PAUSED, PAUSED), facts.mode_s > self._fell_s + NEWS_S
        if facts.missing:
            return Ending(Reason.INPUTS_LOST, facts.missing), False
        enabled = self._paused_s is None
        if enabled and max(facts.fsm, self._highest) < FsmState.READY and now_s - self._enabled_s > READY_S:
            return Ending(Reason.PAUSED, f"the robot has not become READY for {READY_S:g} s since it was enabled"), True
        if facts.failing or not facts.chunk:
            return Ending(Reason.POLICY_LOST, facts.failing or LATE), False
        if self._pausing(now_s):
            return Ending(Reason.INPUTS_LOST, self.text), False
        return None, False
