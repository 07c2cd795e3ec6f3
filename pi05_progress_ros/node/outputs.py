"""Estimates and actions as messages."""

from __future__ import annotations

import math

import numpy as np
from builtin_interfaces.msg import Duration, Time

from pi05_progress.estimate.estimator import Estimate
from pi05_progress.observation import PolicyOutput
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.msg import ActionChunk, TaskProgress


def to_time(nanoseconds: int) -> Time:
    """A stamp from ns."""
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _duration(seconds: float) -> Duration:
    nanoseconds = round(min(seconds, 2**31 - 2) * 1e9)
    return Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def progress_message(
    estimate: Estimate,
    *,
    task: str,
    model_id: str,
    stamp_ns: int,
    inference_ms: float | None,
    age_ms: float | None,
) -> TaskProgress:
    """What is believed, as a message; None becomes NaN."""
    message = TaskProgress(task=task, model_id=model_id, status=int(estimate.status), stage_index=-1)
    message.header.stamp = to_time(stamp_ns)
    message.progress, message.progress_raw = _number(estimate.progress), _number(estimate.raw)
    message.lower, message.upper = _number(estimate.lower), _number(estimate.upper)
    message.confidence_level, message.rate = _number(estimate.confidence_level), _number(estimate.rate)
    message.success_probability = _number(estimate.success_probability)
    message.inference_ms, message.observation_age_ms = _number(inference_ms), _number(age_ms)
    if estimate.remaining_s is not None:
        expected, lower, upper = (_duration(seconds) for seconds in estimate.remaining_s)
        message.time_remaining, message.time_remaining_lower, message.time_remaining_upper = expected, lower, upper
        message.time_remaining_valid = True
    return message


def chunk_message(
    output: PolicyOutput,
    profile: RobotProfile,
    *,
    chunk_id: int,
    stamp_ns: int,
    now_ns: int,
    dt_s: float,
    model_ms: float,
) -> ActionChunk:
    """The policy's actions as a message."""
    horizon, _ = output.actions.shape
    message = ActionChunk(chunk_id=chunk_id, dt=dt_s, horizon=horizon)
    message.names, message.units = list(profile.layout.joints), list(profile.layout.action_units)
    message.header.stamp = to_time(stamp_ns)
    message.values = np.ascontiguousarray(output.actions, np.float32).reshape(-1).tolist()
    message.executed_from = int(np.clip(math.ceil((now_ns - stamp_ns) * 1e-9 / dt_s), 0, horizon))
    message.inference_ms = float(model_ms)
    return message
