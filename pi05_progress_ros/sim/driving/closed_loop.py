"""A policy drives the simulated robot in simulated time: no DDS, no clock on the wall, the same every time.

The way of the numbers is the node's: the robot's own messages become a frame (``robot_frame``), the policy's chunks are
walked by the rules of the node's command thread (``command_rules.py``: blending, joint ranges, speed, tracking) under
its state machine (``state_machine.py``, armed at the start), arms that follow velocities get them by the relay's rule,
and the robot follows by its own state machine, slow start included. What a lockstep has no use for is left out: ages of
messages, other publishers, the operator's mode.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.estimate.estimator import ProgressEstimator
from pi05_progress.estimate.status import Status
from pi05_progress.observation import PolicyOutput, RobotFrame
from pi05_progress.policy import OutputChecker, OutputError, Policy
from pi05_progress.robots.messages import robot_frame
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import Mode

from ...commanding.chunks import Chunk, Timeline
from ...commanding.command_rules import ENABLE_PERIOD_S, CommandRules, CommandSettings, positions
from ...commanding.relay import relay_velocity
from ...commanding.state_machine import Ending, Facts, Send, StateMachine
from ...ros_session import to_time
from ...starting.simulation_choices import check_simulable
from ..physics.cameras import CameraRig, scaled_sizes
from ..physics.laboratory import Laboratory
from ..physics.world import World
from ..robot.robot import STATE_HZ, Robot
from ..robot.states import StatePublisher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopSettings:
    """How a policy drives."""

    inference_rate_hz: float = 10.0  # how often it is asked, as the node's parameter
    # how long after a frame its chunk is there, s of simulated time, whatever this machine takes
    latency_s: float = 0.1
    image_scale: float = 0.25  # size of the pictures as a share of the real cameras'
    tail_s: float = 4.0  # how long it goes on after the task was decided, so that the status can tell
    # speed, blending and tracking, as the node's parameters
    commands: CommandSettings = field(default_factory=CommandSettings)
    laboratory: Laboratory = field(default_factory=Laboratory)  # where the robot stands


@dataclass(frozen=True)
class DrivenEpisode:
    """What became of one episode. Times are simulated seconds from its start; None means never, or unknown."""

    task: str
    seed: int
    instruction: str
    outcome: str  # ``success`` or ``failure``, from physics
    reason: str  # for it
    decided_s: float  # when the outcome was decided
    milestones: tuple[tuple[str, float], ...]  # those reached, with their times
    true_progress: float  # share of milestones that held in the end
    progress: float | None  # the estimator's in the end; None if the model has no head
    declared_s: float | None  # when the status was SUCCEEDED for the first time
    stopped: str  # why the robot was commanded no more; empty if it was to the end
    inferences: int  # how many there were
    shift: str = "none"  # what was different in the laboratory, a name in ``SHIFTS``


class _Newest(dict[str, Any]):
    """Keeps the newest message of every topic; looks like a node to those who publish."""

    def create_publisher(self, msg_type: type, topic: str, qos_profile: Any) -> SimpleNamespace:
        return SimpleNamespace(publish=lambda message: self.__setitem__(topic, message))


class ClosedLoop:
    """Drives one episode after the other; scene and renderers are made once. Used by one thread.

    A policy that has a method ``watch`` is given the world by it: one that acts by the truth, as a bound for others.

    Raises:
        UserError: the simulated robot has not this profile's cameras or arms, or nothing can be rendered here.
    """

    def __init__(self, policy: Policy, profile: RobotProfile, task: str, settings: LoopSettings | None = None) -> None:
        check_simulable(profile)
        self._policy, self._profile, self._task = policy, profile, task
        self._checker = OutputChecker(log.warning)
        self._settings = settings or LoopSettings()
        arm_command = "velocity" if profile.arm_command == "relay" else "position"
        self._world = World(task, 0, arm_command, self._settings.laboratory)
        self._rig = CameraRig(self._world.model, scaled_sizes(self._settings.image_scale), profile)
        getattr(policy, "watch", lambda world: None)(self._world)

    def close(self) -> None:
        """Free the renderers."""
        self._rig.close()

    def run(self, seed: int) -> DrivenEpisode:
        """Drive a seed's episode until a little after its outcome; a ``UserError`` if an answer cannot be used."""
        world, settings = self._world, self._settings
        world.reset(seed)
        robot = Robot(world)
        commander = Commander(robot, self._profile, settings.commands)
        estimator = ProgressEstimator(durations_s=self._policy.durations_s, temporal_head=self._policy.temporal_head)
        outlet = _Newest()
        states = StatePublisher(outlet, robot, self._profile)
        control_ticks = max(1, round(STATE_HZ / settings.commands.rate_hz))
        coming: deque[tuple[float, Chunk]] = deque()
        asked, tick = 0, 0
        progress, declared_s, decided_s = None, None, None
        while decided_s is None or robot.now_s < decided_s + settings.tail_s:
            robot.advance()
            now = robot.now_s
            if now >= asked / settings.inference_rate_hz - 1e-9:
                asked += 1
                states.publish(tick, to_time(robot.stamp_ns(world.time_s)), Mode.API)  # nobody else looks at them
                output = self._ask(robot, outlet)
                coming.append(
                    (now + settings.latency_s, Chunk(now, self._policy.action_dt_s, output.actions.astype(float)))
                )
                estimate = estimator.update(now, output, world.instruction)
                progress = estimate.progress
                if estimate.status == Status.SUCCEEDED and declared_s is None:
                    declared_s = now
            while coming and coming[0][0] <= now + 1e-9:
                commander.timeline.add(coming.popleft()[1], now)
            if tick % control_ticks == 0:
                commander.tick(control_ticks / STATE_HZ)
            if decided_s is None and world.task_status().outcome != "unknown":
                decided_s = now
            tick += 1
        status = world.task_status()
        return DrivenEpisode(
            self._task, seed, world.instruction, status.outcome, status.reason, round(decided_s, 3),
            tuple((m.name, round(m.time_s, 3)) for m in status.milestones), status.progress, progress, declared_s,
            commander.stopped, asked, settings.laboratory.shift,
        )  # fmt: skip

    def _ask(self, robot: Robot, messages: Mapping[str, Any]) -> PolicyOutput:
        output = self._policy.infer(self._frame(robot, messages), robot.world.instruction)
        try:
            return self._checker.checked(output, self._policy.horizon, self._profile.layout.action_size)
        except OutputError as error:
            raise UserError(f"seed {robot.world.seed}, {robot.now_s:.2f} s: {error}") from error

    def _frame(self, robot: Robot, messages: Mapping[str, Any]) -> RobotFrame:
        """What the node would have made of the robot's messages and pictures of this moment."""
        joints = {name: messages[part.state_topic] for name, part in self._profile.joint_parts().items()}
        images = self._rig.render(robot.world.snapshot())
        return robot_frame(self._profile, images, joints, robot.stamp_ns(robot.world.time_s))


