"""The watch over inputs, policy and clock: says when progress is not known, and why, and publishes diagnostics.

Everything runs in the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from ..commanding.commands import CommandExecutor
from ..commanding.state_machine import Reason
from ..inputs import Inputs, News
from .diagnostics import commands_status, inference_status, input_statuses
from .inference import InferenceLoop
from .results import Results

HEARTBEAT_S = 1.0  # at most, between two messages about progress, while it is not known
CLOCK_JUMP_S = 1.0  # back, by more than which everything begins anew
NO_TASK = "no task is set: set the parameter prompt or publish the instruction on ~/set_task"


class Watch:
    """See the module's docstring; ``look`` and ``diagnostics`` are called by timers."""

    def __init__(
        self,
        node: Node,
        *,
        inputs: Inputs,
        inference: InferenceLoop,
        commands: CommandExecutor,
        results: Results,
        task: Callable[[], str],
        facts: Mapping[str, str],
    ) -> None:
        self._node, self._inputs, self._inference, self._commands = node, inputs, inference, commands
        self._results, self._task, self._facts = results, task, facts
        self._known, self._news, self._last_now_ns = True, News(), node.get_clock().now().nanoseconds

    def look(self) -> None:
        """Look for a clock that jumped back and for what is wrong; tell both."""
        logger, now_ns = self._node.get_logger(), self._node.get_clock().now().nanoseconds
        if now_ns < self._last_now_ns - CLOCK_JUMP_S * 1e9:
            logger.warning("the clock jumped back: starting anew")
            self._inference.forget()
            self._inputs.clear()
            self._results.reset_estimator()
            self._commands.disarm(Reason.INPUTS_LOST, "the clock jumped back")
            self._commands.refuse("the clock jumped back")
        self._last_now_ns = now_ns
        problems = self._current_problems()
        if news := self._news.among(problems):
            logger.warning(f"progress unknown: {'; '.join(news)}")
        elif not problems and self._news.over():
            logger.info("progress is known again")
        if problems and (self._known or self._results.silent_s >= HEARTBEAT_S):
            self._results.publish_unknown(self._task())
        self._known = not problems

    def _input_problems(self) -> tuple[str, ...]:
        return self._inputs.snapshot(self._node.get_clock().now().nanoseconds).problems

    def _current_problems(self) -> tuple[str, ...]:
        if problems := self._input_problems():
            return problems
        if not self._task():
            return (NO_TASK,)
        problem = self._inference.stats.last_error or self._inference.stats.slow()
        return (problem,) if problem else ()

    def diagnostics(self) -> DiagnosticArray:
        """The state of inputs, policy and commands."""
        name, problems, task = self._node.get_fully_qualified_name().lstrip("/"), self._input_problems(), self._task()
        waiting = problems[0] if problems else ("" if task else NO_TASK)
        facts = {**self._facts, "task": task, "task_status": self._results.status.name}
        allowed = self._node.get_parameter("publish_commands").value
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        array.status = [
            *input_statuses(name, self._inputs.state(), (*problems, self._inference.stats.last_error)),
            inference_status(name, self._inference.stats, waiting, facts),
            commands_status(name, allowed, self._commands.situation()),
        ]
        for status in array.status:
            status.hardware_id = self._facts["robot"]
        return array
