"""Episodes of the scripted expert made without DDS, as fast as the cores allow: each a bag and the facts about it.

A bag looks like a ROS node to those who publish, so that the live robot's own publishers fill it: messages are
serialised and written. rclpy's ``serialize_message`` appends undefined bytes after empty sequences of 8-byte numbers,
which strict readers refuse: publish messages whose sequences are filled.
"""

from __future__ import annotations

import heapq
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from rclpy.serialization import serialize_message
from rosbags.interfaces import Connection
from rosbags.typesys.store import Typestore

from pi05_progress.checkpoints.description import read_info
from pi05_progress.errors import UserError
from pi05_progress.files.worker_process import in_worker, worker_pool
from pi05_progress.policy import PolicyOptions
from pi05_progress.robots.message_store import message_store
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import Mode
from pi05_progress_msgs.msg import EpisodeEvent

from ...command_line import check_ranges
from ...recording.bag_writer import PARTIAL, BagWriter, type_name
from ...ros_session import to_time
from ..driving.drivers import load_policy
from ..expert.operator import Operator
from ..physics.cameras import CameraRig, scaled_sizes
from ..physics.tasks.base import UNDONE_S
from ..physics.world import World
from ..robot.camera_sender import CameraSenders
from ..robot.robot import STATE_HZ, Robot
from ..robot.states import IMAGE_HZ, StatePublisher, Truth, is_due
from .options import EpisodeFacts, EpisodeOptions, facts_path, write_facts
from .planned import CommandedRobot, PlannedOperator

HELD_BACK_NS = round((UNDONE_S + 0.5) * 1e9)


class EpisodeBag(BagWriter):
    """A bag that is being written, as a context: it is in place only if no exception was raised. See ``BagWriter``.

    Messages are held back for a moment and stored in the order of their times: of some events it is known only later
    that they happened.
    """

    def __init__(self, path: Path, store: Typestore) -> None:
        shutil.rmtree(path.parent / PARTIAL / path.name, ignore_errors=True)  # of a run that was killed
        super().__init__(path, store)
        self.time_ns = 0  # under which the next messages are stored
        self.newest: dict[str, Any] = {}  # message of each topic
        self._held: list[tuple[int, int, Connection, bytes]] = []  # heap: time, number, and what is stored under it
        self._count = 0

    def __enter__(self) -> EpisodeBag:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind:
            self.discard()
        else:
            self._store_until(sys.maxsize)
            self.finish()

    def create_publisher(self, msg_type: type, topic: str, qos_profile: Any = None) -> SimpleNamespace:
        """A topic of the bag, with ``publish(message)``; the QoS profile has no meaning here.

        Events are stored under the time at which they happened.
        """
        connection = self.add_topic(topic, type_name(msg_type))

        def publish(message: Any) -> None:
            self.newest[topic] = message
            stamp = message.header.stamp if msg_type is EpisodeEvent else None
            time_ns = self.time_ns if stamp is None else stamp.sec * 10**9 + stamp.nanosec
            heapq.heappush(self._held, (time_ns, self._count, connection, serialize_message(message)))
            self._count += 1
            self._store_until(self.time_ns - HELD_BACK_NS)

        return SimpleNamespace(publish=publish)

    def _store_until(self, time_ns: int) -> None:
        while self._held and self._held[0][0] <= time_ns:
            time, _, connection, data = heapq.heappop(self._held)
            self.write(connection, time, data)

    def get_logger(self) -> logging.Logger:
        """Python's logger instead of ROS's."""
        return logging.getLogger("episode")


SLOT_S = 120  # between the starts of two episodes with neighbouring seeds; longer than any episode


@dataclass(frozen=True)
class GenerationOptions(EpisodeOptions):
    """Command line."""

    picture_rate: float = IMAGE_HZ
    """Pictures per camera and second; the rate of the data set is enough."""
    joint_rate: float = STATE_HZ
    """Joint states per second; commands come as often, at most at 100 Hz."""
    jpeg_quality: int = 90
    """1 to 100."""
    raw_images: bool = False
    """Write Image instead of CompressedImage."""
    planner: bool = False
    """The planner demonstrates: what is executed is disturbed, what is right is recorded beside it."""
    disturbance: float = 1.0
    """Of the planner's chunks, as a share of the usual one; 0: none."""
    checkpoint: str | None = None
    """Of a policy that drives; with --correct."""
    correct: bool = False
    """The policy of --checkpoint drives, and what the planner would do in its place is recorded beside it."""
    planner_share: float = 0.3
    """Of the chunks, those that the planner gives where a policy drives."""
    alone: bool = False
    """With --correct: nobody helps. The policy drives to the end, asked twice a second and without noise, so that its
    own failures are recorded."""
    failure_s: float = 0.0
    """How much longer a failure is recorded than until it was given up or decided, s."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes; if not given one per core."""
    start_time: int = 1_767_225_600
    """Seconds since 1970 of seed 0; each further seed starts two minutes later. The default is 2026-01-01."""
    overwrite: bool = False
    """Make episodes that are already there once more."""

    def check(self) -> None:
        """See ``EpisodeOptions.check``."""
        rates = {"picture_rate": (1, STATE_HZ), "joint_rate": (10, STATE_HZ)}
        shares = {"disturbance": (0, 10), "planner_share": (0, 1), "failure_s": (0, 60)}
        check_ranges(self, {"jpeg_quality": (1, 100), "workers": (1, 512), **rates, **shares})
        if self.correct != (self.checkpoint is not None):
            raise UserError("--correct and --checkpoint belong together: whose work is corrected")
        if self.alone and not self.correct:
            raise UserError("--alone goes with --correct and --checkpoint: whose episodes are recorded")
        if self.planner and self.correct:
            raise UserError("--planner and --correct: one of them drives; leave the other out")
        if self.checkpoint is not None:
            try:
                read_info(Path(self.checkpoint))
            except UserError as error:
                raise UserError(f"--checkpoint {self.checkpoint}: {error}") from error
        if self.fault and (self.planner or self.correct):
            raise UserError("--fault: only the scripted expert makes mistakes by order; leave it out")
        super().check()

    def start_ns(self, seed: int) -> int:
        """Stamp with which an episode begins, ns."""
        return (self.start_time + seed * SLOT_S) * 10**9

    def bag(self, seed: int) -> Path:
        """The bag folder of an episode."""
        return self.out / f"{self.task}_{seed:06d}"


