"""The watch over inputs, policy and clock: says when progress is not known, and why, and publishes diagnostics.

Everything runs in the executor's thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

from ..commanding.commands import CommandExecutor, Situation
from ..commanding.state_machine import Reason, State
from ..inputs import Input, Inputs, News
from .inference import InferenceLoop, InferenceStats
from .results import Results

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def _status(name: str, level: bytes, message: str, values: dict[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)


def _milliseconds(prefix: str, values: deque[float]) -> dict[str, object]:
    found = list(values)
    shares = (("median", 50), ("p99", 99))
    return {f"{prefix}_{name}_ms": f"{np.percentile(found, q):.1f}" if found else "-" for name, q in shares}


def input_statuses(node: str, inputs: Sequence[Input], problems: Sequence[str]) -> list[DiagnosticStatus]:
    """One entry per input."""
    now, entries = time.monotonic(), []
    for entry in inputs:
        own = [text for text in problems if text.startswith((f"{entry.name} ", f"{entry.name}:"))]
        level, text = (ERROR, own[0]) if own else (OK, "fresh")
        if not own and not entry.required and now - entry.changed_s > entry.max_age_s:
            level, text = WARN, "absent or silent; its values are taken as 0"
        age = f"{now - entry.arrived_s:.3f}" if entry.message is not None else "-"
        values = {"topic": entry.topic, "rate_hz": f"{entry.rate_hz():.1f}", "age_s": age, "messages": entry.count}
        entries.append(_status(f"{node}: input {entry.name}", level, text, values | dict(entry.facts)))
    return entries


def inference_status(node: str, stats: InferenceStats, waiting: str, values: dict[str, object]) -> DiagnosticStatus:
    """How the policy does."""
    level, text = OK, "running"
    if stats.last_error:
        level, text = ERROR, stats.last_error
    elif slow := stats.slow():
        level, text = WARN, slow
    elif stats.no_progress:
        level, text = WARN, f"running without progress: {stats.no_progress}"
    elif waiting or stats.count == 0:
        level, text = WARN, f"waiting: {waiting or 'no inference yet'}"
    counters = {"inferences": stats.count, "failures": stats.failures, "frames_skipped": stats.skipped}
    times = _milliseconds("policy", stats.model_ms) | _milliseconds("overhead", stats.overhead_ms)
    return _status(f"{node}: inference", level, text, values | counters | times)


def commands_status(node: str, allowed: bool, now: Situation) -> DiagnosticStatus:
    """In which state commanding is and why; ``allowed`` is the parameter ``publish_commands``."""
    level = OK if now.state in (State.ARMED, State.RUNNING) or not now.text else WARN
    message = f"{now.state.name}: {now.text}" if now.text else now.state.name
    if now.broken:
        level, message = ERROR, now.against[0]
    elif not allowed:
        level, message = OK, "off (publish_commands is false)"
    values = {
        "publish_commands": str(allowed).lower(),
        "state": now.state.name,
        "full_speed": str(now.full_speed).lower(),
        "against_arming": "; ".join(now.against),
        "not_watched": "; ".join(now.unwatched),
    }
    return _status(f"{node}: commands", level, message, values)


def _mismatch(writer: TopicEndpointInfo, reader: TopicEndpointInfo) -> str:
    """Why nothing of this publisher arrives, empty if it should."""
    name = f"{writer.node_namespace.rstrip('/')}/{writer.node_name}"
    if writer.topic_type != reader.topic_type:
        return f"{name} publishes {writer.topic_type}, not {reader.topic_type}"
    fit, reason = qos_check_compatible(writer.qos_profile, reader.qos_profile)
    return f"{name}: {reason.strip()}" if fit == QoSCompatibility.ERROR else ""


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
            self._inputs.clear()
            self._results.reset_estimator()
            self._commands.disarm(Reason.INPUTS_LOST, "the clock jumped back")
            self._commands.forget("the clock jumped back")
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

    def _look_for_mismatches(self) -> None:
        """Tell who publishes an input that has brought no message, but as another type or with QoS that do not fit."""
        for entry in self._inputs.state():
            if entry.message is not None or not entry.topic.startswith("/"):  # others are no topics
                continue
            readers = self._node.get_subscriptions_info_by_topic(entry.topic)
            own = next((i for i in readers if i.node_name.startswith(self._node.get_name())), None)
            told = {_mismatch(writer, own) for writer in self._node.get_publishers_info_by_topic(entry.topic) if own}
            self._inputs.note_mismatch(entry.name, "; ".join(sorted(told - {""})))

    def diagnostics(self) -> DiagnosticArray:
        """The state of inputs, policy and commands."""
        self._look_for_mismatches()
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
