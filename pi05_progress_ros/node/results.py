"""What the node publishes of the policy's answers: progress, its percentage and the action chunk.

Threads: ``publish`` is called by the inference thread, which owns the estimator and the counter of chunks, all else by
the executor's thread. What both touch are single values that are replaced as a whole.
"""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from rclpy.node import Node
from std_msgs.msg import Float32

from pi05_progress.errors import UserError
from pi05_progress.estimate.estimator import Estimate, ProgressEstimator, Status
from pi05_progress.observation import UNTRAINED, PolicyOutput
from pi05_progress.policy import Policy
from pi05_progress.robots.kinematics import ROOT_FRAME, fingertips, read_geometry
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.msg import ActionChunk, TaskProgress

from ..commanding.chunks import Chunk
from ..ros_session import to_time
from .inference import Result


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _duration(seconds: float) -> Duration:
    nanoseconds = round(min(seconds, 2**31 - 2) * 1e9)
    return Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


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


class Results:
    """See the module's docstring."""

    def __init__(self, node: Node, profile: RobotProfile, policy: Policy) -> None:
        self._node, self._profile, self._policy = node, profile, policy
        self.trained = policy.model_id != UNTRAINED  # whether the policy's answers mean anything
        self._progress = node.create_publisher(TaskProgress, "task_progress", 10)
        self._percent = node.create_publisher(Float32, "task_progress/percent", 10)
        self._chunks = node.create_publisher(ActionChunk, "action_chunk", 10)
        self.begin()

    def begin(self) -> None:
        """Begin anew, before the inference thread starts."""
        self._estimator, self._reset_asked = self._new_estimator(), False
        self._chunk_id, self._stamp_ns, self._published_s = 0, 0, 0.0
        # as published last: the task's status, and progress
        self.status, self.newest = Status.UNKNOWN, TaskProgress(progress=math.nan, lower=math.nan, upper=math.nan)

    def _new_estimator(self) -> ProgressEstimator:
        return ProgressEstimator(durations_s=self._policy.durations_s, temporal_head=self._policy.temporal_head)

    def reset_estimator(self) -> None:
        """Let the next estimate start anew."""
        self._reset_asked = True

    @property
    def silent_s(self) -> float:
        """Seconds since progress was published."""
        return time.monotonic() - self._published_s

    def publish(self, result: Result) -> Chunk:
        """Publish an answer; returns its actions as what is to be carried out."""
        output, stamp_ns = result.output, result.stamp_ns
        now_ns, dt_s = self._node.get_clock().now().nanoseconds, self._policy.action_dt_s
        if self._reset_asked:
            self._estimator.reset()
            self._reset_asked = False
        estimate = self._estimator.update(stamp_ns * 1e-9, output, result.task, self.trained)
        self._stamp_ns = stamp_ns
        self._send(estimate, result.task, result.policy_ms, (now_ns - stamp_ns) * 1e-6)
        if estimate.progress is not None:
            self._percent.publish(Float32(data=100 * estimate.progress))
        chunk = chunk_message(
            output, self._profile, chunk_id=self._chunk_id, stamp_ns=stamp_ns, now_ns=now_ns, dt_s=dt_s,
            model_ms=result.policy_ms,
        )  # fmt: skip
        self._chunk_id += 1
        self._chunks.publish(chunk)
        return Chunk(stamp_ns * 1e-9, dt_s, output.actions.astype(float))

    def publish_unknown(self, task: str) -> None:
        """Say that progress is not known at present."""
        self._send(Estimate(), task)

    def _send(self, estimate: Estimate, task: str, policy_ms: float | None = None, age_ms: float | None = None) -> None:
        """Publish what is believed; None becomes NaN."""
        self.status, self._published_s = estimate.status, time.monotonic()
        message = TaskProgress(task=task, model_id=self._policy.model_id, status=int(estimate.status), stage_index=-1)
        message.header.stamp = to_time(self._stamp_ns)
        message.progress, message.progress_raw = _number(estimate.progress), _number(estimate.raw)
        message.lower, message.upper = _number(estimate.lower), _number(estimate.upper)
        message.confidence_level, message.rate = _number(estimate.confidence_level), _number(estimate.rate)
        message.success_probability = _number(estimate.success_probability)
        if estimate.stage is not None:
            message.stage_index, message.stage_count = estimate.stage, len(estimate.stages)
            message.stage = estimate.stages[estimate.stage]
        message.reason = estimate.reason
        message.inference_ms, message.observation_age_ms = _number(policy_ms), _number(age_ms)
        if estimate.remaining_s is not None:
            expected, lower, upper = (_duration(seconds) for seconds in estimate.remaining_s)
            message.time_remaining, message.time_remaining_lower, message.time_remaining_upper = expected, lower, upper
            message.time_remaining_valid = True
        self._progress.publish(message)
        self.newest = message

    def destroy(self) -> None:
        """Let go of the publishers."""
        for publisher in (self._progress, self._percent, self._chunks):
            self._node.destroy_publisher(publisher)


class FingertipPaths:
    """The action chunk as paths of the fingertips, for people who look on: computed only while somebody subscribes.

    Without a geometry in the profile, which is said, there is nothing to publish. Threads as of ``Results``.
    """

    def __init__(self, node: Node, profile: RobotProfile) -> None:
        self._node, self._publishers = node, []
        try:
            self._points = partial(fingertips, layout=profile.layout, of="grasp", table=read_geometry(profile))
            if self._points(np.zeros((1, profile.layout.action_size))) is None:
                raise UserError("geometry.file: an arm has no point `grasp`, which is between its fingers")
        except (OSError, LookupError, TypeError, ValueError) as error:
            node.get_logger().info(f"the chunk is not published as paths of the fingertips: {error}")
            return
        self._publishers = [node.create_publisher(Path, f"~/fingertip_path/{arm}", 1) for arm in profile.arms]

    def publish(self, chunk: Chunk) -> None:
        """Publish where a chunk leads, for each arm that somebody looks at."""
        wanted = [(arm, to) for arm, to in enumerate(self._publishers) if to.get_subscription_count()]
        points = self._points(chunk.values) if wanted else None
        for arm, publisher in wanted:
            path = Path(poses=[PoseStamped() for _ in points])
            for row, (pose, point) in enumerate(zip(path.poses, points[:, arm].tolist(), strict=True)):
                pose.header.frame_id = ROOT_FRAME
                pose.header.stamp = to_time(round((chunk.start_s + row * chunk.dt_s) * 1e9))
                pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = point
            path.header = path.poses[0].header
            publisher.publish(path)

    def destroy(self) -> None:
        """Let go of the publishers."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
