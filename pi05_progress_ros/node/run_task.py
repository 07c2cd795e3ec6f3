"""The action ``~/run_task``: do a task until it is done, has failed, or is canceled. One goal at a time.

``~/go_to_start`` is a goal of the same kind: the arms go slowly to where episodes of the training data begin.

Everything runs in the executor's thread. The goal moves the robot by way of the commands' state machine, which also
ends it; what is known of progress ends it here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import GoalEvent, ServerGoalHandle
from rclpy.node import Node

from pi05_progress.checkpoints.starts import Starts
from pi05_progress.robots.episode_notes import JUDGED, goal_note
from pi05_progress_msgs.action import RunTask
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_msgs.srv import StopEpisode

from ..commanding.commands import CommandExecutor, Situation
from ..commanding.goal import OUTCOMES, GoalJudge, GoalLimits
from ..commanding.state_machine import Ending, Reason, State
from ..recording.topics import EVENTS
from .results import Results

ALONE_S = 0.5  # for how long no client at all may be seen before the goal of one that was is ended
LOOK_S = 0.1  # how often clients are looked for
RUN, GO = "run_task", "go_to_start"
NO_STARTS = "the checkpoint does not say where training episodes begin: python -m training.add_starts adds that"
PHASES = ((EpisodeEvent.TAKEN_OVER, EpisodeEvent.HANDED_BACK), (EpisodeEvent.INVALID, EpisodeEvent.VALID))
NUMBERS = ("max_duration_s", "success_threshold", "success_hold_s", "stall_timeout_s")


class RunTaskServer:
    """See the module's docstring; ``look`` is called by a timer, ``activate`` and ``deactivate`` with the node.

    ``look_at`` sets the task whose progress is looked at, and returns why not; goals end as ``usual`` that say nothing
    themselves; ``starts`` is how training episodes begin, where the checkpoint says so.
    """

    def __init__(
        self,
        node: Node,
        results: Results,
        look_at: Callable[[str], str],
        usual: GoalLimits,
        starts: Starts | None,
    ) -> None:
        self._node, self._results, self._look_at = node, results, look_at
        self._usual, self._starts = usual, starts
        self._commands: CommandExecutor | None = None
        self._problems: Callable[[], tuple[str, ...]] = tuple
        self._goal: ServerGoalHandle | None = None
        self._moves = False  # whether the commands' state machine has taken it
        self.begun = 0  # how many goals have begun
        self._events = node.create_publisher(EpisodeEvent, EVENTS, 50)
        self._told_of: EpisodeEvent | None = None  # the last event of a goal that moved the robot
        self._judging = node.create_service(StopEpisode, "~/judge", self._on_judge)
        self._kind = RUN  # of the goal there is
        self._servers = {
            kind: ActionServer(
                node, RunTask, f"~/{kind}", lambda _: RunTask.Result(), goal_callback=partial(self._on_goal, kind),
                handle_accepted_callback=partial(self._on_accepted, kind), cancel_callback=self._on_cancel,
            )
            for kind in (RUN, GO)
        }  # fmt: skip

    def activate(self, commands: CommandExecutor, problems: Callable[[], tuple[str, ...]]) -> None:
        """Take goals from now on; ``problems`` are what speaks against using the inputs."""
        self._commands, self._problems = commands, problems

    def deactivate(self) -> None:
        """End the goal and take none."""
        if self._goal is not None:
            ended = self._commands.situation().ended if self._moves else None
            self._end(ended or Ending(Reason.DEACTIVATED, "the node was deactivated"))
        self._commands = None

    def destroy(self) -> None:
        """Let go of the actions."""
        for server in self._servers.values():
            server.destroy()
        self._node.destroy_service(self._judging)
        self._node.destroy_publisher(self._events)

    @property
    def task(self) -> str | None:
        """Of the goal there is; None if there is none."""
        return None if self._goal is None else self._goal.request.task

    # --- the action's callbacks ---

    def _on_goal(self, kind: str, request: RunTask.Goal) -> GoalResponse:
        if against := self._against(kind, request):
            name = repr(request.task) if kind == RUN else kind
            self._node.get_logger().warning(f"goal {name} refused: {'; '.join(against)}")
            return GoalResponse.REJECT
        if self._goal is not None:
            ending = Ending(Reason.PREEMPTED, f"another goal took its place: {request.task!r}")
            if self._moves and request.look_only:  # whoever only looks on does not disarm in the end
                self._commands.disarm(*ending)
            self._end(ending)
        return GoalResponse.ACCEPT

    def _against(self, kind: str, request: RunTask.Goal) -> tuple[str, ...]:
        """Everything that speaks against a goal."""
        if self._commands is None:
            return ("the node is not active",)
        found = ["its task is empty"] if kind == RUN and not request.task.strip() else []
        if kind == GO and (self._starts is None or request.look_only):
            found.append(NO_STARTS if self._starts is None else "it moves the arms, and cannot look_only")
        for name in NUMBERS:
            if not 0 <= getattr(request, name) < math.inf:
                found.append(f"its {name} is {getattr(request, name):g}, expected 0 or more")
        if request.success_threshold > 1:
            found.append(f"its success_threshold is {request.success_threshold:g}, expected at most 1")
        if self._goal is not None and not request.preempt:
            found.append(f"another goal is there, {self.task!r}: cancel it, or ask to preempt it")
        if request.look_only:
            return (*found, *self._problems())
        now = self._commands.situation()
        if now.state == State.TAKEN_OVER:  # whatever the goal, it would take the arms from the operator
            found.append(now.text)
        elif now.state == State.LOOKING:
            found.append(f"the node is {now.state.name}, not ARMED: call ~/arm")
        return (*found, *([far] if kind == RUN and (far := self._far()) else []), *now.against)

    def _far(self) -> str:
        """Which joint is too far from where training episodes begin; empty if none is, or that is allowed."""
        arms = self._commands.arms()
        if self._starts is None or self._node.get_parameter("start_anywhere").value:
            return ""
        pose = np.concatenate([*arms.values(), []])
        if len(pose) < self._starts.arms.shape[1]:  # of an arm nothing is known, which speaks against the goal itself
            return ""
        distance, joint = self._starts.distance(pose)
        if distance <= (limit := self._starts.far_rad):
            return ""
        return (
            f"{joint} is {distance:.2f} rad from where training episodes begin (limit {limit:.2f}): call "
            "~/go_to_start, or set start_anywhere"
        )

    def _on_accepted(self, kind: str, goal: ServerGoalHandle) -> None:
        # What execute() does, too, would be to ask for the result now.
        goal._update_state(GoalEvent.EXECUTE)
        request, now_s = goal.request, time.monotonic()
        self._kind = kind
        if kind == RUN:
            self.begun += 1
            self._look_at(request.task)
            self._results.reset_estimator()
        limits = GoalLimits(
            request.max_duration_s or self._usual.max_duration_s,
            request.stall_timeout_s or self._usual.stall_timeout_s,
            request.success_threshold or self._usual.success_threshold,
            request.success_hold_s or self._usual.success_hold_s,
            request.stop_on_failure,
        )
        self._goal, self._began_s, self._judge = goal, now_s, GoalJudge(limits, now_s)
        self._heard, self._told, self._canceled = self._results.newest, None, False
        self._phases, self._commanded = dict.fromkeys(PHASES, False), self._node.get_clock().now().to_msg()
        self._clients_s, self._looked_s = math.inf, -math.inf
        self._node.get_logger().info(f"goal: {request.task!r}" if kind == RUN else "the arms go to the start")
        self._moves = not request.look_only and self._commands.accept(self._starts.home if kind == GO else None)
        if not request.look_only and not self._moves:
            self._end(Ending(Reason.CANCELED, "the node was disarmed meanwhile"))
        elif self._moves and kind == RUN:
            self._tell(self._event(EpisodeEvent.START, goal))

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        if self._goal is None or goal.goal_id != self._goal.goal_id:
            return CancelResponse.REJECT
        self._commands.finish(Reason.CANCELED, "the goal was canceled")  # now: the robot stops before all else
        self._canceled = True
        return CancelResponse.ACCEPT

    def _on_judge(self, request: StopEpisode.Request, response: StopEpisode.Response) -> StopEpisode.Response:
        """The operator says how the last goal really ended; what was said of it before stays in the recording."""
        told = self._told_of
        if told is None or told.event != EpisodeEvent.STOP:
            response.message = "no goal has ended that could be judged"
            return response
        if request.outcome > EpisodeEvent.FAILURE:
            response.message = f"outcome is {request.outcome}, none of UNKNOWN, SUCCESS and FAILURE"
            return response
        judged = EpisodeEvent(event=EpisodeEvent.STOP, episode_id=told.episode_id, outcome=request.outcome)
        judged.header.stamp, judged.task = self._node.get_clock().now().to_msg(), told.task
        judged.label, judged.progress = f"{JUDGED}{request.note}", told.progress
        self._tell(judged)
        response.accepted, response.episode_id, response.message = True, told.episode_id, "judged"
        return response

    def _event(self, kind: int, goal: ServerGoalHandle) -> EpisodeEvent:
        """One that happens now, for recordings: a goal that moves the robot is an episode."""
        event = EpisodeEvent(event=kind, episode_id=bytes(goal.goal_id.uuid).hex(), task=goal.request.task)
        event.header.stamp, event.progress = self._node.get_clock().now().to_msg(), math.nan
        return event

    def _tell(self, event: EpisodeEvent) -> None:
        self._events.publish(event)
        self._told_of = event

    # --- the goal there is ---

    def look(self) -> None:
        """Tell what is new, and end the goal when it has ended."""
        if self._goal is None:
            return
        now_s, newest, now = time.monotonic(), self._results.newest, self._commands.situation()
        if self._kind == RUN and newest is not self._heard and newest.task == self._goal.request.task:
            self._heard = newest
            self._judge.hear(newest.progress, newest.status, now_s)
        said = (now.state, now.text, id(newest))
        if said != self._told:
            self._told = said
            feedback = RunTask.Feedback(state=int(now.state), state_text=now.text, elapsed_s=now_s - self._began_s)
            feedback.progress = newest
            self._goal.publish_feedback(feedback)
        if self._moves and self._kind == RUN:
            self._tell_phases(now)
        if self._moves and self._alone(now_s):
            self._commands.disarm(Reason.CANCELED, "the goal's client has gone")
            now = self._commands.situation()
        ending = now.ended if self._moves else None
        if self._canceled:
            ending = ending or Ending(Reason.CANCELED, "the goal was canceled")
        if ending := ending or self._judge.ending(now_s):
            self._end(ending)

    def _tell_phases(self, now: Situation) -> None:
        """Tell when the operator has taken over and handed back; in between, when the robot obeys him no more."""
        taken_over = now.state == State.TAKEN_OVER
        present = taken_over, taken_over and not now.operated
        for phase, there in zip(PHASES, present, strict=True):
            if there != self._phases[phase]:
                self._phases[phase] = there
                event = self._event(phase[not there], self._goal)
                if phase[not there] == EpisodeEvent.TAKEN_OVER:  # known late: a robot's mode comes once a second
                    event.header.stamp = self._commanded
                self._tell(event)
        if now.state not in (State.HOLDING, State.TAKEN_OVER):
            self._commanded = self._node.get_clock().now().to_msg()

    def _alone(self, now_s: float) -> bool:
        """Whether every client of the action has gone, that of the goal among them; before one is seen, none has."""
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            if self._node.count_subscribers(f"~/{self._kind}/_action/feedback"):
                self._clients_s = now_s
        return now_s - self._clients_s > ALONE_S

    def _end(self, ending: Ending) -> None:
        """End the goal; its result is sent by the executor."""
        goal, self._goal, now = self._goal, None, self._commands.situation()
        if self._moves:
            self._commands.finish(*ending)
        result = RunTask.Result(
            outcome=OUTCOMES.get(ending.reason, RunTask.Result.UNKNOWN), termination_reason=int(ending.reason),
            elapsed_s=time.monotonic() - self._began_s, message=ending.text,
            interventions=now.interventions if self._moves else 0,
            final_progress=self._heard.progress, final_lower=self._heard.lower, final_upper=self._heard.upper,
        )  # fmt: skip
        self._node.get_logger().info(f"goal {goal.request.task!r} ended, {ending.reason.name}: {ending.text}")
        if self._moves and self._kind == RUN:
            stop = self._event(EpisodeEvent.STOP, goal)
            stop.outcome, stop.progress = result.outcome, result.final_progress
            stop.label = goal_note(ending.reason.name, self._heard.model_id, result.interventions, ending.text)
            self._tell(stop)
        if goal.is_cancel_requested:
            goal.canceled()
        elif result.outcome == RunTask.Result.SUCCESS:
            goal.succeed()
        else:
            goal.abort()
        if self._node.executor is not None:
            self._servers[self._kind].notify_execute(goal, lambda _: result)
