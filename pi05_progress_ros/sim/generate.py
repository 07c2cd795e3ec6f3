"""Records the scripted expert's episodes into bags, without DDS and as fast as the cores allow.

    python -m pi05_progress_ros.sim.generate --task stack_cubes --episodes 20 --out bags

One MCAP bag per episode, in a folder named after task and seed, holds what a recording of the live simulated robot
would hold: joint and gripper states (200 Hz), the operator's commands and buttons (100 Hz), images (30 Hz, JPEG), the
state machine, and EpisodeEvents on /episode_event. Episodes that are already there are kept, so a run that was stopped
can be started again. Stamps are simulated time from --start-time on; episode after episode, with a pause in between.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sensor_msgs.msg import CompressedImage, Image

from pi05_progress.files.worker_process import end_with_parent
from pi05_progress.robots.profile import IMAGE_TYPE, SIDES, RobotProfile
from pi05_progress.robots.yaml_lines import ConfigError

from ..recording.bag_writer import message_store
from .episodes.bag import EpisodeBag
from .episodes.facts import SUMMARY, EpisodeFacts, facts_path, write_facts, write_summary
from .expert.faults import FAULTS, parse_fault
from .expert.operator import Operator
from .physics.cameras import CameraRig, scaled_sizes
from .physics.gl import NoOpenGLError, require_backend
from .physics.tasks import TASKS
from .physics.world import World
from .robot.image_publisher import image_message
from .robot.robot import Robot
from .robot.states import TELEOPERATION, StatePublisher, is_image_tick, to_time
from .robot.truth import Truth

SLOT_S = 120  # between the starts of two episodes with neighbouring seeds; longer than any episode


@dataclass(frozen=True)
class Options:
    """What all episodes of a run have in common."""

    task: str
    out: Path
    profile: str
    image_scale: float
    jpeg_quality: int
    raw_images: bool
    faults: tuple[str, ...]
    fault_share: float
    start_ns: int


class _Cameras:
    """Renders and writes all cameras' images."""

    def __init__(self, bag: EpisodeBag, rig: CameraRig, profile: RobotProfile, options: Options) -> None:
        self._rig, self._raw = rig, options.raw_images
        self._quality = [cv2.IMWRITE_JPEG_QUALITY, options.jpeg_quality]
        kind = Image if self._raw else CompressedImage
        topics = {k: c.topic if self._raw else c.compressed_topic for k, c in profile.cameras.items()}
        self._publishers = {key: bag.create_publisher(kind, topic) for key, topic in topics.items()}

    def publish(self, snapshot: np.ndarray, stamp: Time) -> None:
        """One image of every camera."""
        for key, image in self._rig.render(snapshot).items():
            if self._raw:
                self._publishers[key].publish(image_message(image, stamp, key))
                continue
            message = CompressedImage(format="rgb8; jpeg compressed bgr8")
            message.header.stamp, message.header.frame_id = stamp, key
            message.data = cv2.imencode(".jpg", image[..., ::-1], self._quality)[1].tobytes()
            self._publishers[key].publish(message)