class EpisodeMaker:
    """Makes one episode after the other; scene, renderers and policy are made once. Raises as ``load_policy``."""

    def __init__(self, options: GenerationOptions) -> None:
        self._options = options
        self._profile = RobotProfile.load(options.profile)
        self._planned = options.planner or options.correct
        relayed = self._planned and self._profile.arm_command == "relay"
        self._world = World(options.task, 0, "velocity" if relayed else "position", laboratory=options.where())
        noise = "zero" if options.alone else "fresh"
        policy = PolicyOptions(checkpoint=options.checkpoint, noise=noise) if options.checkpoint else None
        self._policy = policy and load_policy(self._profile, policy)
        self._rig = CameraRig(self._world.model, scaled_sizes(options.image_scale), self._profile)
        self._store = message_store()

    def close(self) -> None:
        """Free the renderers."""
        self._rig.close()

    def make(self, seed: int) -> EpisodeFacts:
        """Make the episode of a seed and write its bag."""
        options, world = self._options, self._world
        world.reset(seed)
        start_ns, bag_path = options.start_ns(seed), options.bag(seed)
        with EpisodeBag(bag_path, self._store) as bag:
            robot = CommandedRobot(world, bag, self._profile) if self._planned else Robot(world)
            states = StatePublisher(bag, robot, self._profile)
            truth = Truth(bag, robot, "/episode_event", start_ns, options.failure_s)
            operator = self._operator(bag, robot)
            form = "raw" if options.raw_images else "compressed"
            senders = CameraSenders(bag, self._profile, options.image_scale, options.jpeg_quality, transport=form)
            tick, over = 0, False
            while not over:
                robot.advance()
                bag.time_ns = start_ns + robot.stamp_ns(world.time_s)
                stamp = to_time(bag.time_ns)
                passed = tick + 1  # ticks; even numbers are whole hundredths of a second
                picture = is_due(passed, options.picture_rate)
                states.publish(tick, stamp, Mode.TELEOPERATION, picture or is_due(passed, options.joint_rate))
                if picture:
                    truth.publish(operator.not_to_imitate)
                    images = self._rig.render(world.snapshot())
                    senders.publish(images, stamp)
                    if self._planned:
                        parts = self._profile.joint_parts().items()
                        operator.look(images, {name: bag.newest[part.state_topic] for name, part in parts}, stamp)
                if passed % 2 == 0:
                    send = any(is_due(t, options.joint_rate) for t in (tick, passed))
                    over = operator.publish(stamp, send)
                    if not self._planned:
                        follow(robot, operator)
                    if operator.gave_up:
                        truth.give_up(operator.gave_up)
                tick += 1
            truth.end_episode()
            status = world.task_status()
            decided = status.outcome != "unknown"
            outcome, reason = (status.outcome, status.reason) if decided else ("failure", operator.gave_up)
            facts = EpisodeFacts(
                seed, options.task, outcome, reason, round(world.time_s, 3), list(operator.faults),
                [(m.name, round(m.time_s, 3)) for m in status.milestones], options.laboratory, options.shift,
            )  # fmt: skip
            write_facts(bag_path, facts)
        return facts

    def _operator(self, bag: EpisodeBag, robot: Robot) -> Operator | PlannedOperator:
        options = self._options
        if not self._planned:
            return Operator(bag, self._world, self._profile, options.fault, options.fault_share, options.failure_s)
        share = None if options.alone else options.planner_share
        return PlannedOperator(bag, robot, self._profile, options.disturbance, self._policy, share, options.failure_s)


def follow(robot: Robot, operator: Operator) -> None:
    """Let the robot follow what the operator commands, without a detour through messages."""
    for side in robot.world.sides:
        limits = robot.world.joint_ranges(side)
        robot.command_arm(side, np.clip(getattr(operator.command, side), limits[:, 0], limits[:, 1]))
        robot.command_gripper(side, getattr(operator.command, f"{side}_gripper"))
    robot.machine.enable(1.0, robot.now_s)


def finished(options: GenerationOptions, seed: int) -> bool:
    """Whether the episode is completely there; what a killed run left of it is removed."""
    bag = options.bag(seed)
    if bag.is_dir() and facts_path(bag).is_file():
        return True
    shutil.rmtree(bag, ignore_errors=True)
    facts_path(bag).unlink(missing_ok=True)
    return False


def generate(options: GenerationOptions, seeds: Sequence[int]) -> Iterator[EpisodeFacts]:
    """Record the episodes of these seeds in several processes; yields each as it is finished, in any order."""
    pool = worker_pool(min(options.workers, len(seeds)), partial(_frugal_maker, options))
    try:
        for future in as_completed([pool.submit(in_worker, "make", seed) for seed in seeds]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _frugal_maker(options: GenerationOptions) -> EpisodeMaker:
    """Who makes episodes in a worker process; the cores are shared by these, not by the pixels of one of them."""
    os.environ.setdefault("LP_NUM_THREADS", "1")  # of software rendering
    cv2.setNumThreads(1)
    return EpisodeMaker(options)