class Commander:
    """The command thread's part, at its rate of simulated time, by the same rules."""

    def __init__(self, robot: Robot, profile: RobotProfile, settings: CommandSettings) -> None:
        self._robot, self._profile, self._max_speed = robot, profile, settings.max_joint_speed
        self._rules, self._machine = CommandRules(profile, settings), StateMachine()
        self._machine.arm((), full_speed=True, now_s=robot.now_s)
        self._rules.limits.full_speed = True
        self._machine.accept(robot.now_s)
        self.timeline = Timeline(settings.blend_s, settings.execute_s)
        self._enabled_s = -np.inf

    @property
    def stopped(self) -> str:
        """Why the robot is commanded no more; empty while it is."""
        return self._machine.ended.text if self._machine.ended else ""

    def tick(self, period_s: float) -> None:
        """Command what is due."""
        now, fsm = self._robot.now_s, int(self._robot.machine.state)
        target = self.timeline.target(now)
        arms = {side: self._robot.world.arm_state(side) for side in self._profile.arms}
        measured = positions(arms)
        if target is not None:
            self._machine.begin(now)
        send = self._machine.tick(Facts(fsm=fsm, lost=self._rules.limit(arms, now), chunk=target is not None), now)
        if send not in (Send.CHUNK, Send.POSE):
            self._halt(measured, now)
            return
        step = self._rules.step(fsm, target if send == Send.CHUNK else None, measured, period_s)
        if isinstance(step, Ending):
            self._machine.disarm(*step, now)
            self._halt(measured, now)
            return
        for side, command in step.grippers.items():
            self._robot.command_gripper(side, self._profile.turned(command))
        self._command_arms(step.arms, measured)
        if now - self._enabled_s >= ENABLE_PERIOD_S - 1e-9:
            self._enabled_s = now
            self._robot.machine.enable(1.0, now)

    def _halt(self, measured: Mapping[str, np.ndarray], now: float) -> None:
        if not self._rules.commanding:
            return
        self._rules.stop()
        self.timeline.clear()
        self._command_arms(measured, measured)
        self._robot.machine.enable(0.0, now)

    def _command_arms(self, targets: Mapping[str, np.ndarray], measured: Mapping[str, np.ndarray]) -> None:
        relay = self._profile.relay if self._profile.arm_command == "relay" else None
        for side, target in targets.items():
            velocity = None if relay is None else relay_velocity(relay, target, measured[side], self._max_speed)
            self._robot.command_arm(side, target, velocity)