class Recorder:
    """Makes one episode after the other in one process; scene and renderers are made once."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._profile = RobotProfile.load(options.profile)
        self._world = World(options.task, 0)
        self._rig = CameraRig(self._world.model, scaled_sizes(options.image_scale))
        self._store = message_store()

    def close(self) -> None:
        """Free the renderers."""
        self._rig.close()

    def record(self, seed: int) -> EpisodeFacts:
        """Make the episode of a seed and write its bag."""
        options, world = self._options, self._world
        world.reset(seed)
        robot = Robot(world)
        start_ns = options.start_ns + seed * SLOT_S * 10**9
        bag_path = episode_path(options, seed)
        with EpisodeBag(bag_path, self._store) as bag:
            states = StatePublisher(bag, robot, self._profile)
            truth = Truth(bag, robot, "/episode_event", start_ns)
            operator = Operator(bag, world, self._profile, options.faults, options.fault_share)
            cameras = _Cameras(bag, self._rig, self._profile, options)
            tick, over = 0, False
            while not over:
                robot.advance()
                bag.time_ns = start_ns + robot.stamp_ns(world.time_s)
                stamp = to_time(bag.time_ns)
                states.publish(tick, stamp, TELEOPERATION)
                if is_image_tick(tick):
                    truth.publish()
                    cameras.publish(world.snapshot(), stamp)
                if tick % 2 == 0:
                    over = operator.publish(stamp)
                    _follow(robot, operator)
                    if operator.gave_up:
                        truth.give_up()
                tick += 1
            truth.end_episode()
            status = world.task_status()
            decided = status.outcome != "unknown"
            outcome, reason = (status.outcome, status.reason) if decided else ("failure", "given up")
            facts = EpisodeFacts(
                seed, options.task, outcome, reason, round(world.time_s, 3), operator.faults,
                [(m.name, round(m.time_s, 3)) for m in status.milestones],
            )  # fmt: skip
            write_facts(bag_path, facts)
        return facts


def _follow(robot: Robot, operator: Operator) -> None:
    for side in SIDES:
        limits = robot.world.joint_ranges(side)
        robot.command_arm(side, np.clip(getattr(operator.command, side), limits[:, 0], limits[:, 1]))
        robot.command_gripper(side, getattr(operator.command, f"{side}_gripper"))
    robot.machine.enable(1.0, robot.now_s)


def episode_path(options: Options, seed: int) -> Path:
    """The bag folder of an episode."""
    return options.out / f"{options.task}_{seed:06d}"


_recorder: Recorder | None = None  # one per worker process


def _start_worker(options: Options) -> None:
    global _recorder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; episodes begun are finished
    end_with_parent()
    os.environ.setdefault("LP_NUM_THREADS", "1")  # software rendering: the cores are shared by episodes, not pixels
    cv2.setNumThreads(1)
    _recorder = Recorder(options)


def _record(seed: int) -> EpisodeFacts:
    return _recorder.record(seed)


def generate(options: Options, seeds: Sequence[int], workers: int) -> Iterator[EpisodeFacts]:
    """Record the episodes of these seeds; yields each as it is finished, in any order."""
    context = multiprocessing.get_context("spawn")  # OpenGL and threads do not survive a fork
    pool = ProcessPoolExecutor(min(workers, len(seeds)), context, _start_worker, (options,))
    try:
        for future in as_completed([pool.submit(_record, seed) for seed in seeds]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def finished(options: Options, seed: int) -> bool:
    """Whether the episode is completely there; what a killed run left of it is removed."""
    bag = episode_path(options, seed)
    if bag.is_dir() and facts_path(bag).is_file():
        return True
    shutil.rmtree(bag, ignore_errors=True)
    facts_path(bag).unlink(missing_ok=True)
    return False


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pi05_progress_ros.sim.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", required=True, choices=sorted(TASKS), help="what is done")
    parser.add_argument("--episodes", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the bags; made if it is not there")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode (default: %(default)s)")
    text = "image size as a share of the real cameras' (default: %(default)s)"
    parser.add_argument("--image-scale", type=float, default=0.25, help=text)
    parser.add_argument("--jpeg-quality", type=int, default=90, help="1 to 100 (default: %(default)s)")
    parser.add_argument("--raw-images", action="store_true", help="write Image instead of CompressedImage")
    text = f"KIND or KIND:PICK, may be repeated; kinds: {', '.join(FAULTS)}"
    parser.add_argument("--fault", action="append", default=[], metavar="FAULT", help=text)
    text = "share of the episodes in which each fault happens (default: %(default)s)"
    parser.add_argument("--fault-share", type=float, default=1.0, help=text)
    parser.add_argument("--profile", default="teleavatar", help="robot profile (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    text = "s since 1970 of seed 0; each further seed starts two minutes later (default: 2026-01-01)"
    parser.add_argument("--start-time", type=int, default=1_767_225_600, help=text)
    parser.add_argument("--overwrite", action="store_true", help="make episodes that are already there once more")
    args = parser.parse_args(arguments)
    for name, low, high in (("episodes", 1, 10**6), ("seed", 0, 10**6), ("jpeg_quality", 1, 100), ("workers", 1, 512)):
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: expected {low} to {high}")
    if not 0 <= args.fault_share <= 1:
        parser.error(f"--fault-share {args.fault_share}: expected 0 to 1")
    try:
        scaled_sizes(args.image_scale)
        for fault in args.fault:
            parse_fault(fault)
        require_backend()
        if kinds := {c.type for c in RobotProfile.load(args.profile).cameras.values()} - {IMAGE_TYPE}:
            parser.error(
                f"--profile {args.profile}: its cameras arrive as {kinds.pop()}, only {IMAGE_TYPE} is made here"
            )
        args.out.mkdir(parents=True, exist_ok=True)
        if not os.access(args.out, os.W_OK):
            raise PermissionError(13, "is not writable")
    except (ValueError, NoOpenGLError, ConfigError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--out {args.out}: {error.strerror or error}")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse(arguments)
    options = Options(
        args.task, args.out, args.profile, args.image_scale, args.jpeg_quality, args.raw_images, tuple(args.fault),
        args.fault_share, args.start_time * 10**9,
    )  # fmt: skip
    seeds = range(args.seed, args.seed + args.episodes)
    if args.overwrite:
        for seed in seeds:
            facts_path(episode_path(options, seed)).unlink(missing_ok=True)
    todo = [seed for seed in seeds if not finished(options, seed)]
    if len(todo) < len(seeds):
        print(f"{len(seeds) - len(todo)} of {len(seeds)} episodes are already there and are kept")
    started, simulated = time.monotonic(), 0.0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=not sys.stdout.isatty()) as progress:
        bar = progress.add_task(args.task, total=len(todo))
        try:
            for episode in generate(options, todo, args.workers) if todo else ():
                simulated += episode.duration_s
                speed = simulated / (time.monotonic() - started)
                progress.update(bar, advance=1, description=f"{args.task}, {speed:.1f} x real time")
        except KeyboardInterrupt:
            progress.console.print("stopped; the same command goes on with what is missing")
            return 130
        except (BrokenProcessPool, OSError) as error:
            print(f"generate: {error}; finished episodes are kept, the same command goes on", file=sys.stderr)
            return 1
    facts = write_summary(args.out)
    successes = sum(f["outcome"] == "success" for f in facts)
    print(f"{len(facts)} episodes in {args.out}, {successes} of them successful; summary in {args.out / SUMMARY}")
    if todo:
        print(f"{simulated:.0f} s of robot time in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
